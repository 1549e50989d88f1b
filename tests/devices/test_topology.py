# SPDX-License-Identifier: Apache-2.0
"""Where devices stand in the mesh: rings on TPU slices that are not here, slices apart on `data`, and the same step."""

from __future__ import annotations

import dataclasses
import itertools
import types

import jax
import numpy as np
import pytest
import small
from jax.experimental import mesh_utils

from t1jax.config import ConfigError, MeshConfig
from t1jax.devices import sharding, topology
from t1jax.training import stages
from t1jax.training.setup import rl_setup

KINDS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite", "tpu7x": "TPU7x"}
ALL = (True, True, True)


def chips(name: str, slices: int = 1):
    """Stand-ins for the devices of a slice, such as v5p:4x4x8, in the order of jax.devices(): host by host.

    A host has 2 x 2 chips, a chip of tpu7x two devices.
    """
    kind, _, shape = name.partition(":")
    x, y, z = [*map(int, shape.split("x")), 1][:3]
    hosts = itertools.product(range(z), range(0, y, 2), range(0, x, 2))
    places = [(a + i, b + j, c) for c, b, a in hosts for j in range(2) for i in range(2)]
    cores = 2 if kind == "tpu7x" else 1
    return tuple(
        types.SimpleNamespace(
            platform="tpu", device_kind=KINDS[kind], coords=list(place), core_on_chip=core, id=number, slice_index=part
        )
        for part in range(slices)
        for number, (place, core) in enumerate(itertools.product(places, range(cores)))
    )


def arranged(name, shape, slices=1):
    return topology.arrange(shape, chips(name, slices), 0)


def given(name, shape):
    return np.asarray(chips(name)).reshape(shape)


def rounded(hops):
    return tuple(None if x is None else round(x, 2) for x in hops)


@pytest.mark.parametrize(
    ("name", "shape", "before", "after"),
    [
        ("v5p:4x4x8", (1, 16, 8), (2.50, 1.50), (1.25, 1.00)),
        ("v5p:4x4x4", (1, 16, 4), (3.25, 1.50), (1.25, 1.00)),
        ("v6e:8x8", (1, 8, 8), (5.00, 1.75), (1.00, 1.00)),
        ("v6e:8x8", (1, 16, 4), (2.50, 1.50), (1.50, 1.50)),  # from here on, a side is split between two axes
        ("v5e:16x16", (1, 32, 8), (4.50, 1.75), (1.50, 1.75)),
        ("v5e:4x4", (1, 8, 2), (2.00, 1.00), (1.50, 1.00)),
    ],
)
def test_neighbours_are_nearer_than_in_the_order_of_jax(name, shape, before, after):
    """With all sides rings, so that what is compared is the order alone."""
    assert rounded(topology.hops(given(name, shape), ALL)) == (None, *before)
    assert rounded(topology.hops(arranged(name, shape), ALL)) == (None, *after)


@pytest.mark.parametrize(
    ("name", "shape", "hops"),
    [
        ("v6e:8x8", (1, 8, 8), (None, 1.75, 1.75)),  # 7 single hops and 7 back
        ("v5e:4x4", (2, 4, 2), (2.0, 1.5, 1.0)),
        ("v5e:2x2", (1, 4, 1), (None, 1.0, None)),  # a ring of four chips
        ("v5e:2x4", (1, 4, 2), (None, 1.5, 1.0)),  # mesh_utils' own order: 2.0
        ("v5p:2x2x4", (1, 4, 4), (None, 1.5, 1.5)),
        ("tpu7x:4x4x4", (1, 16, 8), (None, 1.25, 0.5)),  # two devices on a chip
        ("v4:4x4x4", (1, 16, 4), (None, 1.25, 1.0)),
    ],
)
def test_hops_by_the_links_that_there_are(name, shape, hops):
    assert rounded(topology.hops(arranged(name, shape))) == hops


@pytest.mark.parametrize("name", ["v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v6e:8x16", "v5p:2x2x4", "tpu7x:2x2x1"])
def test_no_order_has_more_hops_than_that_of_jax_and_each_device_has_one_place(name):
    devices = chips(name)
    for tensor in (n for n in (1, 2, 4, 8) if n <= len(devices)):
        for data in (n for n in (1, 2) if n * tensor <= len(devices)):
            shape = (data, len(devices) // tensor // data, tensor)
            array = arranged(name, shape)
            assert array.shape == shape and sorted(x.id for x in array.flat) == list(range(len(devices)))
            here, there = (sum(x or 0 for x in topology.hops(a)) for a in (array, given(name, shape)))
            assert here <= there


@pytest.mark.parametrize(
    ("name", "rings"),
    [
        ("v5e:16x16", (True, True, False)),
        ("v6e:8x16", (False, True, False)),
        ("v5e:8x8", (False, False, False)),
        ("v5p:4x4x8", ALL),
        ("v4:4x4x4", ALL),
        ("v5p:2x4x4", (False, False, False)),
    ],
)
def test_sides_of_16_are_rings_on_flat_slices_and_cubes_on_others(name, rings):
    assert topology.wraps(chips(name)) == rings


def test_hops_by_hand():
    """A row of four chips, 0 2 1 3: 2 + 1 + 2 links and 3 back, or 1 around a ring."""
    row = [types.SimpleNamespace(platform="tpu", device_kind="TPU v4", coords=[x, 0, 0]) for x in (0, 2, 1, 3)]
    array = np.asarray(row).reshape(1, 4, 1)
    assert topology.hops(array, (False, False, False)) == (None, 2.0, None)
    assert topology.hops(array, ALL) == (None, 1.5, None)
    assert topology.hops(np.asarray(jax.devices()).reshape(1, 8, 1)) == (None, None, None)  # CPUs have no links


def test_slices_follow_one_another_along_data_each_in_rings_of_its_own():
    shape, devices = (4, 2, 2), chips("v5e:2x4", 2)
    mixed = [device for pair in zip(devices[8:], devices[:8], strict=True) for device in pair]
    array = topology.arrange(shape, mixed, 0)
    assert [[x.slice_index for x in row.flat] for row in array] == [[0] * 4, [0] * 4, [1] * 4, [1] * 4]
    one = topology.arrange((2, 2, 2), devices[:8], 0)
    assert [x.coords for x in array[:2].flat] == [x.coords for x in one.flat]
    assert rounded(topology.hops(array))[1:] == rounded(topology.hops(one))[1:]
    assert rounded(topology.hops(topology.arrange((2, 4, 2), devices, 0)))[0] is None  # all of data over the network


@pytest.mark.parametrize("shape", [(2, 16, 8), (4, 8, 8), (8, 8, 4)])
def test_several_slices_are_as_jax_arranges_them(shape):
    devices = chips("v5p:4x4x8", 2)
    theirs = mesh_utils.create_hybrid_device_mesh(
        (shape[0] // 2, *shape[1:]), (2, 1, 1), devices, allow_split_physical_axes=True
    )
    assert (topology.arrange(shape, devices, 2) == theirs).all()


@pytest.mark.parametrize(
    ("shape", "slices", "found", "said"),
    [
        ((1, 4, 2), 0, 2, r"mesh\.data is 1 on 2 slices of 4 devices, so mesh\.fsdp = 4 or .*expected a multiple of 2"),
        ((3, 2, 1), 2, 2, r"set mesh\.data=2, and mesh\.fsdp=-1 for the rest of a slice"),
        (
            (2, 2, 2),
            4,
            2,
            r"mesh\.slices is 4, but the 8 devices are of 2 slices, by their slice_index; expected 2, or",
        ),
        (
            (2, 2, 2),
            2,
            1,
            r"mesh\.slices is 2, but the 8 devices are of 1 slice, by .*; expected 1, or 0 to go by that",
        ),
        ((2, 2, 2), 1, 2, r"mesh\.slices is 1, but the 8 devices are of 2 slices"),
    ],
)
def test_what_slices_do_not_fit_is_refused_by_the_knob(shape, slices, found, said):
    devices = jax.devices()[: int(np.prod(shape))]
    with pytest.raises(ConfigError, match=said):
        sharding.make_mesh(MeshConfig(*shape, slices), devices, lambda device: device.id * found // len(devices))


def test_a_run_is_refused_before_it_writes_anything(tmp_path):
    cfg = dataclasses.replace(small.make_config(), mesh=MeshConfig(2, 2, 2, slices=2))
    with pytest.raises(ConfigError, match=r"mesh\.slices is 2, but the 8 devices are of 1 slice"):
        stages.run(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_slices_of_different_sizes_and_holes_are_refused():
    with pytest.raises(ConfigError, match=r"different numbers of devices \(slice 0: 3, slice 1: 5\)"):
        sharding.make_mesh(MeshConfig(2, 4, 1), None, lambda device: int(device.id > 2))
    with pytest.raises(
        ConfigError, match=r"the 4 TPU devices are no whole box .*unset what hides some, such as TPU_VIS"
    ):
        topology.arrange((1, 2, 2), chips("v5p:4x4x4")[2:6], 0)


def test_only_tpus_tell_their_slice_unless_it_is_asked_for():
    """A GPU's slice is a machine, and fsdp may span machines."""
    gpus = [types.SimpleNamespace(platform="gpu", slice_index=i // 2, id=i) for i in range(4)]
    assert topology.arrange((1, 4, 1), gpus, 0).ravel().tolist() == gpus
    assert topology.arrange((1, 4, 1), gpus, 1).ravel().tolist() == gpus
    assert topology.arrange((2, 2, 1), gpus[::-1], 2)[:, 0, 0].tolist() == [gpus[1], gpus[3]]
    with pytest.raises(ConfigError, match=r"mesh\.data is 1 on 2 slices"):
        topology.arrange((1, 4, 1), gpus, 2)
    with pytest.raises(ConfigError, match=r"mesh\.data is 1 on 2 slices of 8 devices"):
        topology.arrange((1, 8, 2), chips("v5e:2x4", 2), 0)


def test_cpus_stay_in_their_order():
    assert list(sharding.make_mesh(MeshConfig(2, 2, 2)).devices.flat) == jax.devices()
    backwards = jax.devices()[::-1]
    assert list(sharding.make_mesh(MeshConfig(1, 4, 2), backwards).devices.flat) == backwards


@pytest.mark.parametrize("shape", [(2, 2, 2), pytest.param((4, 2, 1), marks=pytest.mark.slow)])
def test_a_step_on_two_slices_is_that_of_one(shape):
    """2 x 4 CPU devices, of which the odd ones are the second slice; the same prompts, weights and random numbers."""
    cfg = small.make_config()
    mesh = sharding.make_mesh(MeshConfig(*shape, 2), None, lambda device: device.id % 2)
    ids = np.vectorize(lambda device: device.id)(mesh.devices)
    assert (ids[: shape[0] // 2] % 2 == 0).all() and (ids[shape[0] // 2 :] % 2 == 1).all()
    split, plain = small.Fused(rl_setup(cfg, mesh), small.Recorder()), small.fused((2, 2, 2))
    (state, (report,)), (expected, (expected_report,)) = (x.run(x.start(), range(1)) for x in (split, plain))
    for name, value in expected_report.items():
        np.testing.assert_allclose(report[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
        small.to_numpy(state.params),
        small.to_numpy(expected.params),
    )

# SPDX-License-Identifier: Apache-2.0
"""Several processes compute what one with as many devices does, whatever shards they hold; if not, they notice."""

from __future__ import annotations

import itertools
import types
from typing import Any

import adapting
import jax
import numpy as np
import pytest
import several
import small
import weight_folders

from t1jax import config
from t1jax.devices import multihost, sharding
from t1jax.host.progress import Progress
from t1jax.host.stopping import EXIT_FAILED, Stopped
from t1jax.model import qwen
from t1jax.rollouts.generate import Generator
from t1jax.training import replicas, sft, step
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.scoring import make_score
from t1jax.training.setup import rl_setup, sft_setup
from t1jax.types import Rollouts
from t1jax.weights import arrays, conversion, orbax_arrays
from t1jax.weights import load as weights

STEPS, P, R = 2, 4, 2
KNOBS = {
    "model__num_kv_heads": 4,
    "rl__prompts_per_step": P,
    "rl__responses_per_prompt": R,
    "rl__max_new_tokens": 8,
    "rl__window": 8,
    "sft__batch_size": 4,
    "eval__batch_size": 4,
}
LORA = {"model__lora_rank": 4}
LORA_BESIDE_MOE = small.MOE | LORA | {"model__lora_targets": "attention"}


def test_one_process_is_the_main_one_and_is_asked_everything():
    assert multihost.is_main()
    multihost.barrier("alone")
    assert multihost.divided(lambda part: [10 * x for x in (1, 2, 3)[part]], 3) == [10, 20, 30]
    assert multihost.divided(lambda part: [], 0) == []
    assert multihost.different({"a": 1, "b": [None]}) == []


def test_rows_are_split_over_data_and_fsdp_and_come_back_whole():
    layout = sharding.train_layout(small.make_mesh((2, 2, 2)))
    rows = {"a": np.arange(16).reshape(8, 2), "b": np.arange(8) % 2 == 0}
    batch = multihost.global_batch(rows, layout)
    assert batch["a"].sharding.is_equivalent_to(layout.sharding("batch", None), 2)
    firsts = {tuple(s.data[:, 0].tolist()) for s in batch["a"].addressable_shards}
    assert firsts == {(0, 2), (4, 6), (8, 10), (12, 14)}
    back = multihost.to_host(batch)
    jax.tree.map(np.testing.assert_array_equal, back, rows)
    assert all(isinstance(x, np.ndarray) for x in back.values())


@pytest.mark.parametrize(
    ("shape", "order", "fed", "said"),
    [
        ((1, 2, 2), (0, 1, 2, 3), ((0,), (1,)), "2 shards of the batch, 2 processes: 0 from 0, 1 from 1"),
        ((1, 1, 4), (0, 1, 2, 3), ((0, 1),), "1 shard of the batch, 2 processes; a shard is fed by up to 2 processes"),
        ((2, 1, 2), (0, 2, 1, 3), ((0, 1), (0, 1)), "the same rows from each: 0 from 0 1, 1 from 0 1"),
        ((2, 2, 1), (3, 1, 2, 0), ((1,), (0,), (1,), (0,)), "4 shards of the batch, 2 processes: 0 from 1, 1 from 0"),
    ],
)
def test_who_feeds_a_shard_is_read_from_the_mesh_whatever_the_order_of_its_devices(shape, order, fed, said):
    """Two processes of two devices, in the order that a mesh may have put them."""
    devices = [jax.devices()[i] for i in order]
    layout = sharding.train_layout(sharding.make_mesh(config.MeshConfig(*shape), devices))
    found = multihost.feeders(layout, lambda device: device.id // 2)
    assert found == fed and said in multihost.describe(found)


@pytest.mark.parametrize(
    ("shape", "process_of", "places"),
    [
        ((1, 4, 2), lambda n: n // 4 + 2 * (n % 2), [[0, 1, 0, 1]]),  # first devices on processes 0 0 1 1 of four
        ((2, 2, 2), lambda n: n % 2, [[0, 1], [0, 1]]),  # a process each for the two of a group
        ((1, 2, 4), lambda n: n // 4, [[0, 0]]),
        ((2, 2, 2), lambda n: 0, [[0, 0], [0, 0]]),  # one process: the first of each group, as ever
    ],
)
def test_processes_share_the_shards_that_are_asked_about(shape, process_of, places):
    layout = sharding.train_layout(small.make_mesh(shape))
    found = multihost.askers(layout, lambda device: process_of(device.id))
    assert found.dtype == np.int32 and found.tolist() == places


def test_the_host_is_asked_once_about_a_shard_by_whichever_device(monkeypatch):
    """The second of two devices asks for the first and last of four shards."""
    mesh, scorer = small.make_mesh((1, 4, 2)), small.Recorder()
    prompts, B = small.prompt_rows(), small.P * small.R
    tokens = np.arange(B * small.T, dtype=np.int32).reshape(B, small.T) % small.V
    rollouts = Rollouts(tokens, tokens >= 0, 0.0 * tokens, 0.0 * tokens, tokens[:, 0] > 20)

    def scored():
        score = jax.jit(make_score(rl_setup(small.make_config(), mesh), scorer))
        return small.to_numpy(score(*(small.on_devices(rows, mesh) for rows in (prompts, rollouts)))), scorer.rows()

    expected = scored()
    monkeypatch.setattr(multihost, "askers", lambda layout: np.array([[1, 0, 0, 1]], np.int32))
    jax.tree.map(np.testing.assert_array_equal, scored(), expected)
    assert len(expected[1][0]) == B


def with_one_changed(place: tuple[int, ...]) -> jax.Array:
    """[8, 2] over a mesh (2, 2, 2), of which one device holds another number at `place` of its part."""
    held = sharding.train_layout(small.make_mesh((2, 2, 2))).sharding("batch")
    x = np.arange(16, dtype=np.float32).reshape(8, 2)
    parts = [np.array(x[index]) for index in held.addressable_devices_indices_map(x.shape).values()]
    parts[5][place] = np.nextafter(parts[5][place], np.float32(99))
    devices = held.addressable_devices_indices_map(x.shape)
    arrays = [jax.device_put(part, device) for part, device in zip(parts, devices, strict=True)]
    return jax.make_array_from_single_device_arrays(x.shape, held, arrays)


def test_a_replica_that_differs_in_one_bit_is_found_and_named():
    mesh = small.make_mesh((2, 2, 2))
    prompts = small.on_devices(small.prompt_rows(), mesh)
    replicas.refuse_different(mesh, batch=prompts)
    with pytest.raises(
        Stopped, match=r"batch\['x'\], of shape \[8, 2\]: device 4 .* device 5 .*hold different \[4:6, 0:2\]"
    ) as error:
        replicas.refuse_different(mesh, prompts=prompts, batch={"x": with_one_changed((1, 0))})
    assert error.value.code == EXIT_FAILED


def test_digests_depend_on_where_bits_stand():
    x = np.arange(12, dtype=np.int32).reshape(3, 4)
    others = [
        x,
        x[::-1],
        x[:, ::-1],
        x.T.reshape(3, 4),
        x.astype(np.float32),
        x > 3,
        x + np.eye(3, 4, dtype=np.int32),
    ]
    assert len({int(replicas._digest(jax.numpy.asarray(other))) for other in others}) == len(others)


# several processes: one launch runs all of this on all meshes


def on_mesh(shape: tuple[int, int, int], knobs: dict[str, Any]) -> dict[str, Any]:
    """Two steps of RL, two of the cold start and some responses: their reports, and what this process's scorer saw."""
    cfg, mesh, scorer = small.make_config(**KNOBS | knobs), small.make_mesh(shape), small.Recorder()
    rank = cfg.model.lora_rank
    train_step = step.make_train_step(rl_setup(cfg, mesh), scorer, stop_tokens=small.STOPS)
    sft_step = sft.make_sft_step(sft_setup(cfg, mesh))
    state = (adapting if rank else small).start(cfg, mesh)
    other = sft_setup(cfg, mesh).init_state((adapting.make_policy if rank else small.make_params)(cfg, mesh))
    reports: dict[str, list[Any]] = {"rl": [], "sft": []}
    for seed in range(STEPS):
        prompts = small.on_devices(jax.tree.map(lambda x: x[:P], small.prompt_rows(seed)), mesh)
        packed = small.on_devices(small.packed_rows(cfg, seed), mesh)
        replicas.refuse_different(mesh, state=state, batch=prompts)
        replicas.refuse_different(mesh, state=other, batch=packed)
        state, report = train_step(state, prompts)
        reports["rl"].append({name: float(value) for name, value in report.items()})
        other, report = sft_step(other, packed)
        reports["sft"].append({name: float(value) for name, value in report.items()})
    tokens: Any = types.SimpleNamespace(pad_id=0, stop_ids=small.STOPS)
    drawn = Generator(cfg, mesh, tokens)(state.policy, [[5, 6], [7], [8, 3, 2]], "test", length=4, new_tokens=6)
    problem, sampled_tokens, sampled, _ = scorer.rows() if scorer.calls else (np.zeros(0, int),) * 4
    asked = [[int(p), np.where(s, t, 0).tolist()] for p, t, s in zip(problem, sampled_tokens, sampled, strict=True)]
    return reports | {"drawn": drawn, "asked": asked}


def on_meshes(knobs: dict[str, Any], *shapes: tuple[int, int, int]) -> list[dict[str, Any]]:
    """`on_mesh` of each."""
    return [on_mesh(shape, knobs) for shape in shapes]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices", "shapes", "knobs"),
    [
        pytest.param(2, 1, [(1, 1, 2)], {}, id="2-1"),
        pytest.param(2, 2, [(1, 1, 4), (1, 2, 2), (2, 2, 1)], {}, id="2-2"),
        pytest.param(4, 1, [(1, 1, 4), (1, 2, 2)], {}, id="4-1"),
        pytest.param(4, 2, [(2, 1, 4)], {}, id="4-2"),
        pytest.param(2, 1, [(1, 1, 2)], LORA, id="2-1-lora"),
        pytest.param(2, 2, [(1, 2, 2)], LORA, id="2-2-lora"),
        pytest.param(2, 1, [(1, 1, 2)], small.MOE, id="2-1-experts"),
        pytest.param(2, 1, [(1, 1, 2)], LORA_BESIDE_MOE, id="2-1-lora-experts"),
    ],
)
def test_several_processes_do_what_one_with_as_many_devices_does(processes, devices, shapes, knobs):
    started = several.start("test_multihost.on_meshes", knobs, *shapes, processes=processes, devices=devices)
    (alone,) = several.said(
        several.start("test_multihost.on_meshes", knobs, *shapes, processes=1, devices=processes * devices)
    )
    for expected, *found in zip(alone, *several.said(started), strict=True):
        for each in found:
            assert (
                each["drawn"] == expected["drawn"] and each["rl"] == found[0]["rl"] and each["sft"] == found[0]["sft"]
            )
            for stage in ("rl", "sft"):
                for mine, theirs in zip(each[stage], expected[stage], strict=True):
                    for name, value in theirs.items():
                        np.testing.assert_allclose(mine[name], value, rtol=1e-4, atol=1e-4, err_msg=f"{stage} {name}")
        asked = sorted(response for each in found for response in each["asked"])
        assert asked == sorted(expected["asked"]) and len(asked) == STEPS * P * R  # each response once
        assert max(report["logprob_gap"] for report in found[0]["rl"]) < 1e-4


def together(*shapes: tuple[int, int, int]) -> dict[str, Any]:
    """What compiles in a moment: which responses the scorer is asked about; what is said of processes that differ."""
    said: dict[str, Any] = {"scored": []}
    index, count = jax.process_index(), jax.process_count()
    for shape in shapes:
        mesh, scorer = small.make_mesh(shape), small.Recorder()
        prompts = small.prompt_rows()
        B = small.P * small.R
        ones = np.ones((B, small.T), np.int32)
        rollouts = Rollouts(ones, ones > 0, 0.0 * ones, 0.0 * ones, ones[:, 0] > 0)
        score = jax.jit(make_score(rl_setup(small.make_config(), mesh), scorer))
        scores, _ = score(*(small.on_devices(rows, mesh) for rows in (prompts, rollouts)))
        assert (multihost.to_host(scores.outcome_B) == 1).all()
        said["scored"].append([int(problem) for call in scorer.take() for problem in call[0]])
        if shape[2] > 1:  # a shard of the batch on several processes: other prompts from each
            with pytest.raises(Stopped) as error:
                replicas.refuse_different(mesh, batch=small.on_devices(small.prompt_rows(index), mesh))
            said["refused"] = str(error.value)
    assert multihost.least(3 * 2**40 - 5 * index) == 3 * 2**40 - 5 * (count - 1)
    said["different"] = multihost.different({"seed": index, "same": [1, None]})
    said["asked"] = []
    answers = multihost.divided(lambda part: said["asked"].extend(range(7)[part]) or range(0, 70, 10)[part], 7)
    assert answers == list(range(0, 70, 10))
    return said


def test_two_processes_score_each_response_once_and_notice_if_they_differ():
    shapes = [(1, 1, 2), (1, 2, 1)]
    said = several.said(several.start("test_multihost.together", *shapes, processes=2, devices=1))
    each_once = sorted(list(range(100, 100 + small.P)) * small.R)
    for number in range(len(shapes)):
        assert sorted(problem for each in said for problem in each["scored"][number]) == each_once
    for each in said:
        who = "device 0 of process 0 and device 2048 of process 1 hold different [0:8, 0:7]"
        assert "batch.tokens_PC, of shape [8, 7]: " + who in each["refused"] and each["different"] == ["seed"]
    assert sorted(x for each in said for x in each["asked"]) == list(range(7))


def spread() -> list[int]:
    """The problems that this process is asked about, where both tensor groups have a device of each process."""
    devices = [jax.devices()[i] for i in (0, 2, 1, 3)]
    mesh, scorer = sharding.make_mesh(config.MeshConfig(1, 2, 2), devices), small.Recorder()
    B = small.P * small.R
    ones = np.ones((B, small.T), np.int32)
    rows = (small.prompt_rows(), Rollouts(ones, ones > 0, 0.0 * ones, 0.0 * ones, ones[:, 0] > 0))
    score = jax.jit(make_score(rl_setup(small.make_config(), mesh), scorer))
    scores, _ = score(*(small.on_devices(x, mesh) for x in rows))
    assert (multihost.to_host(scores.outcome_B) == 1).all()
    return [int(problem) for call in scorer.take() for problem in call[0]]


@pytest.mark.slow
def test_two_processes_that_hold_all_shards_judge_half_of_them_each():
    one, two = (sorted(set(x)) for x in several.said(several.start("test_multihost.spread", processes=2, devices=2)))
    half = small.P // 2
    assert [one, two] == [list(range(100, 100 + half)), list(range(100 + half, 100 + small.P))]


# checkpoints and weights


def move(read: str, write: str) -> list[float]:
    """Restores the state saved in one folder and saves it in another; the sums of its arrays, and its stream."""
    cfg, mesh = small.make_config(**KNOBS), small.make_mesh((1, 1, 2))
    nobody: Any = types.SimpleNamespace(save=lambda folder: None)
    stream: Any = types.SimpleNamespace(set_state=lambda state: seen.append(state["next_index"]))
    seen: list[float] = []
    shapes = rl_setup(cfg, mesh).state_shapes()
    with Checkpoints(read, cfg, nobody) as there, Checkpoints(write, cfg, nobody) as here:
        state = there.restore(shapes, stream)
        if state is None:
            state = small.start(cfg, mesh)
        replicas.refuse_different(mesh, state=state)
        here.save(3, state, {"next_index": 3})
        here.wait()
    return [float(jax.numpy.sum(x)) for x in jax.tree.leaves(state)] + seen


def test_a_checkpoint_moves_from_one_process_to_two_and_back(tmp_path):
    folders = [str(tmp_path / name) for name in ("none", "one", "two", "back")]
    numbers = [
        several.said(several.start("test_multihost.move", *each, processes=processes, devices=2 // processes))
        for processes, each in zip((1, 2, 1), itertools.pairwise(folders), strict=True)
    ]
    (first,), two, (back,) = numbers
    assert two[0] == two[1] == back and back[-1] == 3
    np.testing.assert_allclose(back[:-1], first, rtol=1e-6)


def load(*folders: str) -> list[dict[str, Any]]:
    """Loads each folder on two processes of two devices; what this one read and got."""
    mesh = small.make_mesh((1, 4, 1))
    read: list[int] = []
    for array in (arrays._Stacked, orbax_arrays.StoredArray):

        def counting(self, index, original=array.read):
            part = original(self, index)
            read.append(part.size)
            return part

        array.read = counting
    found = []
    for folder in folders:
        source = weights.find(folder)
        model = qwen.Transformer(weights.model_config(source, small.make_config().model), sharding.train_layout(mesh))
        read.clear()
        params = weights.load(source, model)
        sums = [np.sum([shard.data for shard in x.addressable_shards], dtype=float) for x in jax.tree.leaves(params)]
        found.append({"read": sum(read), "all": sum(x.size for x in jax.tree.leaves(params)), "sums": sums})
    return found


def test_each_of_two_processes_reads_only_its_share_of_the_weights(tmp_path):
    weight_folders.write(tmp_path / "hf", "qwen3", shards=2)
    conversion.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    folders = (str(tmp_path / "hf"), str(tmp_path / "orbax"))
    said = several.said(several.start("test_multihost.load", *folders, processes=2, devices=2))
    source, mesh = weights.find(tmp_path / "hf"), small.make_mesh()
    model = qwen.Transformer(weights.model_config(source, small.make_config().model), sharding.train_layout(mesh))
    whole = [np.sum(np.asarray(x), dtype=float) for x in jax.tree.leaves(weights.load(source, model))]
    for first, second in zip(*said, strict=True):
        for one in (first, second):
            assert 0.5 * one["all"] < one["read"] < 0.52 * one["all"]  # norms of a head are not split
        split = [abs(a - b) > 1e-9 for a, b in zip(first["sums"], second["sums"], strict=True)]
        assert sum(split) >= len(whole) - 2
        for a, b, both, is_split in zip(first["sums"], second["sums"], whole, split, strict=True):
            np.testing.assert_allclose(a + b if is_split else a / 2, both, rtol=1e-6, atol=1e-6)

# SPDX-License-Identifier: Apache-2.0
"""Arrays written piece by piece are an ordinary Orbax folder in small chunks; damage is told."""

from __future__ import annotations

import json

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small
from jax.sharding import NamedSharding, PartitionSpec

from t1jax.config import ConfigError
from t1jax.weights import orbax_arrays
from t1jax.weights.orbax_arrays import NewArray

random = np.random.default_rng(0)
ARRAYS = {
    ("embedding",): random.normal(0, 1, (96, 32)).astype(np.float32),
    ("layers", "q"): random.normal(0, 1, (3, 64, 4, 8)).astype(ml_dtypes.bfloat16),
    ("layers", "norm"): random.normal(0, 1, (3, 64)).astype(np.float16),
}


def new(x, asked=None):
    def pieces(chunk):
        if asked is not None:
            asked.append(chunk)
        for start in range(0, len(x), chunk[0]):
            yield (slice(start, start + chunk[0]),), x[start : start + chunk[0]]

    return NewArray(x.shape, x.dtype, pieces)


def write(folder):
    orbax_arrays.write_arrays(folder, {path: new(x) for path, x in ARRAYS.items()})
    return folder


def test_plain_orbax_restores_it_onto_any_devices(tmp_path):
    write(tmp_path / "a")
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(tmp_path / "a")
        mesh, specs = small.make_mesh((2, 2, 2)), {2: (None, "tensor"), 4: (None, "fsdp", "tensor")}
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec(*specs[x.ndim]))
            ),
            tree,
        )
        sharded = checkpointer.restore(tmp_path / "a", target)
    for path, x in ARRAYS.items():
        plain, placed = tree, sharded
        for key in path:
            plain, placed = plain[key], placed[key]
        assert plain.dtype == placed.dtype == x.dtype
        assert plain.tobytes() == np.asarray(placed).tobytes() == x.tobytes()
    assert sharded["layers"]["q"].addressable_shards[0].data.shape == (3, 32, 2, 8)


def test_any_part_is_read_by_itself(tmp_path):
    found = orbax_arrays.open_arrays(write(tmp_path / "a"))
    assert found.keys() == ARRAYS.keys()
    q, x = found["layers", "q"], ARRAYS["layers", "q"]
    assert (q.shape, q.dtype) == (x.shape, x.dtype)
    part = q.read((slice(1, 3), slice(5, 9), slice(None), slice(0, 3)))
    assert part.tobytes() == x[1:3, 5:9, :, 0:3].tobytes()
    assert orbax_arrays.open_arrays(tmp_path / "a", "layers").keys() == {("q",), ("norm",)}


def test_chunks_are_small_and_of_one_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_arrays, "CHUNK", 1 << 10)
    asked = []
    orbax_arrays.write_arrays(tmp_path / "a", {path: new(x, asked) for path, x in ARRAYS.items()})
    found = orbax_arrays.open_arrays(tmp_path / "a")
    for path, x in ARRAYS.items():
        chunk = found[path].store.chunk_layout.read_chunk.shape
        assert chunk in asked
        assert np.prod(chunk) * x.dtype.itemsize <= 1 << 10
        assert chunk[0] == 1 or len(path) == 1
        assert found[path].read((slice(None),)).tobytes() == x.tobytes()
    assert np.prod(found["layers", "q"].store.chunk_layout.read_chunk.shape) >= 256  # and not smaller than need be


def damage(folder, kind):
    if kind == "metadata":
        (folder / "_METADATA").write_text("{")
    elif kind == "no metadata":
        (folder / "_METADATA").unlink()
    elif kind == "other metadata":
        tree = json.loads((folder / "_METADATA").read_text())
        tree["tree_metadata"] = [1, 2]
        (folder / "_METADATA").write_text(json.dumps(tree))
    elif kind == "no manifest":
        (folder / "manifest.ocdbt").unlink()
    else:
        for file in folder.glob("**/d/*"):
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2] if kind == "truncated" else bytes(len(content)))


@pytest.mark.parametrize("kind", ["metadata", "no metadata", "other metadata", "no manifest", "truncated", "zeros"])
def test_damage_is_told_in_one_line(tmp_path, kind):
    damage(write(tmp_path / "a"), kind)
    with pytest.raises(ConfigError) as caught:
        for array in orbax_arrays.open_arrays(tmp_path / "a").values():
            array.read((slice(None),) * len(array.shape))
    message = str(caught.value)
    assert f"{tmp_path}/a: cannot read" in message and message.endswith("expected a whole Orbax folder")
    assert "\n" not in message and len(message) < 500

# SPDX-License-Identifier: Apache-2.0
"""Safetensors files against the format's own library; reading a slice costs a slice; links stay inside."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import weight_folders as folders
from safetensors import safe_open

from t1jax.config import ConfigError
from t1jax.weights import safetensors_files, safetensors_writing
from t1jax.weights.safetensors_writing import NewTensor

BF16 = np.dtype(ml_dtypes.bfloat16)


def make(dtype=np.float32):
    random = np.random.default_rng(0)
    shapes = {"b.weight": (7, 5), "a.bias": (3,), "c": (2, 3, 4), "empty": (0, 4)}
    return {name: random.normal(0, 1, shape).astype(dtype) for name, shape in shapes.items()}


def new(content, step=2):
    """To be written a few rows at a time."""

    def pieces(x):
        for start in range(0, len(x), step):
            yield np.ascontiguousarray(x[start : start + step])

    return [NewTensor(name, x.dtype, x.shape, lambda x=x: pieces(x)) for name, x in content.items()]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16], ids=str)
@pytest.mark.parametrize("max_bytes", [10**9, 100, 1])
def test_the_library_reads_what_is_written_and_the_other_way_round(tmp_path, dtype, max_bytes):
    content = make(dtype)
    safetensors_writing.write_tensors(tmp_path, new(content), max_bytes)
    folders.same(folders.read(tmp_path), content)
    files = sorted(tmp_path.glob("*.safetensors"))
    if max_bytes == 10**9:
        assert [path.name for path in files] == ["model.safetensors"] and len(list(tmp_path.iterdir())) == 1
    else:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(x.nbytes for x in content.values())
        assert set(index["weight_map"].values()) == {path.name for path in files}
        assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
        for path in files:
            with safe_open(path, "numpy") as file:
                sizes = [file.get_tensor(name).nbytes for name in file.keys()]
                assert sum(sizes) <= max_bytes or sum(size > 0 for size in sizes) == 1
    for path in files:
        with safe_open(path, "numpy") as file:
            assert file.metadata() == {"format": "pt"}
    found = safetensors_files.open_tensors(tmp_path)
    folders.same({name: np.array(t.view()) for name, t in found.items() if t.shape[0]}, without_empty(content))
    assert found["empty"].shape == (0, 4)

    other = tmp_path / "other"
    folders.write(other, "qwen3", dtype, shards=1 if max_bytes == 10**9 else 3)
    folders.same(
        {name: np.array(t.view()) for name, t in safetensors_files.open_tensors(other).items()}, folders.read(other)
    )


def without_empty(content):
    return {name: x for name, x in content.items() if x.size}


def test_pieces_that_do_not_add_up_are_refused(tmp_path):
    short = NewTensor("a", np.dtype(np.float32), (4,), lambda: iter([np.zeros(3, np.float32)]))
    with pytest.raises(ValueError, match="a has 12 bytes; expected 16"):
        safetensors_writing.write_tensors(tmp_path, [short], 100)


def test_shards_are_filled_in_order():
    sizes = [3, 3, 9, 1, 5, 5, 10]
    content = new({f"{i}": np.zeros(size, np.uint8).view(np.int8) for i, size in enumerate(sizes)})
    assert [[t.nbytes for t in part] for part in safetensors_writing.shards(content, 9)] == [
        [3, 3],
        [9],
        [1, 5],
        [5],
        [10],
    ]
    assert safetensors_writing.shards(content, 1000) == [content]


@pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(),
    reason="/proc/self/smaps is missing, which tells which pages are resident: run it on Linux",
)
def test_a_slice_touches_its_own_pages_only_and_they_go_with_the_view(tmp_path):
    """64 MB of zeros that no disk holds, from which 1 % is read."""
    rows, width = 4096, 4096
    header = {"big": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, rows * width * 4]}}
    path = tmp_path / "model.safetensors"
    folders.raw(path, header)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + rows * width * 4)

    def resident():
        """kB of the file that this process holds."""
        _, found, rest = Path("/proc/self/smaps").read_text().partition(str(path))
        return int(re.search(r"Rss: +(\d+) kB", rest)[1]) if found else 0

    view = safetensors_files.open_tensors(tmp_path)["big"].view()
    assert resident() < 100
    assert not np.array(view[100:141]).any()
    assert 600 < resident() < 1500
    assert not np.array(view).any()
    assert resident() >= 64 * 1024
    del view
    assert resident() == 0


def test_links_inside_the_folder_and_the_hubs_cache_are_followed_and_no_others(tmp_path):
    outside = tmp_path / "outside"
    content = folders.write(outside, "llama")
    inside = tmp_path / "inside"
    inside.mkdir()
    (outside / "model.safetensors").rename(inside / "weights")
    (inside / "model.safetensors").symlink_to("weights")
    assert safetensors_files.open_tensors(inside).keys() == content.keys()

    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (inside / "weights").rename(cache / "blobs" / "9f8e")
    (snapshot / "model.safetensors").symlink_to("../../blobs/9f8e")
    assert safetensors_files.open_tensors(snapshot).keys() == content.keys()

    shared = tmp_path / "blobs" / "7c"  # where models have a file in common, a blob is a link in its turn
    shared.mkdir(parents=True)
    (cache / "blobs" / "9f8e").rename(shared / "7c6b")
    (cache / "blobs" / "9f8e").symlink_to("../../blobs/7c/7c6b")
    assert safetensors_files.open_tensors(snapshot).keys() == content.keys()

    (outside / "model.safetensors").symlink_to(cache / "blobs" / "9f8e")
    with pytest.raises(ConfigError, match=r"outside/model.safetensors is a link to .*7c6b; expected a file inside"):
        safetensors_files.open_tensors(outside)


def test_errors_stay_short_and_on_one_line(tmp_path):
    """Names are a stranger's: thousands of them, long ones, with line breaks and escape codes."""
    names = ["\x1b[2J\n" + "x" * 10_000 + str(i) for i in range(3000)]
    folders.raw(tmp_path / "model.safetensors", {name: {"dtype": "F8", "shape": []} for name in names})
    with pytest.raises(ConfigError) as caught:
        safetensors_files.open_tensors(tmp_path)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()
    assert safetensors_files.several(f"{i}" for i in range(8)) == "'0', '1', '2', '3', '4' and 3 more"

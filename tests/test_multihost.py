# SPDX-License-Identifier: Apache-2.0
"""Batches of one process and of two; a step of two processes, each of which scores its own rows."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import small
import weight_folders
from small import ONE, P, R

from t1jax import convert, multihost, sharding, stored, weights
from t1jax.model import qwen
from t1jax.progress import Progress

STEPS = 2
SAYS = "said: "  # before what a process has to say: libraries print lines of their own


def test_one_process_is_the_main_one_and_reads_everything():
    assert multihost.is_main()
    assert multihost.share() == {"process_index": 0, "process_count": 1}
    multihost.barrier("alone")


def test_rows_are_split_over_data_and_fsdp_and_come_back_whole():
    layout = sharding.train_layout(small.make_mesh((2, 2, 2)))
    rows = {"a": np.arange(16).reshape(8, 2), "b": np.arange(8) % 2 == 0}
    for make in (multihost.global_batch, multihost.shared_batch):
        batch = make(rows, layout)
        assert batch["a"].sharding.is_equivalent_to(layout.sharding("batch", None), 2)
        firsts = {tuple(s.data[:, 0].tolist()) for s in batch["a"].addressable_shards}
        assert firsts == {(0, 2), (4, 6), (8, 10), (12, 14)}
        back = multihost.to_host(batch)
        jax.tree.map(np.testing.assert_array_equal, back, rows)
        assert all(isinstance(x, np.ndarray) for x in back.values())


def one_of_two(index: int, address: str) -> None:
    """What each of two processes does, two devices each: a few steps on its own prompts; prints what it saw."""
    jax.distributed.initialize(address, num_processes=2, process_id=index)
    assert multihost.share() == {"process_index": index, "process_count": 2} and len(jax.devices()) == 4
    assert multihost.is_main() == (index == 0)
    assert multihost.least(3 * 2**40 - 5 * index) == 3 * 2**40 - 5
    one = small.fused((2, 2, 1))
    layout = sharding.train_layout(one.mesh)
    state, reports = one.start(), []
    for seed in range(STEPS):
        rows = small.prompt_rows(seed)
        mine = jax.tree.map(lambda x: x[index * P // 2 : (index + 1) * P // 2], rows)
        prompts = multihost.global_batch(mine, layout)
        whole = multihost.to_host(prompts)
        jax.tree.map(np.testing.assert_array_equal, whole, rows)
        jax.tree.map(np.testing.assert_array_equal, multihost.to_host(multihost.shared_batch(rows, layout)), whole)
        state, report = one.step(state, prompts)
        reports.append({name: float(value) for name, value in report.items()})
    multihost.barrier("done")
    problem, tokens, sampled, _ = one.scorer.rows()
    seen = {"problem": problem, "tokens": np.where(sampled, tokens, 0)}
    print(SAYS + json.dumps({"reports": reports} | {name: x.tolist() for name, x in seen.items()}))


def loader_of_two(index: int, address: str, *folders: str) -> None:
    """What each of two processes does, two devices each: loads each folder; prints what it read and what it got."""
    jax.distributed.initialize(address, num_processes=2, process_id=index)
    mesh = small.make_mesh((1, 4, 1))
    read: list[int] = []
    for array in (weights._Stacked, stored.StoredArray):

        def counting(self, index, original=array.read):
            part = original(self, index)
            read.append(part.size)
            return part

        array.read = counting
    said = []
    for folder in folders:
        source = weights.find(folder)
        model = qwen.Transformer(weights.model_config(source, small.make_config().model), sharding.train_layout(mesh))
        read.clear()
        params = weights.load(source, model)
        sums = [np.sum([shard.data for shard in x.addressable_shards], dtype=float) for x in jax.tree.leaves(params)]
        said.append({"read": sum(read), "all": sum(x.size for x in jax.tree.leaves(params)), "sums": sums})
    multihost.barrier("done")
    print(SAYS + json.dumps(said))


def of_two(function: str, *arguments: str) -> list[Any]:
    """What a function of this file prints, as JSON, in each of two processes with two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": path}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"import test_multihost as t; t.{function}{(index, address, *arguments)!r}"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [process.communicate(timeout=500)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    # Before and after it on the same line may stand what gloo says, whose threads tear each other's lines.
    return [json.JSONDecoder().raw_decode(text.partition(SAYS)[2])[0] for text in said]


def test_each_of_two_processes_reads_only_its_share_of_the_weights(tmp_path):
    weight_folders.write(tmp_path / "hf", "qwen3", shards=2)
    convert.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    said = of_two("loader_of_two", str(tmp_path / "hf"), str(tmp_path / "orbax"))
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


def test_two_processes_score_their_own_rows_and_agree_with_one():
    first, second = of_two("one_of_two")
    assert first["reports"] == second["reports"]
    for seen, problems in ((first, range(100, 100 + P // 2)), (second, range(100 + P // 2, 100 + P))):
        assert seen["problem"] == [problem for problem in problems for _ in range(STEPS * R)]

    one = small.fused(ONE)
    one.scorer.take()
    _, reports = one.run(one.start(), range(STEPS))
    _, tokens, sampled, _ = one.scorer.rows()
    np.testing.assert_array_equal(np.concatenate([first["tokens"], second["tokens"]]), np.where(sampled, tokens, 0))
    for mine, theirs in zip(reports, first["reports"], strict=True):
        for name, value in mine.items():
            np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=1e-4, err_msg=name)

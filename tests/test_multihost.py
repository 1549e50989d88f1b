# SPDX-License-Identifier: Apache-2.0
"""Batches of one process and of two; a step of two processes, each of which scores its own rows."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import small
from small import ONE, P, R

from t1jax import multihost, sharding

STEPS = 2


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
    print(json.dumps({"reports": reports} | {name: x.tolist() for name, x in seen.items()}))


def test_two_processes_score_their_own_rows_and_agree_with_one():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": path}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"import test_multihost; test_multihost.one_of_two({index}, {address!r})"],
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
    first, second = (json.loads(text.splitlines()[-1]) for text in said)
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

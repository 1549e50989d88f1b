# SPDX-License-Identifier: Apache-2.0
"""What compilers say of a step's memory: libtpu's own words, and its buffer assignment as the judge."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from t1jax.planning import compiling
from t1jax.planning.slices import GIB

ROOT = Path(__file__).parents[2]


def test_a_tpus_memory_is_its_peak_and_that_of_others_their_temporaries():
    """qwen32b_lora on v5e:8x8, GiB, from libtpu 0.0.42; its buffer assignment takes 14.02, and fits."""
    sizes = {"argument": 1.45, "output": 1.45, "alias": 1.45, "temp": 15.87}
    stats = SimpleNamespace(
        **{f"{name}_size_in_bytes": int(size * GIB) for name, size in sizes.items()}, peak_memory_in_bytes=14 * GIB
    )
    arguments, temporaries = compiling.held(stats, "tpu")
    assert arguments == int(1.45 * GIB) and arguments + temporaries == 14 * GIB
    assert compiling.held(stats, "cuda") == (arguments, int(15.87 * GIB))


@pytest.mark.parametrize(
    ("said", "gib"),
    [
        ("Ran out of memory in memory space hbm. Used 17.25G of 15.75G hbm. Exceeded by 1.5G.", 17.25),
        ("Ran out of memory on HBM, the total memory required for HLO temporaries (23.45G) exceeds (15.75G).", 23.45),
        ("Ran out of memory", 0),
    ],
)
def test_what_a_compiler_wanted_is_read_from_its_words(said, gib):
    assert compiling.wanted(said) == int(gib * GIB)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: pip install '.[plan]'")
@pytest.mark.parametrize("rank", [0, 32])
def test_the_memory_of_a_tpu_is_what_its_buffer_assignment_takes(rank, tmp_path):
    """With and without LoRA; libtpu writes what it assigns where XLA_FLAGS says."""
    small = ["num_layers=4", "vocab_size=4096", f"lora_rank={rank}", "lora_alpha=32.0"]
    flags = ["--config=configs/qwen1p5b_lora.py", "--topology=v5e:1x1", "--json", "--config.rl.max_new_tokens=512"]
    done = subprocess.run(
        [sys.executable, "-m", "t1jax.plan", *flags, *(f"--config.model.{knob}" for knob in small)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (report,) = tmp_path.glob("*jit_train_step*memory-usage-report.txt")
    taken = int(re.search(r"Total bytes: (\d+)", report.read_text())[1])
    assert 0.95 * taken < found["argument_bytes_per_chip"] + found["temporary_bytes_per_chip"] <= 1.01 * taken

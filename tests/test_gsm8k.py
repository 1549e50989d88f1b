# SPDX-License-Identifier: Apache-2.0
"""The prepared run of a real model on GSM8K, at a tiny size: its stages, its end by the clock, its figures."""

from __future__ import annotations

import json

import pytest
from random_qwen import make_folder

from benchmarks import gsm8k

MODEL = {
    "num_layers": 1, "hidden_size": 32, "mlp_size": 48, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
    "qkv_bias": True, "rope_theta": 10000.0, "norm_eps": 1e-6, "compute_dtype": "float32",
}  # fmt: skip
KNOBS = (
    "sft.num_steps=2", "sft.sequence_length=192", "sft.batch_size=16", "sft.vocab_chunks=1", "rl.prompts_per_step=8",
    "rl.responses_per_prompt=2", "rl.max_new_tokens=12", "rl.window=12", "rl.micro_batches=1", "rl.vocab_chunks=1",
    "data.prompt_length=96", "eval.num_problems=4", "eval.batch_size=8", "eval.quick_problems=2", "checkpoint.every=2",
    "verifier.workers=1",
)  # fmt: skip


def test_a_solution_loses_the_calculators_marks_and_gains_a_box():
    row = {"question": "How many?", "answer": "2*3=<<2*3=6>>6 each.\nSo 1,000 in all.\n#### 1,000"}
    assert gsm8k.solution(row) == {
        "prompt": "How many?",
        "response": "2*3=6 each.\nSo 1,000 in all.\n\n\\boxed{1000}",
    }


@pytest.mark.slow
def test_the_whole_at_a_tiny_size_ends_by_the_clock_and_tells_its_figures(tmp_path, capsys):
    folder = make_folder(tmp_path / "hf")
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    for name, first in (("train", 1), ("test", 90)):
        rows = [
            {"question": f"what is {i} and one", "answer": f"one more.\n#### {i + 1}"} for i in range(first, first + 24)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = [f"--config.model.{name}={value}" for name, value in {**MODEL, "vocab_size": vocab}.items()]
    gsm8k.main(
        [
            f"--checkpoint={folder}", f"--train={tmp_path / 'train.jsonl'}", f"--test={tmp_path / 'test.jsonl'}",
            f"--out={tmp_path / 'out'}", "--minutes=1.5", "--limit=4", *sizes, *(f"--config.{knob}" for knob in KNOBS),
        ]
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 2 < found["steps"] < 500 and found["run_seconds"] < 110
    for name in ("cold start, sampled", "cold start, greedy", "RL, sampled", "RL, greedy"):
        assert found[name]["problems"] == 4 and found[name]["response_length"]["value"] > 0
    assert found["flops a second"] == pytest.approx(10 * gsm8k.PARAMETERS * found["tokens a second"])


def test_a_command_that_fails_is_told_with_its_log(tmp_path):
    with pytest.raises(SystemExit, match=r"t1jax.main --config=nowhere.py failed with 2; see .*log:\n.*nowhere"):
        gsm8k.run(["t1jax.main", "--config=nowhere.py"], tmp_path / "log")

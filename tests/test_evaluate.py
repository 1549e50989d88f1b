# SPDX-License-Identifier: Apache-2.0
"""The command line of evaluation, end to end: a random Qwen2 that transformers made, and a few problems."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small
from random_qwen import KNOBS, PROBLEMS, rows

from t1jax import evaluate
from t1jax.config import RewardConfig
from t1jax.evaluation.cut import cut_thoughts
from t1jax.evaluation.questions import Question
from t1jax.evaluation.responses import Response
from t1jax.host import command_line
from t1jax.rewards import answers
from t1jax.tasks.files.task import FileGrader
from t1jax.text.huggingface import HFTokenizer

ROOT = Path(__file__).parent.parent


def command(checkpoint, problems, out, *more):
    arguments = [f"--checkpoint={checkpoint}", f"--data={problems}", f"--out={out}", "--samples=4", "--budgets=3,6"]
    return ["evaluate", *arguments, *KNOBS, *more]


@pytest.fixture(scope="module")
def done(checkpoint, problems, tmp_path_factory):
    """The folder of an evaluation that nothing disturbed."""
    out = tmp_path_factory.mktemp("out")
    assert evaluate.main(command(checkpoint, problems, out)) == 0
    return out


def test_all_files_are_there(done):
    written = {str(path.relative_to(done)) for path in done.rglob("*") if path.is_file()}
    journals = ("responses", "budget-3", "budget-6")
    assert written == {
        "results.json", "results.md", "samples.png", "scaling.png", "sums/groups.png",
        *(f"sums/{name}.{suffix}" for name in journals for suffix in ("jsonl", "settings.json")),
    }  # fmt: skip


def test_the_figures_are_those_of_the_responses(done):
    """Counted here from the JSON lines, by hand."""
    found = rows(done / "sums/responses.jsonl")
    result = json.loads((done / "results.json").read_text())["benchmarks"]["sums"]
    assert sorted((r["problem"], r["response"]) for r in found) == [(p, r) for p in range(5) for r in range(4)]
    right = [r["outcome"] == "right" for r in found]
    assert {r["outcome"] for r in found} == {"right", "wrong"} and 0 < sum(right) < 20
    assert result["pass@1"]["value"] == pytest.approx(sum(right) / 20)
    solved = {r["problem"] for r in found if r["outcome"] == "right"}
    assert result["pass_at_k"][-1] == {**result["pass_at_k"][-1], "k": 4, "value": pytest.approx(len(solved) / 5)}
    assert result["response_length"]["value"] == pytest.approx(sum(r["tokens"] for r in found) / 20)
    assert result["overlong"]["value"] == pytest.approx(sum(r["overlong"] for r in found) / 20) and 0 < sum(
        r["overlong"] for r in found
    )
    easy = [r["outcome"] == "right" for r in found if PROBLEMS[r["problem"]]["level"] == 1]
    assert result["by"]["level"]["1"]["value"] == pytest.approx(sum(easy) / 12)
    assert set(result["by"]["subject"]) == {"sums", "differences"}
    for row in found:
        assert row["gold"] == PROBLEMS[row["problem"]]["answer"] and row["row"] == row["problem"] + 1
        assert row["answer"] == answers.final_answer(row["text"])
        assert (row["outcome"] == "right") == bool(row["answer"] and answers.quick(row["answer"], row["gold"]))


def test_the_results_name_the_reward(done):
    assert json.loads((done / "results.json").read_text())["reward"] == "correct"
    assert "reward: correct" in (done / "results.md").read_text()
    for function, weights, said in (
        ("mine.py:score", (), "mine.py:score"),
        ("mine.py:score", (0.5,), "0.5 x mine.py:score"),
        ("correct, mine.py:score", (1.0, 0.2), "1 x correct, 0.2 x mine.py:score"),
    ):
        assert evaluate._reward(RewardConfig(function, weights)) == said


def test_samples_of_a_problem_differ_and_problems_do(done):
    found = rows(done / "sums/responses.jsonl")
    assert len({tuple(r["ids"]) for r in found}) > 15


def test_thoughts_are_cut_at_the_budget(done):
    """Cut responses begin with the thought up to the budget and the answer prefix; the others keep their verdict."""
    whole = {(r["problem"], r["response"]): r for r in rows(done / "sums/responses.jsonl")}
    result = json.loads((done / "results.json").read_text())["benchmarks"]["sums"]
    for budget, point in zip((3, 6), result["budgets"], strict=True):
        cut = {(r["problem"], r["response"]): r for r in rows(done / f"sums/budget-{budget}.jsonl")}
        short = {key for key, r in whole.items() if r["tokens"] <= budget or "</think>" in r["text"]}
        assert cut.keys() >= {key for key, r in whole.items() if r["tokens"] > budget + 1 and key not in short}
        assert point["budget"] == budget and point["cut"] == len(cut) / 20 and 5 < len(cut) < 20
        for key, r in cut.items():
            assert r["ids"][:budget] == whole[key]["ids"][:budget] and r["tokens"] <= budget + 40 + 4
            assert "</think>\n\nThe final answer is \\boxed{" in r["text"]
        judged = [cut.get(key) or r for key, r in whole.items()]
        assert point["pass@1"]["value"] == pytest.approx(sum(r["outcome"] == "right" for r in judged) / 20)
        assert point["response_length"]["value"] == pytest.approx(sum(r["tokens"] for r in judged) / 20)


def test_a_thought_as_long_as_the_budget_is_not_cut(checkpoint):
    """Nor is a response that ends by itself after as many tokens; one token more, and the prompt holds the cut one."""
    tokens = HFTokenizer(checkpoint)
    grader: Any = FileGrader(small.make_config(scaling__answer_prefix="</think>"), tokens, None)
    (close,), (filler,), stop = tokens.encode("</think>"), tokens.encode("\\boxed{2}"), tokens.stop_ids[0]
    problem: Any = SimpleNamespace(index=7)
    question = Question(7, problem, (1, 2), "2", row=8)
    for end in ([close, filler, stop], [stop]):
        for length, cut in ((4, 0), (5, 1)):
            ids = np.array([filler] * length + end, np.int32)
            response = Response(
                problem=7, row=8, response=1, outcome=answers.RIGHT, text="", tokens=len(ids), overlong=False, ids=ids
            )
            found = cut_thoughts(grader, tokens, [question], [response], 3, [4])[4]
            thought = (filler,) * 4 + (close,)
            expected = Question(7 * 3 + 1, problem, (1, 2, *thought), "2", row=8, response=1, begun=thought)
            assert found == [expected] * cut


def test_the_same_command_again_samples_nothing(done, checkpoint, problems, monkeypatch, capsys):
    from t1jax.rollouts.generate import Generator

    def sample(*arguments, **options):
        raise AssertionError("sampled again")

    before = {path: path.read_bytes() for path in done.rglob("*.json*")}
    monkeypatch.setattr(Generator, "__call__", sample)
    assert evaluate.main(command(checkpoint, problems, done)) == 0
    assert {path: path.read_bytes() for path in done.rglob("*.json*")} == before
    said = capsys.readouterr().out
    assert "pass@1 %" in said and "sums by subject" in said and str(done / "results.md") in said


@pytest.mark.slow
def test_a_cut_file_is_completed(done, checkpoint, problems, tmp_path):
    """The real sampler: after a kill the same responses come again, in another process or this one."""
    out = tmp_path / "out"
    shutil.copytree(done, out)
    (out / "results.json").unlink()
    for name, end in (("responses", 0.6), ("budget-3", 0.3)):
        path = out / f"sums/{name}.jsonl"
        os.truncate(path, int(path.stat().st_size * end))
    assert evaluate.main(command(checkpoint, problems, out)) == 0
    for name in ("results.json", "sums/responses.jsonl", "sums/budget-3.jsonl"):
        found = (out / name).read_text()
        assert found == (done / name).read_text(), name


def test_batches_change_no_response(done, checkpoint, problems, tmp_path):
    """64 rows a call instead of 8: other batches, all 4 samples in one call instead of one after the other."""
    arguments = command(checkpoint, problems, tmp_path, "--config.eval.batch_size=64", "--budgets=", "--samples=1")
    assert evaluate.main([*arguments, "--limit=3"]) == 0
    first = {r["problem"]: r for r in rows(done / "sums/responses.jsonl") if r["response"] == 0}
    found = rows(tmp_path / "sums/responses.jsonl")
    assert len(found) == 3
    for row in found:
        assert row["ids"] == first[row["problem"]]["ids"]


def test_a_list_of_benchmarks(checkpoint, problems, tmp_path, capsys):
    config = tmp_path / "two.py"
    config.write_text(
        "from configs import base\nfrom ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    cfg = base.get_config()\n    cfg.unlock()\n"
        f"    cfg.benchmarks.aime24 = ConfigDict(dict(data={str(problems)!r}, samples=2))\n"
        f"    cfg.benchmarks.easy = ConfigDict(dict(data={str(problems)!r}, samples=1))\n"
        "    return cfg.lock()\n"
    )
    arguments = [f"--config={config}", f"--checkpoint={checkpoint}", f"--out={tmp_path / 'out'}", *KNOBS, "--limit=2"]
    assert evaluate.main(["evaluate", *arguments]) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())["benchmarks"]
    assert {name: (r["problems"], r["samples"]) for name, r in found.items()} == {"aime24": (2, 2), "easy": (2, 1)}
    assert "9.2 / 30.5 / 50.6" in (tmp_path / "out/results.md").read_text()
    assert not (tmp_path / "out/scaling.png").exists() and len(rows(tmp_path / "out/aime24/responses.jsonl")) == 4
    assert "aime24" in capsys.readouterr().out


def test_a_gold_answer_that_does_not_verify_makes_its_responses_unscorable(checkpoint, tmp_path, capsys):
    data = tmp_path / "bad.jsonl"
    data.write_text(json.dumps(PROBLEMS[0]) + "\n" + json.dumps({"problem": "x", "answer": "{"}) + "\n")
    arguments = command(checkpoint, data, tmp_path / "out", "--budgets=", "--samples=2")
    assert evaluate.main(arguments) == 0
    result = json.loads((tmp_path / "out/results.json").read_text())["benchmarks"]["bad"]
    assert result["unscorable"]["value"] == 0.5 and result["pass@1"]["problems"] == 1 and result["problems"] == 2
    assert "does not verify against itself" in capsys.readouterr().out
    assert "does not verify against itself" in (tmp_path / "out/results.md").read_text()


REFUSED = {
    "no out": (["--out="], "--out is missing"),
    "out is a file": (["--out={problems}"], "--out={problems}: "),
    "no checkpoint": (["--checkpoint="], "--checkpoint is missing"),
    "no such checkpoint": (["--checkpoint=nowhere"], "nowhere: no such folder"),
    "no such data": (["--data=nowhere.jsonl"], "nowhere.jsonl: not found"),
    "a word too many": (["more"], "unexpected argument 'more'"),
    "no samples": (["--samples=0"], "samples"),
    "too many samples": (["--samples=2000"], "samples"),
    "greedy samples": (["--temperature=0"], "--temperature=0 with 4 samples"),
    "no temperature": (["--temperature=hot"], "temperature"),
    "no budget": (["--budgets=512,many"], "--budgets=512,many; expected positive whole numbers"),
    "a budget of 5,000 digits": ([f"--budgets={'9' * 5000}"], "--budgets=999"),
    "a budget of nothing": (["--budgets=0"], "--budgets=0; expected positive"),
    "no limit": (["--limit=0"], "limit"),
    "a size of the model": (["--config.model.num_layers=3"], "--config.model.num_layers=3: the model is that of"),
    "a short prompt length": (["--config.data.prompt_length=4"], "data.prompt_length"),
    "longer than the model": (["--config.rl.max_new_tokens=193"], "data.prompt_length + rl.max_new_tokens is 257; exp"),
    "a longer cut": (["--config.rl.max_new_tokens=192", "--budgets=192"], "the largest budget + scaling.answer_prefix"),
    "an unknown flag": (["--sample=3"], "sample"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_mistake_is_one_line(checkpoint, problems, tmp_path, capsys, what):
    flags, message = ([x.format(problems=problems) for x in part] for part in (REFUSED[what][0], [REFUSED[what][1]]))
    assert evaluate.main(command(checkpoint, problems, tmp_path / "out", *flags)) == command_line.EXIT_MISTAKE
    error = capsys.readouterr().err
    assert error.startswith("t1jax.evaluate: ") and error.count("\n") == 1 and message[0] in error, error
    assert not (tmp_path / "out/sums").exists()


def test_other_settings_in_the_same_folder_are_refused(done, checkpoint, problems, capsys):
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    for flag, knob in (("--temperature=0.5", "temperature is 0.5, not 1.0"), ("--config.seed=3", "seed is 3, not 0")):
        assert evaluate.main(command(checkpoint, problems, done, flag)) == command_line.EXIT_MISTAKE
        error = capsys.readouterr().err
        assert knob in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before


def test_nothing_to_evaluate(checkpoint, tmp_path, capsys):
    assert evaluate.main(["evaluate", f"--checkpoint={checkpoint}", f"--out={tmp_path}"]) == 2
    assert "--data is missing; expected a file of problems, or --config=configs/eval_t1.py" in capsys.readouterr().err


def test_t1s_benchmarks_name_the_knob_of_a_missing_file(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [f"--config={ROOT / 'configs/eval_t1.py'}", f"--checkpoint={checkpoint}", "--out=out", *KNOBS]
    assert evaluate.main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(r"data/\w+\.jsonl: not found.*set --config\.benchmarks\.\w+\.data=FILE\n$", error)


def test_help_is_at_hand(capsys):
    assert evaluate.main(["evaluate", "--help"]) == 0
    assert "--budgets=N,N,..." in capsys.readouterr().out


@pytest.mark.slow
def test_kill_9_and_go_on(done, checkpoint, problems, tmp_path):
    """The process is killed as soon as the first lines are there, and again a little later."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "t1jax.evaluate", *command(checkpoint, problems, tmp_path / "out")[1:]]
    path = tmp_path / "out/sums/responses.jsonl"
    for _ in range(2):
        before = path.stat().st_size if path.exists() else 0
        process = subprocess.Popen(program, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (path.exists() and path.stat().st_size > before):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert subprocess.run(program, env=environment, cwd=tmp_path, capture_output=True, timeout=600).returncode == 0
    for name in ("sums/responses.jsonl", "sums/budget-3.jsonl", "results.json"):
        assert (tmp_path / "out" / name).read_text() == (done / name).read_text(), name

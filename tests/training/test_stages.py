# SPDX-License-Identifier: Apache-2.0
"""The whole of T1 in miniature: what a run leaves, that it goes on where it stopped, and what it refuses."""

from __future__ import annotations

import contextlib
import json

import jax
import numpy as np
import pytest
import small
from tiny_run import CFG, KNOBS, last_state, rows_of

from t1jax import status
from t1jax.config import ConfigError
from t1jax.evaluation.journal import Journal
from t1jax.host import files
from t1jax.training import checkpoint, replicas, stages

CLOCK = ("seconds", "config", "lost_tokens")  # of results.json: what differs between runs


def test_a_run_leaves_what_it_promises(unbroken):
    results = json.loads((unbroken / "results.json").read_text())
    for stage in ("sft", "rl"):
        assert {"accuracy", "n", "low", "high", "response_length", "false_claims", "gave_up"} <= set(results[stage])
        assert results[stage]["n"] == 12 and results[stage]["low"] <= results[stage]["accuracy"]
    assert [(p["stage"], p["budget"]) for p in results["scaling"]] == [(s, b) for s in ("sft", "rl") for b in (4, 16)]
    assert all({"accuracy", "low", "high", "n"} <= set(point) for point in results["scaling"])
    assert {"sft", "rl", "measure_sft", "measure_rl", "total"} <= set(results["seconds"])
    assert results["config"]["rl"]["num_steps"] == 5 and "jax" in results["versions"]
    tokens = results["tokens"]
    assert sum(count for name, count in tokens.items() if name != "generated") == tokens["generated"]
    assert tokens["generated"] > tokens["trained"] > 0 == results["lost_tokens"]
    assert list((unbroken / "journal").iterdir()) == []
    for name in ("report.html", "config.json", "tokenizer/tokenizer.model", "accuracy.png", "scaling.png"):
        assert (unbroken / name).stat().st_size > 0
    assert list((unbroken / "tensorboard").rglob("events*"))
    rows = rows_of(unbroken)
    assert [(r["stage"], r["step"]) for r in rows] == [
        *(("sft", n) for n in range(1, 6)),
        *(("rl", n) for n in range(1, 5)),
        ("evaluate", 4),
        ("rl", 5),
    ]
    named = "loss reward accuracy response_length entropy kl_anchor overlong repetition garbled unscorable grad_norm"
    for row in rows:
        assert set(named.split()) | {"learning_rate", "logprob_gap"} <= set(row)
        if row["stage"] == "rl":
            assert all(row[name] is not None for name in named.split()) and row["logprob_gap"] < 1e-4


def test_a_kill_while_a_changed_run_begins_leaves_no_journal_of_the_old_knobs(tmp_path, monkeypatch):
    files.write_json(tmp_path / "config.json", CFG.to_dict())
    files.write_text(tmp_path / "journal/rl-000004-quick.jsonl", "")
    write = files.write_json

    def fall(path, tree):
        write(path, tree)
        if path.name == "config.json":
            raise ZeroDivisionError("a kill")

    monkeypatch.setattr(files, "write_json", fall)
    with pytest.raises(ZeroDivisionError):
        stages.run(small.make_config(**KNOBS | {"eval__every": 2}), tmp_path, ["eval.every"])
    assert json.loads((tmp_path / "config.json").read_text())["eval"]["every"] == 2
    assert list((tmp_path / "journal").iterdir()) == []


def saved_of(workdir):
    """name -> content of each file of saved responses."""
    return {path.name: path.read_bytes() for path in (workdir / "responses").iterdir()}


def test_a_run_saves_the_responses_that_its_figures_are_made_of(unbroken):
    found = {name: [json.loads(line) for line in lines.splitlines()] for name, lines in saved_of(unbroken).items()}
    assert {name: len(rows) for name, rows in found.items()} == {
        "sft-000000.jsonl": 10,  # of 12 asked: eval.keep_responses
        "rl-000004.jsonl": 8,
        "rl-final.jsonl": 10,
    }
    first, quick, last = (found[name] for name in ("sft-000000.jsonl", "rl-000004.jsonl", "rl-final.jsonl"))
    assert [(rows[0]["stage"], rows[0]["step"]) for rows in (first, quick, last)] == [("sft", 0), ("rl", 4), ("rl", 5)]
    (measured,) = (row for row in rows_of(unbroken) if row["stage"] == "evaluate")
    assert np.mean([row["tokens"] for row in quick]) == pytest.approx(measured["response_length"])
    assert np.mean([row["outcome"] == "right" for row in quick]) == measured["accuracy"]
    assert [row["problem"] for row in first] == [row["problem"] for row in last] == list(range(10))
    assert [row["problem"] for row in quick] == list(range(12, 20))  # others
    results = json.loads((unbroken / "results.json").read_text())
    for shown, row in zip(results["samples"], (*first[:2], *last[:2]), strict=True):
        assert {k: shown[k] for k in ("stage", "prompt", "gold", "difficulty")} == {
            k: row[k] for k in ("stage", "prompt", "gold", "difficulty")
        }
        assert shown["response"] == row["text"]
        assert shown["correct"] == (row["outcome"] == "right")
    longest = CFG.rl.max_new_tokens
    for row in (*first, *quick, *last):
        assert row["tokens"] <= longest and (row["tokens"] == longest or not row["overlong"])
    assert any(row["overlong"] for row in first)


def test_a_finished_run_says_so_and_changes_nothing(unbroken, capsys):
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    assert stages.run(CFG, unbroken) == unbroken / "report.html"
    assert "is done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")} == before


def test_a_workdir_of_other_knobs_is_refused_and_left_alone(unbroken):
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    with pytest.raises(ConfigError, match=r"rl\.temperature is 1\.0, was 1\.2; set them back, pass --allow_change"):
        stages.run(small.make_config(**KNOBS, rl__temperature=1.0), unbroken)
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")} == before


@pytest.mark.slow  # test_stopping.py stops RL in the middle, too
@pytest.mark.parametrize("stage, after", [("sft", 2), ("rl", 2)])
def test_an_interrupted_run_ends_as_the_unbroken_one(unbroken, tmp_path, monkeypatch, stage, after):
    """Stopped in the step after a checkpoint, then the same command again: the same rows, once each, and bits."""
    save = checkpoint.Checkpoints.save

    def stop(self, step, *rest):
        if self.directory.name == stage and step > after:
            raise KeyboardInterrupt
        save(self, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            stages.run(CFG, tmp_path / "run")
    compared: list[tuple[int, int]] = []  # before which step of a stage, and how many prompts or rows

    def compare(mesh, state, batch):
        compared.append((int(state.step), jax.tree.leaves(batch)[0].shape[0]))

    monkeypatch.setattr(replicas, "refuse_different", compare)
    for name in ("rl-000003.jsonl", "rl-000004.jsonl", "rl-final.jsonl"):  # what a step after the checkpoint had left
        files.write_text(tmp_path / "run/responses" / name, "of a step that is done again")
    steps = [row["step"] for row in rows_of(tmp_path / "run") if row["stage"] == stage]
    assert max(steps) > after  # rows that must be written again
    stages.run(CFG, tmp_path / "run")
    assert rows_of(tmp_path / "run") == rows_of(unbroken)
    jax.tree.map(np.testing.assert_array_equal, last_state(tmp_path / "run"), last_state(unbroken))
    assert saved_of(tmp_path / "run") == saved_of(unbroken)
    mine, theirs = (json.loads((w / "results.json").read_text()) for w in (tmp_path / "run", unbroken))
    assert {k: v for k, v in mine.items() if k not in CLOCK} == {k: v for k, v in theirs.items() if k not in CLOCK}
    rows = {"sft": CFG.sft.batch_size, "rl": CFG.rl.prompts_per_step}
    assert compared == ([(after, rows["sft"]), (0, rows["rl"])] if stage == "sft" else [(after, rows["rl"])])


@pytest.mark.slow
def test_a_run_killed_in_evaluations_samples_each_batch_once_and_ends_as_the_unbroken_one(
    unbroken, tmp_path, monkeypatch
):
    append, kept = Journal.append, []

    def kill(self, batch):
        append(self, batch)
        first = not any(name == self.path.name for name, _ in kept)
        kept.append((self.path.name, batch[0].problem))
        if first and self.path.stem in ("sft-000000-held_out", "rl-000004-quick", "rl-000005-budget-16"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", kill)
    while not (tmp_path / "run/results.json").exists():
        with contextlib.suppress(KeyboardInterrupt):
            stages.run(CFG, tmp_path / "run")
    assert len(kept) == len(set(kept)) >= 9
    assert rows_of(tmp_path / "run") == rows_of(unbroken) and saved_of(tmp_path / "run") == saved_of(unbroken)
    mine, theirs = (json.loads((w / "results.json").read_text()) for w in (tmp_path / "run", unbroken))
    assert {k: v for k, v in mine.items() if k not in CLOCK} == {k: v for k, v in theirs.items() if k not in CLOCK}


@pytest.mark.slow
def test_without_the_measurement_before_rl_training_is_the_same_bit_for_bit(unbroken, tmp_path, monkeypatch, capsys):
    """Stopped before RL has a checkpoint, and after."""
    cfg, save, stops = small.make_config(**KNOBS, eval__before=False), checkpoint.Checkpoints.save, [2, 4]

    def stop(self, step, *rest, **more):
        if self.directory.name == "rl" and stops and step == stops[0]:
            del stops[0]
            raise KeyboardInterrupt
        save(self, step, *rest, **more)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stages.run(cfg, tmp_path / "run")
    stages.run(cfg, tmp_path / "run")
    assert not (tmp_path / "run/measured/sft.json").exists() and not list((tmp_path / "run/responses").glob("sft-*"))
    assert rows_of(tmp_path / "run") == rows_of(unbroken)
    jax.tree.map(np.testing.assert_array_equal, last_state(tmp_path / "run"), last_state(unbroken))
    mine, theirs = (json.loads((w / "results.json").read_text()) for w in (tmp_path / "run", unbroken))
    assert mine["sft"] is None and mine["rl"] == theirs["rl"] and "measure_sft" not in mine["seconds"]
    tokens, whole = mine["tokens"], theirs["tokens"]
    assert sum(count for name, count in tokens.items() if name != "generated") == tokens["generated"]
    assert tokens["trained"] == whole["trained"] and 0 < tokens["evaluation"] < whole["evaluation"]
    assert "After RL: " in (tmp_path / "run/report.html").read_text()
    assert status.main(["t1jax.status", str(tmp_path / "run")]) == 0 and "finished" in capsys.readouterr().out
    # measured after all, from the weights of the cold start, which are still there
    stages.run(CFG, tmp_path / "run", ["eval.before"])
    later = json.loads((tmp_path / "run/results.json").read_text())
    assert {k: v for k, v in later.items() if k not in CLOCK} == {k: v for k, v in theirs.items() if k not in CLOCK}


def test_a_vocabulary_too_small_for_the_task_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match=r"^model\.vocab_size is 56; .* needs at least 61"):
        stages.run(small.make_config(**KNOBS, model__vocab_size=56), tmp_path / "run")
    assert not (tmp_path / "run").exists()

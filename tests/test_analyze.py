# SPDX-License-Identifier: Apache-2.0
"""The command line finds saved responses of every kind, says what they do, and refuses what it cannot read."""

from __future__ import annotations

import json

import pytest
import responses_files as made

from t1jax import analyze
from t1jax.analyze import embedded_task
from t1jax.behaviour import plots as behaviour_plots
from t1jax.config import ConfigError
from t1jax.evaluation.saved import collect
from t1jax.host import files
from t1jax.reports import plots
from t1jax.rewards.answers import RIGHT, WRONG


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made.workdir(tmp_path_factory.mktemp("here") / "run")


@pytest.fixture
def plain(monkeypatch):
    """No plots: they take most of the time."""
    monkeypatch.setattr(analyze, "pictures", lambda summaries: [])


def refuse(capsys, *arguments):
    assert analyze.main(["t1jax.analyze", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("t1jax.analyze: ")
    return said


# finding responses


def test_a_workdir_its_folder_and_its_files_are_found_in_the_order_of_training(run):
    found, notes = collect(run)
    assert [(e.name, e.stage, e.step, e.final, len(e.responses)) for e in found] == [
        ("sft-000000", "sft", 0, True, 40),
        ("rl-000003", "rl", 3, False, 15),
        ("rl-000012", "rl", 12, False, 15),
        ("rl-final", "rl", 12, True, 40),
    ]
    assert notes == []
    assert collect(run / "responses")[0] == found
    assert collect(run / "responses/rl-final.jsonl")[0] == found[-1:]
    first = found[0].responses[0]
    assert first.prompt == made.TASK.prompt(made.TASK.problem(0, "held_out")) and first.gold is not None
    assert {r.outcome for e in found for r in e.responses} == {RIGHT, WRONG}


def test_the_journal_of_a_filter_has_its_problems(tmp_path):
    made.journal(tmp_path, [("It is \\boxed{42}.", "right"), ("No.", "wrong"), ("Hm.", "unscorable")])
    (found,), notes = collect(tmp_path)
    assert (found.name, found.stage, found.step) == ("kept.responses", "", None)
    assert [r.prompt for r in found.responses] == ["What is 6 times 7?", "What is 6 times 7?", "What is 7 times 7?"]
    assert notes == ["math.jsonl: does not begin with a response: left out"]
    (tmp_path / "math.jsonl").unlink()
    (found,), notes = collect(tmp_path)
    assert found.responses[0].prompt is None and "shown by number" in notes[0] and "math.jsonl" in notes[0]


def test_each_benchmark_of_an_evaluation_is_one(tmp_path):
    for name in ("math500", "aime24"):
        made.journal(tmp_path / name, [("It is \\boxed{42}.", "right")], "responses")
    assert [e.name for e in collect(tmp_path)[0]] == ["aime24", "math500"]


def test_a_line_that_is_being_written_is_left_out_and_told(tmp_path):
    path = made.journal(tmp_path, [("a", "right"), ("b", "wrong")])
    path.write_bytes(path.read_bytes()[:-5])
    (found,), notes = collect(path)
    assert len(found.responses) == 1 and notes == [f"{path}: line 2 is not whole: left out"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"outcome": "fine"}, "line 2: no response"),
        ({"tokens": -1}, "line 2: no response"),
        ({"tokens": True}, "line 2: no response"),
        ({"step": 4}, "line 2: rl step 4; expected rl step 3, as in line 1"),
        ({"response": None}, "line 2: no response"),
    ],
)
def test_a_damaged_file_is_refused_by_its_line(tmp_path, change, message):
    rows = made.chains(3, "rl", 3)
    path = made.write(tmp_path / "rl-000003.jsonl", [rows[0], rows[1] | change, rows[2]])
    with pytest.raises(ConfigError, match=f"rl-000003.jsonl: {message}"):
        collect(tmp_path)
    path.write_text(path.read_text().splitlines()[0] + "\n{nonsense\n")
    with pytest.raises(ConfigError, match="line 2: .*; expected a response in JSON"):
        collect(tmp_path)


# what is said of them


def test_the_command_line_writes_what_it_promises(run, tmp_path, capsys):
    assert analyze.main(["t1jax.analyze", str(run), f"--out={tmp_path / 'new'}"]) == 0
    out = capsys.readouterr().out
    assert "recovered after a wrong one %" in out and "read by the rules of the embedded task" in out
    assert out.endswith(f"page: {tmp_path / 'new/behaviour.html'}\n")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        ["behaviour.html", "behaviour.json", "behaviour.md"]
        + [f"{name}.png" for name in (behaviour_plots.STOPS_NAME, behaviour_plots.LENGTHS_NAME)]
        + [f"{plot.name}.png" for plot in behaviour_plots.PLOTS]
    )
    tree = json.loads((tmp_path / "new/behaviour.json").read_text())
    assert [e["name"] for e in tree["evaluations"]] == ["sft-000000", "rl-000003", "rl-000012", "rl-final"]
    figures = [e[name] for e in tree["evaluations"] for name in ("accuracy", "first_attempt", "recovery")]
    assert all(0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1 for figure in figures)
    rows = [json.loads(line) for line in (run / "responses/sft-000000.jsonl").read_text().splitlines()]
    first = tree["evaluations"][0]
    assert first["accuracy"]["count"] == sum(row["outcome"] == "right" for row in rows)
    assert first["stops"]["gave up"]["count"] == sum(": yes\n" not in row["text"] for row in rows)
    assert first["means"]["verifications"]["value"] == sum("check " in row["text"] for row in rows) / 40
    text = (tmp_path / "new/behaviour.md").read_text()
    accuracy = 100 * first["accuracy"]["value"]
    assert text.startswith("# Behaviour\n") and f"| right % | {accuracy:.1f} [" in text


def test_without_the_config_words_are_looked_for_and_it_is_said(run, tmp_path, capsys, plain):
    path = made.write(tmp_path / "rl-final.jsonl", made.chains(5, "rl", 12))
    assert analyze.main(["t1jax.analyze", str(path)]) == 0
    assert "by keywords: no config.json is beside the responses" in capsys.readouterr().out
    assert (tmp_path / "behaviour.html").exists()
    (evaluation,) = json.loads((tmp_path / "behaviour.json").read_text())["evaluations"]
    assert evaluation["false_claims"] is None


def test_a_config_of_another_run_is_refused(run, tmp_path, capsys):
    made.workdir(tmp_path / "run")
    tree = json.loads((tmp_path / "run/config.json").read_text())
    tree["task"]["max_value"] = 30
    (tmp_path / "run/config.json").write_text(json.dumps(tree))
    assert "problem 0 is not the one that the config.json beside it describes" in refuse(capsys, tmp_path / "run")
    (tmp_path / "run/config.json").write_text("{}")
    assert "run/config.json: missing knob seed" in refuse(capsys, tmp_path / "run")
    assert not (tmp_path / "run/behaviour.html").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "0 arguments; expected one"),
        (("a", "b"), "2 arguments; expected one"),
        (("nowhere",), "nowhere: no such file or folder; expected responses"),
        (("empty",), "empty: no saved responses; expected .* eval.keep_responses"),
        (("notes.txt",), "notes.txt: line 1 is no response"),
        (("empty", "--out=notes.txt"), "--out=notes.txt is a file; expected a folder"),
        (("empty", "--to=x"), "Unknown command line flag 'to'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    import re

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello\n")
    assert re.search(message, refuse(capsys, *arguments))
    assert [path.name for path in (tmp_path / "empty").iterdir()] == []


def test_help_is_told(capsys):
    assert analyze.main(["t1jax.analyze", "--help"]) == 0
    assert capsys.readouterr().out == analyze.USAGE


def test_a_table_shows_the_first_the_last_and_some_between(run, plain):
    summaries, _ = analyze.analyze(run, run)
    many = [summary | {"name": f"rl-{place:06d}"} for place, summary in enumerate(summaries * 10)]
    for columns in (2, 3, 6):
        header = analyze.sheets(many, columns)[0].header
        assert len(header) == columns + 1 and (header[1], header[-1]) == ("rl-000000", "rl-000039")
    assert analyze.sheets(summaries)[0].header == ["", "sft-000000", "rl-000003", "rl-000012", "rl-final"]


# plots


def test_plots_go_over_steps_and_a_measurement_stands_for_its_step(run, plain):
    summaries, _ = analyze.analyze(run, run)
    assert [(s["name"], s["step"]) for s in behaviour_plots.over_training(summaries)] == [
        ("sft-000000", 0),
        ("rl-000003", 3),
        ("rl-final", 12),
    ]


def test_a_plot_shows_its_figures(run, plain):
    """Other figures give another picture; a figure that is not known leaves a gap instead of an error."""
    summaries, _ = analyze.analyze(run, run)
    timed = behaviour_plots.over_training(summaries)
    plot = behaviour_plots.PLOTS[0]
    drawn = behaviour_plots.draw_lines(plot, timed, plots.LIGHT)
    unknown = [s | {"recovery": {"value": None, "low": None, "high": None, "n": 0}} for s in timed]
    assert drawn[:8] == b"\x89PNG\r\n\x1a\n" and drawn == behaviour_plots.draw_lines(plot, timed, plots.LIGHT)
    assert behaviour_plots.draw_lines(plot, unknown, plots.LIGHT) != drawn


def test_one_evaluation_has_lengths_and_no_plot_over_training(run, monkeypatch):
    monkeypatch.setattr(analyze, "pictures", lambda summaries: [])
    summaries, _ = analyze.analyze(run / "responses/rl-final.jsonl", run)
    monkeypatch.undo()
    ((name, _, light, dark),) = analyze.pictures(summaries)
    assert name == behaviour_plots.LENGTHS_NAME and light[:4] == dark[:4] == b"\x89PNG" and light != dark


def test_the_histogram_shows_its_counts(run, plain):
    (*_, last), _ = analyze.analyze(run, run)
    drawn = behaviour_plots.draw_lengths([last], plots.LIGHT)
    counts = last["lengths"]
    swapped = last | {"lengths": {"edges": counts["edges"], "right": counts["wrong"], "wrong": counts["right"]}}
    assert drawn == behaviour_plots.draw_lengths([last], plots.LIGHT)
    assert drawn != behaviour_plots.draw_lengths([swapped], plots.LIGHT)


@pytest.mark.parametrize("name, read", [("pairs", "PairsTask"), ("countdown", "CountdownTask"), ("gym", None)])
def test_responses_are_read_by_the_rules_of_the_task_that_wrote_them(tmp_path, name, read):
    tree = made.CFG.to_dict()
    tree["task"] |= {"name": name, "max_numbers": 8 if name == "pairs" else 4, "min_numbers": 3}
    files.write_json(tmp_path / "config.json", tree)
    task, way = embedded_task(tmp_path / "responses")
    assert (type(task).__name__ if task else None) == read
    assert way == ("by the rules of the embedded task" if read else "by keywords")

# SPDX-License-Identifier: Apache-2.0
"""The report's command line: reads workdirs, finished or not, and refuses in one line what no run wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up import Reader, write_run

from t1jax import report
from t1jax.config import ConfigError
from t1jax.host import metrics
from t1jax.reports import run_page, runs
from t1jax.reports.checks import check_results
from t1jax.reports.runs import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    write_run(path / "a", cold=20)
    write_run(path / "b", cold=20, after=70.0, seed=1, rl__temperature=1.0)
    write_run(path / "open", cold=20, steps=11, finished=False, seed=2)
    return path


def run(capsys, *arguments):
    code = report.main(["t1jax.report", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_one_workdir_gets_its_report_again(folder, capsys):
    code, out, err = run(capsys, folder / "a")
    assert (code, out, err) == (0, f"report: {(folder / 'a/report.html').resolve()}\n", "")
    page = (folder / "a/report.html").read_text()
    assert "RL took accuracy from 27.1 % to 85.0 %" in Reader(page).text and (folder / "a/accuracy.png").exists()
    results, rows = json.loads((folder / "a/results.json").read_text()), metrics.read_rows(folder / "a")
    assert page == run_page.render(Run("as the run wrote it", Path("elsewhere"), results, rows, True))


def test_accuracy_with_unscorable_responses_as_wrong_is_shown_where_there_are_any(folder):
    results, rows = json.loads((folder / "a/results.json").read_text()), metrics.read_rows(folder / "a")

    def page(**more):
        stages = {stage: {**results[stage], **more} for stage in ("sft", "rl")}
        return Reader(run_page.render(Run("a", folder, {**results, **stages}, rows, True))).text

    assert "Strict accuracy" not in page(unscorable=0.0, strict_accuracy=0.3)
    shown = page(unscorable=0.25, strict_accuracy=0.625)
    assert "Strict accuracy" in shown and "62.5 %" in shown
    with pytest.raises(ConfigError, match="strict_accuracy"):
        check_results(folder / "a", {**results, "rl": {**results["rl"], "strict_accuracy": "much"}})


def only_after(path):
    """A finished run with eval.before = False, as t1jax.main leaves it."""
    write_run(path, cold=20, eval__before=False)
    results = json.loads((path / "results.json").read_text())
    results["sft"], results["greedy"], results["skills"] = None, {"rl": results["greedy"]["rl"]}, {"rl": {}}
    for name in ("scaling", "by_difficulty", "samples"):
        results[name] = [point for point in results[name] if point["stage"] == "rl"]
    (path / "results.json").write_text(json.dumps(results))
    return results


def test_a_run_that_measured_nothing_before_rl_says_so_and_shows_the_rest(folder, tmp_path, capsys):
    results = only_after(tmp_path / "after")
    assert run(capsys, tmp_path / "after")[0] == 0
    text = Reader((tmp_path / "after/report.html").read_text()).text
    assert "After RL: 85.0 %" in text and "nothing was measured before RL (eval.before is False)" in text
    assert "After RL, 85.0 % [82.7, 87.1] of 1,000 held-out problems are right; nothing was measured" in text
    assert "After 9 steps of RL it was " in text and "Sampled responses" in text
    assert "Before RL" not in text and "before RL " not in text.replace("before RL (eval", "")
    written = run_page.write_report(tmp_path / "again", results, metrics.read_rows(tmp_path / "after"))
    assert Reader(written.read_text()).text.count("After RL: 85.0 %")
    assert run(capsys, folder / "a", tmp_path / "after", f"--out={tmp_path}/both.html")[0] == 0
    assert "has the highest accuracy after RL" in Reader((tmp_path / "both.html").read_text()).text
    write_run(tmp_path / "lost", cold=20)
    results["config"]["eval"]["before"] = True
    (tmp_path / "lost/results.json").write_text(json.dumps(results))
    code, _, err = run(capsys, tmp_path / "lost")
    assert code == 2 and "results.json: sft lacks accuracy" in err


def test_a_run_with_rewards_alone_that_measured_nothing_before_rl_has_a_report(tmp_path):
    results = only_after(tmp_path / "after")
    results["rl"]["mean_reward"] = results["rl"].pop("accuracy")
    written = run_page.write_report(tmp_path / "after", results, metrics.read_rows(tmp_path / "after"))
    text = Reader(written.read_text()).text
    assert "After RL: 0.85" in text and "the mean reward on 1,000 held-out problems is 0.85" in text


def test_several_workdirs_get_one_page_and_stay_as_they_are(folder, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, out, _ = run(capsys, folder / "a", folder / "b", f"--out={tmp_path}/new/both.html")
    assert code == 0 and out == f"report: {(tmp_path / 'new/both.html').resolve()}\n"
    assert "2 runs compared" in (tmp_path / "new/both.html").read_text()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["both.html"]


def test_an_unfinished_run_is_shown_as_far_as_it_is_and_says_so(folder, tmp_path, capsys):
    assert run(capsys, folder / "open", f"--out={tmp_path}/open.html")[0] == 0
    text = Reader((tmp_path / "open.html").read_text()).text
    assert "Not finished: 27.1 % before RL" in text and "This run is not finished" in text
    assert "11 of 36 steps of RL" in text and "After 9 steps of RL it is" in text
    assert "Does more thinking help?" in text and not (folder / "open/report.html").exists()


def test_a_run_that_has_measured_nothing_yet_has_a_page(tmp_path, capsys):
    write_run(tmp_path / "new", cold=3, steps=0, finished=False)
    (tmp_path / "new/measured/sft.json").unlink()
    assert run(capsys, tmp_path / "new")[0] == 0
    text = Reader((tmp_path / "new/report.html").read_text()).text
    assert "nothing is measured yet" in text and "3 of 2,800 updates" in text
    assert "Accuracy by difficulty" not in text


def damage(folder, file, text):
    write_run(folder, cold=2, steps=2)
    (folder / file).write_text(text)


def results_with(folder, change):
    write_run(folder, cold=2, steps=2)
    tree = json.loads((folder / "results.json").read_text())
    change(tree)
    (folder / "results.json").write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda d: None, "/x: no such folder; expected the --workdir of a run"),
        (lambda d: d.mkdir(), "/x holds no run: no config.json"),
        (lambda d: d.write_text(""), "/x: no such folder"),
        (lambda d: damage(d, "results.json", '{"sft": '), "/x/results.json: Expecting value"),
        (lambda d: damage(d, "results.json", "[1]"), "/x/results.json: got a list"),
        (lambda d: damage(d, "results.json", "[" * 100_000), "/x/results.json: "),
        (lambda d: damage(d, "metrics.jsonl", "{}\n"), "/x/metrics.jsonl line 1: got b'{}'"),
        (lambda d: damage(d, "metrics.jsonl", '{"stage": "rl", "step": "1"}\n'), "expected a JSON row"),
        (lambda d: damage(d, "metrics.jsonl", '{"stage": "rl", "step": 1, "loss": []}\n'), "line 1 is no row"),
        (lambda d: damage(d, "metrics.jsonl", '{"stage": "other", "step": 1}\n'), "line 1 is no row"),
        (lambda d: results_with(d, lambda t: t.pop("rl")), "results.json: rl lacks accuracy, low, high or n"),
        (lambda d: results_with(d, lambda t: t["sft"].update(n="x")), "results.json: sft lacks accuracy"),
        (lambda d: results_with(d, lambda t: t["sft"].update(gave_up="x")), "results.json: sft.gave_up is 'x'"),
        (lambda d: results_with(d, lambda t: t["scaling"].append({})), "results.json: scaling has {}"),
        (lambda d: results_with(d, lambda t: t["scaling"][0].update(budget="x")), "results.json: scaling has {"),
        (lambda d: results_with(d, lambda t: t.update(scaling=3)), "results.json: scaling is a int"),
        (lambda d: results_with(d, lambda t: t["samples"][0].pop("prompt")), "results.json: samples has {"),
        (lambda d: results_with(d, lambda t: t["samples"][0].update(response=5)), "results.json: samples has {"),
        (lambda d: results_with(d, lambda t: t["greedy"].update(rl={})), "results.json: greedy.rl lacks accuracy"),
        (lambda d: results_with(d, lambda t: t.update(config=[1])), "results.json: config is a list"),
        (lambda d: results_with(d, lambda t: t.update(seconds={"rl": "x"})), "results.json: seconds holds what is no"),
        (lambda d: results_with(d, lambda t: t["skills"].update(rl={"copying": "x"})), "results.json: skills.rl has"),
        (lambda d: results_with(d, lambda t: t["rl"].update(orders=[1])), "results.json: rl.orders is no"),
    ],
)  # fmt: skip
def test_what_no_run_wrote_is_refused_in_one_line(tmp_path, capsys, make, said):
    make(tmp_path / "x")
    code, out, err = run(capsys, tmp_path / "x", f"--out={tmp_path}/page.html")
    assert code == 2 and out == "" and err.startswith("t1jax.report: ") and err.count("\n") == 1
    assert said in err and not (tmp_path / "page.html").exists()


def test_mistakes_of_the_command_line_are_one_line(folder, tmp_path, capsys):
    cases = {
        (): "no workdir given",
        (folder / "a", folder / "b", folder / "a"): f"{folder}/a is the same run as {folder}/a; give each run once",
        (folder / "a", f"{folder}/b/../a"): f"{folder}/b/../a is the same run as {folder}/a",
        (folder / "a", "--out=page.txt"): "--out=page.txt; expected a file that ends in .html",
        (folder / "a", "--to=page.html"): "Unknown command line flag 'to'",
        (folder / "a", f"--out={folder}/a/config.json/p.html"): "expected a writable path",
        tuple(tmp_path / str(i) for i in range(13)): "got 13 workdirs; expected 1 to 12",
    }
    for arguments, said in cases.items():
        code, out, err = run(capsys, *arguments)
        assert code == 2 and out == "" and said in err and err.count("\n") == 1, (arguments, err)


def test_a_damaged_measurement_of_an_unfinished_run_is_refused(tmp_path):
    write_run(tmp_path / "x", cold=2, steps=2, finished=False)
    (tmp_path / "x/measured/sft.json").write_text('{"summary": 3}')
    with pytest.raises(ConfigError, match=r"measured/sft\.json: .*expected what a run wrote"):
        runs.read([str(tmp_path / "x")])


def test_names_are_short_and_their_own(tmp_path):
    paths = [tmp_path / p for p in ("one/run", "two/run", "other", "x" * 70 + "1", "x" * 70 + "2")]
    names = runs.names(paths)
    assert names[:3] == ["one/run", "two/run", "other"]
    assert len(set(names)) == 5 and all(len(name) <= runs.LONGEST + 3 for name in names)
    assert runs.names([Path(".")]) == [Path.cwd().name]


def test_held_out_points_are_before_during_and_after(folder):
    a, still = runs.read([str(folder / "a"), str(folder / "open")])
    points = runs.held_out(a)
    assert [step for step, _ in points] == [0, 9, 18, 27, 36]
    assert points[0][1] is a.results["sft"] and points[-1][1] is a.results["rl"]  # not the quick one of step 36
    assert [step for step, _ in runs.held_out(still)] == [0, 9] and not still.finished

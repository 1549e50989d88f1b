# SPDX-License-Identifier: Apache-2.0
"""T1's filter: which rows are kept, by hand and end to end."""

from __future__ import annotations

import datetime
import json

import pyarrow
import pyarrow.parquet
import pytest
from random_qwen import KNOBS, PROBLEMS, rows

from t1jax import filter as program
from t1jax.evaluation.responses import Response
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG


def said(row, *outcomes):
    return [
        Response(problem=row - 1, row=row, response=r, outcome=outcome, text="", tokens=1, overlong=False)
        for r, outcome in enumerate(outcomes)
    ]


def test_pass_rates_leave_unscorable_responses_out():
    responses = [*said(1, RIGHT, WRONG, WRONG, UNSCORABLE), *said(4, UNSCORABLE, UNSCORABLE), *said(9, WRONG, RIGHT)]
    assert program.pass_rates(responses[::-1]) == {1: pytest.approx(1 / 3), 4: None, 9: 0.5}


def test_verdicts_at_their_borders():
    """At most the highest, at least the lowest: 0 is kept unless a floor is asked for."""
    for rate, expected in ((0.0, "kept"), (0.3, "kept"), (3 / 10, "kept"), (5 / 16, "too easy"), (None, "unscorable")):
        assert program.verdict(rate, 0.0, 0.3) == expected
    assert program.verdict(-0.5, 0.0, 0.3) == "kept"  # a mean reward may be below 0, and 0 is no floor
    for rate, expected in ((0.0, "too hard"), (0.1, "kept"), (0.0999, "too hard"), (1.0, "kept")):
        assert program.verdict(rate, 0.1, 1.0) == expected


def test_rows_keep_their_columns_and_their_order(tmp_path):
    data, out = tmp_path / "d.parquet", tmp_path / "kept.jsonl"
    day = datetime.date(2024, 2, 1)
    columns = {
        "problem": list("abcdef"),
        "answer": [1, 2, 3, 4, 5, 6],
        "deep": [{"x": [i, None]} for i in range(6)],
        "day": [day] * 6,
        "pass_rate": [0.9] * 6,
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), data)
    rates = {6: 0.125, 1: 0.0, 2: 0.5, 4: None, 5: 0.3}
    counts = program.write_kept(str(data), out, rates, 0.1, 0.3)
    assert counts == {"kept": 2, "too hard": 1, "too easy": 1, "unscorable": 1, "not asked": 1}
    kept = rows(out)
    assert [row["problem"] for row in kept] == ["e", "f"] and [row["pass_rate"] for row in kept] == [0.3, 0.125]
    assert kept[0] == {"problem": "e", "answer": 5, "deep": {"x": [4, None]}, "day": "2024-02-01", "pass_rate": 0.3}


def command(checkpoint, data, out, *more):
    knobs = [knob for knob in KNOBS if "batch_size" not in knob]
    flags = [
        f"--checkpoint={checkpoint}",
        f"--data={data}",
        f"--out={out}",
        "--samples=8",
        "--config.eval.batch_size=64",
    ]
    return ["filter", *flags, *knobs, *more]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The problems with columns of their own, one twice, and one whose answer cannot be judged."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    more = [{**row, "id": f"é{i}", "extra": {"a": [i]}} for i, row in enumerate(PROBLEMS)]
    more.insert(2, {**more[0], "id": "again"})
    more.append({"problem": "cannot be judged", "answer": "{", "id": "bad"})
    path.write_text("".join(json.dumps(row) + "\n" for row in more))
    return path


@pytest.fixture(scope="module")
def done(checkpoint, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "kept.jsonl"
    assert program.main(command(checkpoint, data, out)) == 0
    return out


def test_the_kept_rows_are_those_of_the_responses(done, data):
    found = rows(done.with_suffix(".responses.jsonl"))
    given = rows(data)
    assert len(found) == 6 * 8 and {r["row"] for r in found} == {1, 2, 4, 5, 6, 7}
    expected = []
    for number, row in enumerate(given, 1):
        mine = [r["outcome"] for r in found if r["row"] == number]
        if mine and "unscorable" not in mine and mine.count("right") / 8 <= 0.3:
            expected.append({**row, "pass_rate": mine.count("right") / 8})
    assert rows(done) == expected and len(expected) >= 2
    assert {r["outcome"] for r in found if r["row"] == 7} == {"unscorable"}
    assert {r["outcome"] for r in found} == {"right", "wrong", "unscorable"}


def test_other_bounds_ask_the_model_nothing(done, checkpoint, data, monkeypatch, capsys):
    from t1jax.rollouts.generate import Generator

    def sample(*arguments, **options):
        raise AssertionError("sampled again")

    monkeypatch.setattr(Generator, "__call__", sample)
    before = rows(done)
    assert program.main(command(checkpoint, data, done, "--min_pass_rate=0.05", "--max_pass_rate=1")) == 0
    found = rows(done.with_suffix(".responses.jsonl"))
    solved = {r["row"] for r in found if r["outcome"] == "right"}
    assert {row["id"] for row in rows(done)} == {rows(data)[row - 1]["id"] for row in solved}
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == (f"{done}: {len(solved)} kept, 0 too easy, {5 - len(solved)} too hard, 1 unscorable, 1 not asked")
    assert program.main(command(checkpoint, data, done)) == 0
    assert rows(done) == before


REFUSED = {
    "no out": (["--out="], "--out=; expected a file that ends in .jsonl"),
    "out is no JSON lines": (["--out=kept.parquet"], "--out=kept.parquet; expected a file that ends in .jsonl"),
    "out is the data": (["--out={data}"], "is --data; expected another file"),
    "no data": (["--data="], "--data is missing"),
    "two files": (["--data={data},other.jsonl"], "other.jsonl; expected one file: filter them one after the other"),
    "no checkpoint": (["--checkpoint="], "--checkpoint is missing"),
    "bounds the wrong way round": (["--min_pass_rate=0.5"], "=0.5; expected at most --max_pass_rate=0.3"),
    "a rate above one": (["--max_pass_rate=30"], "max_pass_rate"),
    "greedy samples": (["--temperature=0"], "--temperature=0 with 8 samples"),
    "a word too many": (["more"], "unexpected argument 'more'"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_mistake_is_one_line(checkpoint, data, tmp_path, capsys, what):
    flags, message = REFUSED[what]
    before = data.read_bytes()
    arguments = command(checkpoint, data, tmp_path / "kept.jsonl", *(flag.format(data=data) for flag in flags))
    assert program.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("t1jax.filter: ") and error.count("\n") == 1 and message in error, error
    assert list(tmp_path.iterdir()) == [] and data.read_bytes() == before


def test_the_temperature_is_that_of_reinforcement_learning(done):
    assert json.loads(done.with_suffix(".responses.settings.json").read_text())["temperature"] == 1.2


def test_help_is_at_hand(capsys):
    assert program.main(["filter", "--help"]) == 0
    assert "--max_pass_rate=X" in capsys.readouterr().out

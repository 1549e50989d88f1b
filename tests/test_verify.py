# SPDX-License-Identifier: Apache-2.0
"""The command that judges a file: verdicts in the order of the file, golds without a value, formats, mistakes."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest

from t1jax import verify
from t1jax.evaluation.responses import Response
from t1jax.rewards.answers import RIGHT, WRONG

ROWS = [
    ({"answer": "\\frac12", "gold": 0.5}, 1, "by text, number or choice"),
    ({"response": "so \\boxed{3}, no: \\boxed{x+1}", "gold": "1+x"}, 1, "by value: math-verify"),
    ({"response": "it is 1+x", "gold": "1+x"}, 0, "no final answer: neither a closed box nor <answer>"),
    ({"answer": "f: A \\to C", "gold": "f: A \\to B"}, 0, "as text: math-verify cannot read the gold"),
    ({"answer": "9^{9^{9^9}}", "gold": "5"}, -1, "not judged: too long, too deeply nested, or too large a number"),
    ({"answer": "5", "gold": "proof"}, 0, "the gold says that there is none"),
    ({"answer": 1e-05, "gold": "\\frac{1}{100000}"}, 1, "by text, number or choice"),
    ({"answer": 7, "gold": 7}, 1, "by text, number or choice"),
]
FLAGS = ("--config.verifier.workers=1",)


def run(capsys, *argv):
    code = verify.main(["verify", *argv, *FLAGS])
    return code, *capsys.readouterr()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "answers.jsonl", [row for row, _, _ in ROWS])


def test_each_row_gets_its_verdict_in_the_order_of_the_file_and_a_table_follows(data, capsys, monkeypatch):
    monkeypatch.setattr(verify, "AT_ONCE", 3)  # several batches
    code, said, errors = run(capsys, data)
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert code == 0 and not errors
    assert [line["row"] for line in lines] == list(range(1, len(ROWS) + 1))
    assert [(line["outcome"], line["why"]) for line in lines] == [(outcome, why) for _, outcome, why in ROWS]
    assert lines[1]["answer"] == "x+1" and lines[2]["answer"] is None and lines[6]["answer"] == "0.00001"
    table = said.splitlines()[len(ROWS) :]
    assert any(" ".join(line.split()) == "by text, number or choice right 3 37.5" for line in table), table


def test_with_json_stdout_has_the_lines_alone(data, capsys):
    code, said, errors = run(capsys, data, "--json")
    assert code == 0 and [json.loads(line)["outcome"] for line in said.splitlines()] == [row[1] for row in ROWS]
    assert "8 rows" in errors and "math-verify" in errors


def test_responses_of_a_run_or_an_evaluation_are_judged_by_their_text(tmp_path, capsys):
    """There `response` is a number."""
    texts = [("so \\boxed{2}", RIGHT), ("so \\boxed{0}", WRONG)]
    lines = [
        Response(problem=i, text=text, outcome=outcome, tokens=2, overlong=False, gold="2", response=2).line()
        for i, (text, outcome) in enumerate(texts)
    ]
    (tmp_path / "responses.jsonl").write_bytes(b"".join(lines))
    code, said, _ = run(capsys, str(tmp_path / "responses.jsonl"), "--json")
    assert code == 0 and [json.loads(line)["outcome"] for line in said.splitlines()] == [1, 0]


def test_golds_only_lists_those_that_cannot_be_compared(tmp_path, capsys):
    golds = ["5", "\\text{three}", "f: A \\to B", "proof", "\\frac{1", ""]
    rows = [{"gold": gold, "answer": "not looked at"} for gold in golds]
    code, said, _ = run(capsys, write(tmp_path / "g.jsonl", rows), "--golds-only")
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert code == 0 and [(line["row"], line["gold"], line["outcome"]) for line in lines] == [
        (3, "f: A \\to B", 1), (4, "proof", 0), (5, "\\frac{1", 0), (6, "", 0),
    ]  # fmt: skip
    assert [line["why"].partition(":")[0] for line in lines] == [
        "compared as text only", "says that there is none", "is not right against itself", "no gold",
    ]  # fmt: skip
    assert any(line.split() == ["compared", "by", "value", "right", "2", "33.3"] for line in said.splitlines())


def test_golds_of_problems_are_those_that_training_reads(tmp_path, capsys):
    rows = [{"question": f"q{i}", "answer": f"so\n#### {i}"} for i in range(3)] + [
        {"question": "q3", "answer": "\\boxed{2, 4, \\ldots}"},
        {"question": "q0", "answer": "#### 9"},
    ]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(rows))
    code, said, _ = run(capsys, str(path), "--golds-only")
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert code == 0 and [(line["row"], line["gold"]) for line in lines] == [(4, "2, 4, \\ldots")]
    assert "1 row dropped: an earlier row's problem" in said
    code, said, _ = run(capsys, str(path), "--golds-only", "--json", "--config.data.answer_column=question")
    assert code == 0 and not said


def test_parquet(tmp_path, capsys):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"answer": "1", "gold": "2"}]), tmp_path / "a.parquet")
    code, said, _ = run(capsys, str(tmp_path / "a.parquet"), "--json")
    assert (code, json.loads(said)["outcome"]) == (0, 0)


@pytest.mark.parametrize(
    "rows, more, message",
    [
        ([{"answer": "5"}], (), "row 1 has 'answer'; expected 'gold', and 'answer' or 'response'"),
        ([{"gold": "5"}, {"answer": "5"}], (), "row 1 has 'gold'; expected"),
        ([{"gold": "5", "answer": ["5", "6"]}], (), "row 1: column 'answer' is a list; expected text"),
        ([{"x": "5"}], ("--golds-only",), "expected a column"),
        ([], (), "is empty; expected JSON lines"),
        ([{"gold": "5", "answer": "5"}], ("more.jsonl",), "2 files on the command line; expected one FILE"),
        ([{"gold": "5", "answer": "5"}], ("--gold",), "Unknown command line flag 'gold'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, rows, more, message):
    code, said, errors = run(capsys, write(tmp_path / "a.jsonl", rows), *more)
    assert code == 2 and not said
    assert errors.startswith("t1jax.verify: ") and errors.count("\n") == 1 and message in errors, errors


def test_help_says_how(capsys):
    assert verify.main(["verify", "--help"]) == 0
    assert "--golds-only" in capsys.readouterr().out

# SPDX-License-Identifier: Apache-2.0
"""A small row in every form in which problems and chains for T1 were published: it loads without a flag.

The forms are those of the files, read in their repositories or on their dataset cards; the texts are made up.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import json

import pyarrow
import pyarrow.parquet
import pytest
from letters import LETTERS

from configs import base, eval_t1, kin, qwen0p5b, qwen14b, qwen32b
from t1jax import config
from t1jax.config import ConfigError
from t1jax.rewards import answers, pairing
from t1jax.tasks.files.choices import ASKED, lettered
from t1jax.tasks.files.demonstrations import read_demonstrations
from t1jax.tasks.files.overlap import Known
from t1jax.tasks.files.problems import read_problems
from t1jax.tasks.files.prompts import render

CFG = config.load(base.get_config())


def write(path, rows):
    """The rows, in the format that the name says."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path, rows, **knobs):
    found, notes = read_problems(write(path, rows), dataclasses.replace(CFG.data, **knobs), "held_out")
    return found, [note.removeprefix(f"{path}: ") for note in notes]


SOLUTION = "We add, and find 3.\nSo it is $\\boxed{\\frac{7}{2}}$."
OLYMPIAD = {
    "id": 1606, "subfield": "Algebra", "context": None, "question": "What?", "solution": [SOLUTION],
    "final_answer": ["$\\frac{7}{2}$"], "is_multiple_answer": False, "unit": None, "answer_type": "Numerical",
    "error": None,
}  # fmt: skip
DAPO = {
    "data_source": "math_dapo", "prompt": [{"content": "What?", "role": "user"}], "ability": "MATH",
    "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"}, "extra_info": {"index": "9a9b6eb4"},
}  # fmt: skip
PUBLISHED = {  # -> name of the file, its row, the answer
    # THUDM/TreeRL at 3feada6, datasets/train and datasets/eval; T1's rl-data.jsonl has the same authors
    "TreeRL, train_30k": ("rl-data.jsonl", {"text": "What?", "data_type": "stem", "label": "7", "_id": None}, "7"),
    "TreeRL, MATH500": (
        "MATH500.jsonl",
        {"Question": "What?", "solution": SOLUTION, "Answer": "\\dfrac{7}{2}", "subject": "Algebra", "level": 2,
         "unique_id": "test/algebra/1.json"},
        "\\dfrac{7}{2}",
    ),
    "TreeRL, AMC": (
        "amc.jsonl", {"id": 0, "question": "What?", "answer": 142.0, "url": "https://x", "solution": None}, "142",
    ),
    "TreeRL, OlympiadBench": ("olympiad_bench.jsonl", OLYMPIAD, "\\frac{7}{2}"),
    # dataset cards
    "OlympiadBench, several": (
        "a.parquet", OLYMPIAD | {"final_answer": ["1,3,5"], "is_multiple_answer": True}, "1,3,5",
    ),
    "OlympiadBench, a list": (
        "a.jsonl",
        OLYMPIAD | {"final_answer": ["$69$", "84"], "is_multiple_answer": True, "solution": ["A.\nB.", "C.\nD."]},
        "69, 84",
    ),
    "Omni-MATH": (
        "test.jsonl",
        {"domain": ["Mathematics -> Algebra"], "difficulty": 8.5, "problem": "What?", "solution": "Long.\nWork.",
         "answer": "(1, 2)", "source": "china_team_selection_test"},
        "(1, 2)",
    ),
    "AIME, HuggingFaceH4": (
        "train.parquet", {"id": 60, "problem": "What?", "solution": "So \\boxed{25}.", "answer": "025", "year": "2024"},
        "025",
    ),
    "AIME, Maxwell-Jia": (
        "aime.parquet", {"ID": "2024-I-1", "Problem": "What?", "Solution": "Long.\nWork.", "Answer": 204}, "204",
    ),
    "AIME, math-ai": ("test.jsonl", {"id": 60, "problem": "What?", "solution": "\\boxed{204}", "url": "x"}, "204"),
    "AIME, MathArena": ("train.parquet", {"problem_idx": 1, "problem": "What?", "answer": 204}, "204"),
    "DAPO": ("dapo-math-17k.parquet", DAPO, "34"),
    "verl, GSM8K": (
        "train.parquet",
        DAPO | {"extra_info": {"answer": "12 + 22.\n#### 34", "question": "What?", "index": 0, "split": "train"}},
        "34",
    ),
    "verl without its reward model": (
        "train.jsonl", {"extra_info": {"answer": "12 + 22.\n#### 34", "question": "What?"}}, "34",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", PUBLISHED)
def test_a_published_file_loads_without_a_flag(tmp_path, form):
    name, row, gold = PUBLISHED[form]
    (found,), notes = read(tmp_path / name, [row])
    assert (found.text, found.gold, found.before, notes) == ("What?", gold, (), [])
    assert answers.quick(found.gold, gold)


def test_a_level_or_field_of_any_of_them_is_a_label(tmp_path):
    def labels(form):
        name, row, _ = PUBLISHED[form]
        (found,), _ = read(tmp_path / name, [row])
        return found.labels, found.difficulty

    assert labels("TreeRL, MATH500") == ({"subject": "Algebra", "level": "2"}, "2")
    assert labels("TreeRL, OlympiadBench") == ({"subfield": "Algebra"}, "")
    assert labels("Omni-MATH") == ({"difficulty": "8.5"}, "8")
    (found,), _ = read(tmp_path / "a.jsonl", [{"Problem": "p", "Answer": "1", "Level": "Level 4", "SUBJECT": "s"}])
    assert (found.labels, found.difficulty) == ({"level": "4", "subject": "s"}, "4")


def test_what_a_question_refers_to_comes_before_it(tmp_path):
    row = OLYMPIAD | {"context": "A ball is thrown.", "question": "How far?"}
    (found,), _ = read(tmp_path / "a.jsonl", [row])
    assert found.text == "A ball is thrown.\nHow far?"
    (found,), _ = read(tmp_path / "a.jsonl", [row], problem_column="question")
    assert found.text == "How far?"
    (found,), _ = read(tmp_path / "a.jsonl", [row | {"context": {"sentences": []}}])
    assert found.text == "How far?"


def test_one_file_may_mix_schemas(tmp_path):
    """Each row is read by its own columns: names, nesting, types of answers, none at all."""
    rows = [
        {"text": "a", "label": "1", "data_type": "stem", "_id": None},
        {"Question": "b", "Answer": 2},
        {"prompt": [{"role": "user", "content": "c"}], "reward_model": {"ground_truth": "3"}},
        {"messages": [{"role": "user", "content": "d"}], "answer": ["4"]},
        {"problem": "e", "answer": True},
        {"problem": "f", "answer": None, "solution": "so \\boxed{6}"},
        {"problem": "g", "answer": None},
        {"problem": "h", "answer": ["1", "2"]},
        {"text": "i", "label": 9},
    ]
    found, notes = read(tmp_path / "rl-data.jsonl", rows)
    assert [(p.text, p.gold) for p in found] == [
        ("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "True"), ("f", "6"), ("i", "9"),
    ]  # fmt: skip
    assert notes == [
        "1 row dropped: no problem or no answer (row 7)",
        "1 row dropped: a list of several answers (row 8)",
    ]


def test_a_label_is_no_answer_where_there_is_another(tmp_path):
    """There it is often a class."""
    (found,), notes = read(tmp_path / "a.jsonl", [{"text": "spam?", "problem": "p", "answer": "5", "label": 0}])
    assert (found.text, found.gold, notes) == ("p", "5", [])
    (found,), _ = read(tmp_path / "a.jsonl", [{"problem": "p", "solution": "It is 4.\nThus \\boxed{4}", "label": 1}])
    assert found.gold == "4"


@pytest.mark.parametrize(
    "answer, gold, right",
    [("Yes", "True", True), ("\\text{No}", "True", False), ("False", "no", True), ("True, it is.", "yes", True)],
)
def test_a_boolean_answers_a_question(answer, gold, right):
    rule = next(rule for rule in pairing.RULES if rule.name == "yes or no")
    assert rule.apply(answer, gold) is right


# ambiguous answers


@pytest.mark.parametrize(
    "rows, says",
    [
        ([{"problem": "p", "solution": "3", "Answer": "4"}], "row 1: columns 'Answer' ('4') and 'solution' ('3') hold"),
        ([{"problem": "p", "solution": SOLUTION, "Answer": "4"}], "columns 'Answer' and 'solution' hold different"),
        (
            [{"problem": f"p{i}", "solution": SOLUTION, "Answer": gold} for i, gold in enumerate(("4", "3.5", "5"))],
            "columns 'Answer' and 'solution' hold different answers in 2 of 3 rows",
        ),
        ([{"problem": "p", "answer": "3", "Answer": "4"}], "columns 'Answer' ('4') and 'answer' ('3') hold different"),
        (
            [{"Question": "p", "answer": "A", "Correct Answer": "x", "Incorrect Answer 1": "y"}],
            "row 1: columns 'answer' and 'Correct Answer' may both hold the answer; expected data.answer_column",
        ),
    ],
)
def test_an_ambiguous_file_is_refused_with_both_names(tmp_path, rows, says):
    with pytest.raises(ConfigError) as error:
        read(tmp_path / "a.jsonl", rows)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'a.jsonl'}: ") and says in message and "\n" not in message
    assert message.endswith("expected data.answer_column to name one")
    if "Answer" in rows[0] and "answer" not in rows[0]:
        assert [p.gold for p in read(tmp_path / "a.jsonl", rows, answer_column="Answer")[0]] == [
            row["Answer"] for row in rows
        ]


def test_a_solution_that_is_wrong_now_and_then_is_told_and_not_used(tmp_path):
    """As in NuminaMath; two notations of one answer are no contradiction."""
    golds = ["3.5", "\\frac72", "\\frac{7}{2}", "x", "4"]
    rows = [{"problem": f"p{i}", "solution": SOLUTION, "answer": gold} for i, gold in enumerate(golds)]
    found, notes = read(tmp_path / "a.jsonl", rows)
    assert [p.gold for p in found] == golds
    assert notes == ["1 row kept: 'solution' ends in another number (row 5)"]


# GPQA

GPQA = {
    "Pre-Revision Question": "old", "Pre-Revision Correct Answer": "older", "Pre-Revision Incorrect Answer 1": "oldest",
    "Question": "Which,\nof \"these\"?\n", "Correct Answer": "the first ", "Incorrect Answer 1": "\n$\\frac{1}{2}$",
    "Incorrect Answer 2": "(A) and (B)", "Incorrect Answer 3": "12", "Explanation": "It is $\\boxed{9}$.",
    "Subdomain": "Optics", "Writer's Difficulty Estimate": "Hard", "High-level domain": "Physics", "Record ID": "rec1",
}  # fmt: skip


@pytest.mark.parametrize("name", ["gpqa_diamond.csv", "train.parquet"])
def test_gpqa_asks_with_letters_and_the_answer_is_one(tmp_path, name):
    (found,), notes = read(tmp_path / name, [GPQA])
    question, shown, asked = found.text.rsplit("\n\n", 2)
    lines = shown.split("\n")
    assert (question, asked, notes) == ('Which,\nof "these"?', ASKED, [])
    assert [line[:4] for line in lines] == ["(A) ", "(B) ", "(C) ", "(D) "]
    assert sorted(line[4:] for line in lines) == sorted(["the first", "$\\frac{1}{2}$", "(A) and (B)", "12"])
    assert lines["ABCD".index(found.gold)] == f"({found.gold}) the first"
    assert found.labels == {"high-level domain": "Physics"}
    assert answers.quick(f"\\text{{({found.gold})}}", found.gold)


def test_the_order_of_choices_depends_on_the_seed_and_the_row_alone(tmp_path):
    rows = [GPQA | {"Question": f"Which of {i}?"} for i in range(40)]
    found, _ = read(tmp_path / "a.csv", rows)
    again, _ = read(tmp_path / "b.csv", [dict(reversed(row.items())) for row in rows[::-1]])
    assert {(p.text, p.gold) for p in found} == {(p.text, p.gold) for p in again}
    other, _ = read(tmp_path / "a.csv", rows, choice_seed=1)
    assert sum(a.gold != b.gold for a, b in zip(found, other, strict=True)) > 15


def test_each_place_is_as_likely():
    """4,000 questions: each letter 1,000 times, within five standard deviations (27)."""
    choices = ["w", "x", "y", "z"]
    counts = collections.Counter(lettered(f"q{i}", choices, 3)[1] for i in range(4000))
    assert counts.keys() == set("ABCD") and all(abs(count - 1000) < 5 * 27.4 for count in counts.values())


def test_choices_that_cannot_be_told_apart_are_dropped(tmp_path):
    rows = [
        GPQA,
        GPQA | {"Question": "b", "Incorrect Answer 2": "the  first"},
        GPQA | {"Question": "c", "Incorrect Answer 3": ""},
    ]
    found, notes = read(tmp_path / "a.csv", rows)
    assert [p.row for p in found] == [1]
    assert notes == ["2 rows dropped: choices that are empty or the same (rows 2, 3)"]


def test_a_named_answer_column_is_read_as_it_is(tmp_path):
    (found,), _ = read(tmp_path / "a.csv", [GPQA], answer_column="Correct Answer")
    assert (found.text, found.gold) == ('Which,\nof "these"?', "the first")


def test_the_benchmarks_config_names_the_public_file():
    cfg = config.load(eval_t1.get_config())
    assert cfg.benchmarks["gpqa"].data == "data/gpqa_diamond.csv" and not cfg.data.answer_column


# the cold start


def test_chains_of_mixed_schemas(tmp_path):
    """T1's sft.jsonl: THUDM/TreeRL reads `prompt`, `response` and `history` (sft_dataset.py)."""
    rows = [
        {"prompt": "a", "response": "1", "history": None, "_id": 3},
        {"prompt": "b", "response": "2", "history": [{"prompt": "x", "response": "y"}]},
        {"question": "c", "response": "3", "answer": "3"},
        {"problem": "d", "output": "4"},
        {"messages": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "5"}]},
        {"conversations": [{"from": "human", "value": "f"}, {"from": "gpt", "value": "6"}]},
    ]
    texts, notes = read_demonstrations(write(tmp_path / "sft.jsonl", rows), CFG, LETTERS, Known([]))

    def chat(*said):
        roles = ("user", "assistant")
        return LETTERS.chat([{"role": roles[i % 2], "content": text} for i, text in enumerate(said)])

    asked = [render(text, CFG.data, LETTERS) for text in "acd"]
    assert notes == [] and texts == [
        (asked[0], "1"), (chat("x", "y", "b"), "2"), (asked[1], "3"), (asked[2], "4"), (chat("e"), "5"),
        (chat("f"), "6"),
    ]  # fmt: skip


def test_a_history_of_another_kind_is_refused(tmp_path):
    path = write(tmp_path / "sft.jsonl", [{"prompt": "a", "response": "1", "history": ["x", "y"]}])
    with pytest.raises(ConfigError, match="row 1: column 'history': expected a list of objects with prompt and respon"):
        read_demonstrations(path, CFG, LETTERS, Known([]))


# the system prompt


@pytest.mark.parametrize("preset", [kin, qwen32b, qwen14b, qwen0p5b, eval_t1])
def test_qwen_is_asked_as_in_the_ancestor(preset):
    """THUDM/TreeRL, evaluation.py: <|im_start|>system, the sentence, <|im_end|>, then the bare question."""
    data = config.load(preset.get_config()).data
    assert render("What?", data, LETTERS) == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    )

# SPDX-License-Identifier: Apache-2.0
"""Problems of files: which columns, which rows, which answers; what is left out is counted; the face of a task."""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from letters import LETTERS, Letters

from configs import base
from t1jax import config
from t1jax.checks import weighed
from t1jax.config import ConfigError
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG
from t1jax.rewards.verifier import Verifier
from t1jax.tasks.files import overlap, problems
from t1jax.tasks.files.overlap import normalise
from t1jax.tasks.files.problems import read_problems, usable, verifiable
from t1jax.tasks.files.prompts import render
from t1jax.tasks.files.task import ProblemsTask
from t1jax.tasks.task import Source

CFG = config.load(base.get_config())
SHARED = Path(__file__).parents[3] / "shared" / "data"


class Equal:
    """A verifier for which equal texts are right, and an answer with "hang" in it is unscorable."""

    def __init__(self):
        self.asked = []

    def check(self, pairs):
        self.asked.append(list(pairs))
        return [UNSCORABLE if "hang" in answer else RIGHT if answer == gold else WRONG for answer, gold in pairs]

    def comparable(self, golds):
        return ["sentence" not in gold for gold in golds]


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def read(tmp_path, rows, **knobs):
    path = write(tmp_path / "file.jsonl", rows)
    found, notes = read_problems(path, dataclasses.replace(CFG.data, **knobs), "train")
    return found, [note.removeprefix(f"{path}: ") for note in notes]


def golds(tmp_path, *values, column="answer"):
    return [p.gold for p in read(tmp_path, [{"problem": f"p{i}", column: v} for i, v in enumerate(values)])[0]]


def row(problem, answer="1"):
    return {"problem": problem, "answer": answer}


def task_of(tmp_path, train, held_out, sft=None, verifier=None, tokenizer=LETTERS, **knobs):
    knobs |= {"train": write(tmp_path / "train.jsonl", train), "eval": write(tmp_path / "eval.jsonl", held_out)}
    knobs["sft"] = "" if sft is None else write(tmp_path / "sft.jsonl", sft)
    cfg = dataclasses.replace(CFG, data=dataclasses.replace(CFG.data, **knobs))
    task = ProblemsTask(cfg, tokenizer, verifier or Equal())
    task.notes[:] = [note.removeprefix(f"{tmp_path}/") for note in task.notes]
    return task


def texts(task, split):
    return [task.problem(i, split).text for i in range(task.size(split))]


# columns


@pytest.mark.parametrize("problem", ["problem", "question", "prompt"])
@pytest.mark.parametrize("answer", ["answer", "gold"])
def test_the_common_names_are_recognised(tmp_path, problem, answer):
    ((found,), notes) = read(tmp_path, [{"id": 7, problem: " What? ", answer: "4"}])
    assert (found.text, found.gold, found.index, found.row, found.split) == ("What?", "4", 0, 1, "train")
    assert found.source == str(tmp_path / "file.jsonl") and notes == []


def test_the_first_common_name_counts(tmp_path):
    full = {"prompt": "c", "question": "b", "problem": "a", "solution": "so \\boxed{2}", "answer": "2.0"}
    for names, expected in ((full, ("a", "2.0")), (dict(list(full.items())[:2] + list(full.items())[3:4]), ("b", "2"))):
        ((found,), _) = read(tmp_path, [names])
        assert (found.text, found.gold) == expected


@pytest.mark.parametrize("empty", [None, "", " ", []])
def test_each_row_has_its_problem_in_the_first_column_that_is_not_empty(tmp_path, empty):
    """Data sets of several schemas in one file: columns that a row does not use are empty."""
    names = ("problem", "question", "text")
    rows = [dict.fromkeys(names, empty) | {name: f"{name}?", "answer": "4"} for name in names]
    rows.append(dict.fromkeys(names, empty) | {"answer": "4"})
    found, notes = read(tmp_path, rows)
    assert [p.text for p in found] == ["problem?", "question?", "text?"]
    assert notes == ["1 row dropped: no problem or no answer (row 4)"]
    found, _ = read(tmp_path, rows, problem_column="question")  # a name by the user is the only one
    assert [p.text for p in found] == ["question?"]


def test_columns_in_objects_are_looked_for_in_each_row(tmp_path):
    """The rows of a file have the same columns on top, with answers in one object, the other, or both."""

    def verl(n, extra, model):
        return {"prompt": [{"role": "user", "content": f"q{n}"}], "extra_info": extra, "reward_model": model}

    rows = [
        verl(0, {"answer": "so #### 4"}, {"style": "rule"}),
        verl(1, {"index": 1}, {"ground_truth": "5"}),
        verl(2, {"answer": "so #### 6"}, {"ground_truth": "6"}),
        verl(3, {"answer": "so #### 8"}, {"ground_truth": "7"}),
        verl(4, {"answer": "so #### 8"}, None),
    ]
    found, notes = read(tmp_path, rows)
    assert [p.gold for p in found] == ["4", "5", "6", "7", "8"]
    assert notes == ["1 row kept: 'extra_info.answer' ends in another number (row 4)"]
    with pytest.raises(ConfigError, match="row 5: expected a column one of answer"):
        read(tmp_path, [*rows[:4], verl(4, {"index": 4}, {"style": "rule"})])
    rows = [{"conversations": FORMS["ShareGPT"]["conversations"], "answer": "4"}]
    rows.append({"conversations": [{"from": "human", "value": "Who?"}, FORMS["ORZ"][1]], "answer": None})
    assert [p.gold for p in read(tmp_path, rows)[0]] == ["4", "4"]  # in the last turn


def test_columns_by_config(tmp_path):
    rows = [{"Question": "q", "problem": "p", "Correct Answer": "(B)", "answer": "1"}]
    ((found,), _) = read(tmp_path, rows, problem_column="Question", answer_column="Correct Answer")
    assert (found.text, found.gold) == ("q", "(B)")


@pytest.mark.parametrize(
    "rows, knobs, message",
    [
        ([{"body": "q", "answer": "1"}], {}, "a column one of problem, question, prompt, conversations, messages, "),
        ([{"problem": "q", "text": "1"}], {}, "expected a column one of answer, final_answer, expected_answer, gold,"),
        ([row("q")], {"problem_column": "Problems"}, "data.problem_column = 'Problems'; it has 'problem', 'answer'"),
        ([row("q")], {"answer_column": "final"}, "a column data.answer_column = 'final'; it has 'problem', 'answer'"),
        ([row("q"), {"problem": "r"}], {}, "row 2: expected a column one of answer, final_answer, expected_answer, "),
        ([row("q"), {"body": "r", "answer": "1"}], {}, "row 2: expected a column one of problem, question, prompt,"),
        ([row("q"), row(7)], {}, "row 2: column 'problem' is a number; expected text"),
        ([row("q"), row(["r", "s"])], {}, "row 2: column 'problem': expected a list of objects with role and content"),
        ([row("q") | {"gold": "2"}], {}, "row 1: columns 'answer' ('1') and 'gold' ('2') hold different answers"),
        ([{"Problem": "q", "PROBLEM": "r", "answer": "1"}], {}, "columns 'Problem' and 'PROBLEM' differ in case only"),
        ([row("q") | {"a": {"X": 1, "x": 2}}], {"answer_column": "A.χ"}, "data.answer_column = 'A.χ'; it has"),
        ([row("q"), row("r", {"a": 1})], {}, "row 2: column 'answer' is a dict; expected text"),
        ([row("q"), row("r", float("nan"))], {}, "row 2: column 'answer' is a number"),
        ([row("q"), row("r\0")], {}, "row 2: column 'problem' holds a NUL"),
        ([row("q"), row("r", "\udc00")], {}, "row 2: column 'answer' holds half"),
        ([row("q", ""), row("", "1")], {}, "nothing is left: 2 rows dropped: no problem or no answer (rows 1, 2)"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_says_where(tmp_path, rows, knobs, message):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, rows, **knobs)
    assert str(error.value).startswith(f"{tmp_path / 'file.jsonl'}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


# answers


def test_numbers_become_text(tmp_path):
    values = (4, -17, 0, 142.0, -0.5, 0.1, 3.0e10, 1e300, 2**70, 10**400)
    assert golds(tmp_path, *values) == [
        "4",
        "-17",
        "0",
        "142",
        "-0.5",
        "0.1",
        "30000000000",
        "1e+300",
        str(2**70),
        str(10**400),
    ]


def test_what_an_answer_text_holds(tmp_path):
    pairs = {
        "x = 1\n#### 72": "72",
        "#### -1,234 ": "-1,234",
        "a #### b #### 7": "7",
        "#### Step 1\nAdd.\n#### Answer\nIt is \\boxed{8}.": "8",
        "#### Step 1\n8": "#### Step 1\n8",
        "####": "####",
        "So \\boxed{1}, no: \\boxed{\\frac{1}{2}}.": "\\frac{1}{2}",
        "$\\frac{1}{2}$": "\\frac{1}{2}",
        " $$x$$ ": "x",
        "$18": "$18",
        "$1$ and $2$": "$1$ and $2$",
        "\\text{(A)}": "\\text{(A)}",
        "so \\boxed{$3$}": "3",
        "unclosed \\boxed{3": "unclosed \\boxed{3",
    }
    assert golds(tmp_path, *pairs) == list(pairs.values())


def test_small_and_large_numbers_are_written_without_an_exponent(tmp_path):
    values = (1e-05, 2.5e-07, -1.5e-10, 1e16, 1e20, 1e-30)
    assert golds(tmp_path, *values) == [
        "0.00001", "0.00000025", "-0.00000000015", "10000000000000000", "100000000000000000000", "1e-30",
    ]  # fmt: skip


def test_boxes_that_are_one_answer_are_one_gold(tmp_path):
    boxes = ["thus $\\boxed{1}$ and $\\boxed{-2}$.", "first \\boxed{3}. In all \\boxed{4}"]
    assert golds(tmp_path, *boxes, column="solution") == ["1, -2", "4"]


def test_prose_in_a_solution_is_an_answer_only_if_the_user_says_so(tmp_path):
    rows = [
        {"problem": f"p{i}", "solution": text} for i, text in enumerate(["so \\boxed{5}.", "left to you", "x #### 9"])
    ]
    found, notes = read(tmp_path, rows)
    assert [p.gold for p in found] == ["5", "9"]
    assert notes == ["1 row dropped: no problem or no answer (row 2)"]
    rows.append({"problem": "p4", "solution": "Add the two.\nThat is all."})
    assert [p.gold for p in read(tmp_path, rows, answer_column="solution")[0]] == ["5", "left to you", "9"]


# forms that the field uses


USER, SYSTEM = {"role": "user", "content": "What?"}, {"role": "system", "content": "Be brief."}
FORMS = {
    "verl": {"prompt": [USER], "extra_info": {"answer": "work #### 4"}, "reward_model": {"ground_truth": "4"}},
    "ShareGPT": {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": ""}], "answer": "4"},
    "ORZ": [{"from": "human", "value": "What?"}, {"from": "assistant", "ground_truth": {"value": "4"}}],
    "MetaMath": {"question": "What?", "answer": "We add 2 and 2. The answer is: 5\nNo.\nThe answer is: $4$."},
    "capitals": {"Question": "What?", "Answer": 4},
    "null, then the solution": {"problem": "What?", "answer": None, "solution": "so \\boxed{4}"},
    "empty, then the solution": {"problem": "What?", "answer": " ", "Solution": "so \\boxed{4}"},
    "lists of one": {"problem": ["What?"], "final_answer": ["4"], "solution": ["so \\boxed{4.0}"]},
    "a short solution": {"prompt": "What?", "solution": "4", "reward_model": {"ground_truth": "4"}},
    "The answer is": {"problem": "What?", "solution": "The answer is 4"},
    "a name with a dot": {"problem": "What?", "reward_model.ground_truth": "4"},
    "the same twice": {"problem": "What?", "answer": "4", "gold": "$4$", "Answer": 4.0},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_the_field_uses(tmp_path, form):
    ((found,), notes) = read(tmp_path, [FORMS[form]])
    assert (found.text, found.gold, found.before, notes) == ("What?", "4", (), [])


@pytest.mark.parametrize("column", ["extra_info.answer", "Extra_Info.Answer", "reward_model.ground_truth"])
def test_a_nested_column_is_named_by_its_path(tmp_path, column):
    ((found,), _) = read(tmp_path, [FORMS["verl"]], answer_column=column, problem_column="prompt.0.content")
    assert (found.text, found.gold) == ("What?", "4")


def test_an_empty_list_is_no_answer_and_one_of_several_is_dropped_and_counted(tmp_path):
    rows = [row("a", []), row("b", ["1", "2"]), row("c", ["3"]), row("d", [1, 2]), row("e", None)]
    rows = [each | {"solution": [f"\\boxed{{{i}}}"] * i} for i, each in enumerate(rows)]
    found, notes = read(tmp_path, rows)
    assert [(p.text, p.gold) for p in found] == [("c", "3")]
    assert notes == [
        "2 rows dropped: no problem or no answer (rows 1, 5)",
        "2 rows dropped: a list of several answers (rows 2, 4)",
    ]


def test_a_conversation_is_asked_with_what_came_before(tmp_path):
    more = [SYSTEM, {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}, USER]
    task = task_of(tmp_path, [{"prompt": [SYSTEM, USER], "answer": "4"}, {"prompt": more, "answer": "4"}], [row("b")])
    one, two = (task.problem(i, "train") for i in range(2))  # the same question after another one is another problem
    asked = {"role": "user", "content": CFG.data.template.replace("{problem}", "What?")}
    assert task.prompt(one) == LETTERS.chat([SYSTEM, asked]) and task.prompt(two) == LETTERS.chat([*more[:3], asked])
    assert one.text == two.text == "What?" and len({one, two}) == 2
    special = [{"role": "system", "content": "a <|im_end|> b"}, {"role": "user", "content": "Who?"}]
    task = task_of(tmp_path, [row("a"), {"problem": special, "answer": "4"}], [row("b")])
    assert task.notes == ["train.jsonl: 1 row dropped: the text of a special token (row 2)"]
    with pytest.raises(ConfigError, match=r"train.jsonl: row 1: data.chat is False; expected True"):
        task_of(tmp_path, [{"prompt": [SYSTEM, USER], "answer": "4"}], [row("b")], chat=False)


def test_a_role_that_sharegpt_does_not_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="row 1: column 'conversations': a turn is from 'tool'; expected one of"):
        read(tmp_path, [{"conversations": [{"from": "tool", "value": "x"}], "answer": "1"}])


def test_case_alone_makes_another_problem_only_where_the_answer_is_another(tmp_path):
    rows = [row("Is A > B?", "Yes"), row("Is a > b?", "No"), row("IS A > B?", "yes"), row("is a > b?", "no")]
    found, notes = read(tmp_path, rows)
    assert [p.row for p in found] == [1, 2] and notes == ["2 rows dropped: an earlier row's problem (rows 3, 4)"]


def test_a_problem_that_a_file_repeats_is_normalised_once(tmp_path, monkeypatch):
    """DAPO's has each a hundred times, 1.8 million rows."""
    asked = [{"problem": f"What is {n} halves of a repeated cake?", "answer": str(n / 2)} for n in (1001, 1003)]
    done = []
    real = overlap.unicodedata.normalize
    monkeypatch.setattr(overlap.unicodedata, "normalize", lambda form, text: done.append(text) or real(form, text))
    found, notes = read(tmp_path, asked * 50)
    assert len(found) == 2 and "98 rows dropped" in notes[0]
    assert sorted(set(done)) == sorted({row[key] for row in asked for key in row}) and len(done) <= 4 * len(asked)


CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.mark.parametrize(
    "name, golds, rows",
    [
        ("mix.jsonl", ["5", "6"], None),
        ("nobox.jsonl", ["5", "5"], None),
        ("dapo2.jsonl", ["3", "4"], None),
        ("case.jsonl", ["4", "0", "4", "1", "Yes", "No", "1", "2"], [1, 3, 4, 5, 6, 7, 8, 9]),
        ("conv.jsonl", ["5"], None),
        ("orz.json", ["5"], None),
        ("verl.parquet", ["5", "5", "5"], None),
        ("dapo.parquet", ["0", "1", "2"], None),
        ("cot.jsonl", ["5"], None),
        ("lvl.jsonl", ["5", "6"], None),
        ("list.jsonl", ["5"], [1]),
    ],
)
def test_small_inputs_that_went_wrong(name, golds, rows):
    if not (CASES / name).is_file():
        pytest.skip(f"{CASES / name} is missing: it holds rows that once went wrong and is not part of the repository")
    for knobs in ({}, {"answer_column": "Solution"} if name in ("nobox.jsonl", "dapo2.jsonl") else {}):
        found, _ = read_problems(str(CASES / name), dataclasses.replace(CFG.data, **knobs), "train")
        assert [p.gold for p in found] == golds
        assert rows is None or [p.row for p in found] == rows
        assert all(name == "case.jsonl" or p.text.startswith("What is question number ") for p in found)
        assert name != "lvl.jsonl" or [p.difficulty for p in found] == ["5", "3"]


# labels


def test_labels_and_difficulty(tmp_path):
    extra = [
        {"subject": "Algebra", "level": 5},
        {"type": "Number\nTheory\x1b[2J", "difficulty": 4.625},
        {"level": "Level 3", "difficulty": 2.0},
        {"difficulty": "hard", "subject": None, "type": ["x", "y"]},
        {},
    ]
    found, _ = read(tmp_path, [row(f"p{i}") | more for i, more in enumerate(extra)])
    assert [p.difficulty for p in found] == ["5", "4", "3", "hard", ""]
    assert found[0].labels == {"subject": "Algebra", "level": "5"}
    assert found[1].labels == {"type": "Number", "difficulty": "4.625"}
    assert found[3].labels == {"difficulty": "hard"} and found[4].labels == {}
    assert len({*found}) == 5  # can be a key


# what is left out


def test_duplicates_are_dropped_and_the_first_row_stays(tmp_path):
    rows = [row("Find $x$."), row("Find $y$."), row("FIND  \\(x\\)."), row("Find  $y$.", "2"), row("Find $z$.")]
    found, notes = read(tmp_path, rows)
    assert [(p.text, p.gold, p.index, p.row) for p in found] == [
        ("Find $x$.", "1", 0, 1),
        ("Find $y$.", "1", 1, 2),
        ("Find $z$.", "1", 2, 5),
    ]
    assert notes == [
        "1 row dropped: an earlier row's problem (row 3)",
        "1 row dropped: an earlier row's problem, its answer written differently (row 4)",
    ]


def test_training_problems_that_are_held_out_are_dropped_from_training(tmp_path):
    task = task_of(tmp_path, [row("a"), row("Find $b$"), row("c")], [row("d"), row("find \\( b \\)", "7")])
    assert texts(task, "train") == ["a", "c"] and texts(task, "held_out") == ["d", "find \\( b \\)"]
    assert [task.problem(i, "train").index for i in range(2)] == [0, 1]
    assert task.notes == [f"train.jsonl: 1 row dropped: also in {tmp_path}/eval.jsonl (row 2)"]


def test_a_held_out_problem_that_is_too_long_is_kept_from_training_all_the_same(tmp_path):
    cfg = dataclasses.replace(CFG.data, template="{problem}", chat=False)
    knobs = {"template": "{problem}", "chat": False, "prompt_length": len(render("1 2 3 4 5", cfg, LETTERS))}
    task = task_of(tmp_path, [row("a"), row("1 2 3 4 5")], [row("b"), row("1  2  3  4  5")], **knobs)
    assert texts(task, "train") == ["a"] and texts(task, "held_out") == ["b"]
    assert len(task.notes) == 2


def test_prompts_that_do_not_fit_and_special_tokens_are_dropped_in_both_splits(tmp_path):
    length = len(LETTERS.encode(render("x" * 20, CFG.data, LETTERS)))
    rows = [row("x" * 20), row("y" * 21), row("a <|im_end|> b"), row("a </think> b")]
    task = task_of(tmp_path, rows, [row(r["problem"].replace("x", "z") + "!"[: i > 0]) for i, r in enumerate(rows)],
                   prompt_length=length)  # fmt: skip
    assert texts(task, "train") == ["x" * 20] and texts(task, "held_out") == ["z" * 20]
    for name in ("train", "eval"):
        assert (
            f"{name}.jsonl: 1 row dropped: a prompt of more than data.prompt_length = {length} tokens (row 2)"
            in task.notes
        )
        assert f"{name}.jsonl: 2 rows dropped: the text of a special token (rows 3, 4)" in task.notes


@pytest.mark.parametrize("gold", ["\\frac{1", "1}{2", "hang"])
def test_an_answer_that_does_not_verify_against_itself(tmp_path, gold):
    """Dropped from training; held out it stays, and every response to it is unscorable."""
    task = task_of(tmp_path, [row("a"), row("b", gold)], [row("c", gold), row("d", "4")])
    assert texts(task, "train") == ["a"] and texts(task, "held_out") == ["c", "d"]
    shown = gold.replace("\\", "\\\\")
    reason = "the answer does not verify against itself"
    assert task.notes == [
        f"train.jsonl: 1 row dropped: {reason} (row 2: '{shown}')",
        f"eval.jsonl: 1 row unscorable: {reason} (row 1: '{shown}')",
    ]
    bad, good = (task.problem(i, "held_out") for i in range(2))
    assert (task.gold(bad), task.gold(good)) == (None, "4")
    assert task.score([bad, good, bad], [f"\\boxed{{{gold}}}", "\\boxed{4}", ""]) == [UNSCORABLE, RIGHT, UNSCORABLE]


@pytest.mark.parametrize("how", ["text", "drop"])
def test_golds_without_a_value_are_compared_as_text_or_dropped_in_both_splits(tmp_path, how):
    golds = ["1", "a sentence", "2", "proof"]
    train, held_out = ([row(f"{name}{i}", gold) for i, gold in enumerate(golds)] for name in "ab")
    task = task_of(tmp_path, train, held_out, text_golds=how)
    numbers = [0, 1, 2] if how == "text" else [0, 2]
    assert texts(task, "train") == [f"a{i}" for i in numbers]
    assert texts(task, "held_out") == [f"b{i}" for i in numbers]
    done = "compared as text" if how == "text" else "dropped"
    for name in ("train", "eval"):
        assert f"{name}.jsonl: 1 row {done}: the answer cannot be compared by value (row 2: 'a sentence')" in task.notes
        assert f"{name}.jsonl: 1 row dropped: an answer that says that there is none (row 4: 'proof')" in task.notes
    assert len(task.notes) == 4
    assert [task.problem(i, "held_out").index for i in range(task.size("held_out"))] == list(range(len(numbers)))


def test_golds_that_nothing_can_compare_do_not_inflate_accuracy(tmp_path):
    """Four problems, one right answer in four to each: pass@1 is 25 %, and no response is unscorable."""
    golds = ["17", "x+1", "f: A \\to B \\text{ is onto}", "2, 4, 6, \\ldots, 2n"]
    with Verifier(CFG.verifier) as verifier:
        task = task_of(tmp_path, [row("z")], [row(f"p{i}", gold) for i, gold in enumerate(golds)], verifier=verifier)
        assert [note.count("compared as text") for note in task.notes] == [1]
        problems = [task.problem(i, "held_out") for i in range(4)]
        said = {gold: [gold, "18", "\\text{nothing}", "x+2"] for gold in golds}
        outcomes = [
            task.score([problem] * 4, [f"\\boxed{{{answer}}}" for answer in said[problem.gold]]) for problem in problems
        ]
    assert outcomes == [[RIGHT, WRONG, WRONG, WRONG]] * 4


@pytest.mark.parametrize(
    "train, held_out, message",
    [
        ([row("a")], [row("a")], "train.jsonl: nothing is left: 1 row dropped: also in"),
        ([row("<think>")], [row("a")], "train.jsonl: nothing is left: 1 row dropped: the text of a special token"),
        ([row("a")], [row("b" * 9999)], "eval.jsonl: nothing is left: 1 row dropped: a prompt of more than"),
        ([row("a")], [row("b", "{")], "eval.jsonl: nothing is left: 1 row unscorable: the answer does not verify"),
    ],
)
def test_a_file_of_which_nothing_is_left_is_an_error(tmp_path, train, held_out, message):
    with pytest.raises(ConfigError) as error:
        task_of(tmp_path, train, held_out)
    assert str(error.value).startswith(f"{tmp_path}/{message}")


def files_of(tmp_path, *files, **knobs):
    """A task of several training files, 0.jsonl and on."""
    names = ",".join(write(tmp_path / f"{i}.jsonl", rows) for i, rows in enumerate(files))
    cfg = dataclasses.replace(CFG.data, train=names, eval=write(tmp_path / "eval.jsonl", [row("held out")]), **knobs)
    task = ProblemsTask(dataclasses.replace(CFG, data=cfg), LETTERS, Equal())
    task.notes[:] = [note.removeprefix(f"{tmp_path}/") for note in task.notes]
    return task


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
def test_several_files_are_read_one_after_the_other_and_none_repeats_another(tmp_path, weights):
    first, second = [row("a"), row("b"), row("c", "hang")], [row("B", "1"), row("held out"), row("c"), row("d")]
    task = files_of(tmp_path, first, second, weights=weights)
    found = [task.problem(i, "train") for i in range(4)]
    assert texts(task, "train") == ["a", "b", "c", "d"] and [problem.index for problem in found] == [0, 1, 2, 3]
    assert [problem.source for problem in found] == [f"{tmp_path}/{n}.jsonl" for n in (0, 0, 1, 1)]
    shares = (0.75, 0.25) if weights else (None, None)
    assert task.sources == tuple(Source(f"{tmp_path}/{n}.jsonl", 2, share) for n, share in enumerate(shares))
    assert task.notes == [
        "0.jsonl: 1 row dropped: the answer does not verify against itself (row 3: 'hang')",
        f"1.jsonl: 1 row dropped: also in {tmp_path}/eval.jsonl (row 2)",
        f"1.jsonl: 1 row dropped: also in {tmp_path}/0.jsonl (row 1)",
    ]


def test_one_of_several_files_of_which_nothing_is_left_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/1.jsonl: nothing is left: 1 row dropped: also in .*0.jsonl"):
        files_of(tmp_path, [row("a")], [row("a")])
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/1.jsonl: is empty"):
        files_of(tmp_path, [row("a")], [])


def test_a_file_whose_name_has_a_comma_is_one_file(tmp_path):
    data = dataclasses.replace(CFG.data, train=write(tmp_path / "a,b.jsonl", [row("a")]), eval="x")
    assert weighed(data) == [(str(tmp_path / "a,b.jsonl"), None)]


# the face of a task


def test_prompt_and_score(tmp_path):
    verifier = Equal()
    task = task_of(tmp_path, [row("a", "4"), row("b", "5")], [row("c")], verifier=verifier)
    a, b = (task.problem(i, "train") for i in range(2))
    assert task.prompt(a) == render("a", CFG.data, LETTERS)
    verifier.asked.clear()
    found = task.score(
        [a, b, a, b, a], ["\\boxed{4}", "\\boxed{4}", "no box: 4", "\\boxed{3} or \\boxed{5}", "\\boxed{hang}"]
    )
    assert found == [RIGHT, WRONG, WRONG, WRONG, UNSCORABLE]
    assert verifier.asked == [[("4", "4"), ("4", "5"), ("3, 5", "5"), ("hang", "4")]]  # all at once
    with pytest.raises(ValueError):
        task.score([a], [])
    assert task.analyse(a, "") is None and task.forbid_giving_up(LETTERS) is None
    assert task.cut_answer_prefix == CFG.scaling.answer_prefix


@pytest.mark.parametrize("index, split", [(2, "train"), (-1, "train"), (1, "held_out"), (0, "test")])
def test_an_unknown_problem_is_an_error(tmp_path, index, split):
    task = task_of(tmp_path, [row("a"), row("b")], [row("c")])
    with pytest.raises(ValueError, match="expected an index"):
        task.problem(index, split)


def test_demonstrations_come_from_the_sft_file_and_none_is_held_out(tmp_path):
    sft = [{"prompt": "p", "response": "r"}, {"prompt": "solve c and d and e and f now", "response": "s"}]
    task = task_of(tmp_path, [row("a")], [row("c and d and e and f")], sft)
    assert task.num_demonstrations() == 2  # 19 letters are too few to be looked for inside a text
    assert task.demonstration(0, 1) == task.demonstration(0, 2) == (render("p", CFG.data, LETTERS), "r")
    long = "c and d and e and f now, if you can"
    sft[1]["prompt"] = f"Please: {long}!"
    task = task_of(tmp_path, [row("a")], [row(long)], sft)
    assert task.num_demonstrations() == 1 and task.notes == ["sft.jsonl: 1 row dropped: a held-out problem (row 2)"]


def test_without_a_cold_start_its_file_is_not_read(tmp_path):
    cfg = dataclasses.replace(CFG.data, train=write(tmp_path / "t", [row("a")]), eval=write(tmp_path / "e", [row("b")]))
    for sft, steps in (("", 5), ("/no/such/file", 0)):
        whole = dataclasses.replace(
            CFG, data=dataclasses.replace(cfg, sft=sft), sft=dataclasses.replace(CFG.sft, num_steps=steps)
        )
        assert ProblemsTask(whole, LETTERS, Equal()).num_demonstrations() == 0


class Pieces(Letters):
    """</think> is no special text, and falls into pieces as in Qwen2.5: a piece may hold what stands before it."""

    special_texts = Letters.control
    pieces = ("é.</", "think", ">\n", "ab", "c", "</", ">")

    def encode(self, text):
        ids = []
        while text:
            piece = next((p for p in self.pieces if text.startswith(p)), text[0])
            ids.append(100 + self.pieces.index(piece) if piece in self.pieces else 1000 + ord(piece))
            text = text[len(piece) :]
        return ids

    def decode(self, ids):
        return "".join(self.pieces[i - 100] if i < 1000 else chr(i - 1000) for i in ids)


@pytest.mark.parametrize(
    "text, end",
    [
        ("abc</think>\n4", 2),
        ("</think>4", 0),
        ("abcé.</think>\n", 2),  # the token that begins the </think> is not before it
        ("abc</think>x</think>", 2),
        ("abc</thin", None),
        ("abc", None),
        ("", None),
    ],
)
def test_the_thought_ends_where_its_closing_text_begins(tmp_path, text, end):
    task = task_of(tmp_path, [row("a")], [row("b")])
    assert task.thought_end(Pieces().encode(text), Pieces()) == end
    whole = {"abc</think>\n4": 3, "</think>4": 0, "abcé.</think>\n": 5, "abc</think>x</think>": 3}
    assert task.thought_end(LETTERS.encode(text), LETTERS) == whole.get(text)


def test_a_closing_token_that_decodes_to_nothing_is_found(tmp_path):
    class Hidden(Letters):
        def decode(self, ids):
            return "".join(chr(i - 10) for i in ids if i >= 10)

    assert task_of(tmp_path, [row("a")], [row("b")]).thought_end(Hidden().encode("abc</think>4"), Hidden()) == 3


def test_parts_that_other_programs_use(tmp_path):
    found, _ = read(tmp_path, [row("a"), row("<|im_end|>"), row("b", "{"), row("c")])
    kept, notes = usable(found, CFG.data, LETTERS)
    assert [p.text for p in kept] == ["a", "b", "c"] and len(notes) == 1
    kept, notes = verifiable(kept, Equal())
    assert [(p.text, p.index) for p in kept] == [("a", 0), ("c", 3)] and "(row 3: '{')" in notes[0]


# real files


def shared(name):
    if not (SHARED / name).is_file():
        pytest.skip(f"{SHARED / name} is missing: download GSM8K, MATH and their like to there")
    return str(SHARED / name)


@pytest.mark.parametrize(
    "name, count, dropped, first",
    [
        ("gsm8k_train.jsonl", 7473, 0, ["72", "10", "5", "42"]),
        ("gsm8k_test.jsonl", 1319, 0, ["18", "3", "70000", "540"]),
        ("math_train.json", 7466, 8, ["0", "98", "4", "17"]),
        ("math500.jsonl", 500, 0, ["\\left( 3, \\frac{\\pi}{2} \\right)", "p - q", "\\frac{14}{3}", "9"]),
        ("aime24.jsonl", 30, 0, ["204", "113", "371", "385"]),
        ("aime_1983_2023.json", 975, 0, ["60", "15", "20", "26"]),
        ("amc83.json", 83, 0, ["142", "144", "81", "4"]),
    ],
)
def test_real_files(name, count, dropped, first):
    found, notes = read_problems(shared(name), CFG.data, "train")
    assert (len(found), [p.gold for p in found[:4]]) == (count, first)
    assert sum(int(note.split(": ")[1].split()[0]) for note in notes) == dropped
    if name[:3] in ("gsm", "aim", "amc"):
        assert all(p.gold.replace(",", "").lstrip("-").isdigit() for p in found)
    if name == "math500.jsonl":
        assert collections.Counter(p.difficulty for p in found) == {"5": 134, "4": 128, "3": 105, "2": 90, "1": 43}
        assert len({p.labels["subject"] for p in found}) == 7


def test_rows_of_math_train_that_are_left_out():
    _, notes = read_problems(shared("math_train.json"), CFG.data, "train")
    assert [note.partition(": ")[2] for note in notes] == [
        "4 rows dropped: no problem or no answer (rows 887, 1010, 5329, ...)",
        "3 rows dropped: an earlier row's problem (rows 958, 3871, 7354)",
        "1 row dropped: an earlier row's problem, its answer written differently (row 4311)",
    ]


def test_math500_in_a_training_file_is_found_however_it_is_set(tmp_path):
    """Of themselves the two share no text (see below); every fifth of MATH500 is put in, set differently."""
    held_out, _ = read_problems(shared("math500.jsonl"), CFG.data, "held_out")
    rows = json.loads(Path(shared("math_train.json")).read_text(encoding="utf-8"))[:800]
    rows = [row(r["problem"], r["answer"]) for r in rows]
    rows += [row(p.text.replace("$", " $ ").replace("\\frac", "\\dfrac").upper()) for p in held_out[::5]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    data = dataclasses.replace(CFG.data, train=str(tmp_path / "train.parquet"), eval=shared("math500.jsonl"))
    task = ProblemsTask(dataclasses.replace(CFG, data=dataclasses.replace(data, prompt_length=10**6)), LETTERS, Equal())
    assert (task.size("train"), task.size("held_out")) == (800, 500)
    assert task.notes == [f"{data.train}: 100 rows dropped: also in {data.eval} (rows 801, 802, 803, ...)"]


def test_real_training_and_benchmark_files_share_no_text():
    for train, held_out in (("math_train.json", "math500.jsonl"), ("aime_1983_2023.json", "aime24.jsonl")):
        keys = [{normalise(p.text) for p in read_problems(shared(n), CFG.data, "")[0]} for n in (train, held_out)]
        assert not keys[0] & keys[1]


def test_a_url_and_parquet_give_the_same_problems(tmp_path):
    import fsspec

    rows = [row("a", "4") | {"level": 3}, row("b", "#### 5") | {"level": 1}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "file.parquet")
    with fsspec.open("memory://test_problems/file.json", "w") as file:
        json.dump(rows, file)
    lines, _ = read(tmp_path, rows)
    for path in (str(tmp_path / "file.parquet"), "memory://test_problems/file.json"):
        found, _ = problems.read_problems(path, CFG.data, "train")
        assert [dataclasses.replace(p, source="") for p in found] == [dataclasses.replace(p, source="") for p in lines]

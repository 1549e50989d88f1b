# SPDX-License-Identifier: Apache-2.0
"""Reward functions of users: what they are called with, what becomes of what they return, and all that is bad in them.

Processes are real. The functions are written into a folder of the test, and expected rewards are by hand.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from configs import tiny
from t1jax import config
from t1jax.checks import plain_reward, reward_terms, right_and_wrong
from t1jax.config import ConfigError, RewardConfig, VerifierConfig
from t1jax.rewards.functions import Functions

FUNCTIONS = """
import math, os, sys, time
from dataclasses import dataclass

import helper  # beside this file
sys.stderr.write("noise" * 100_000)
import numpy as np

@dataclass
class Kept:  # looks itself up in sys.modules
    x: int

def length(prompt, response, row):
    return len(response) + helper.TENTH * len(prompt)

def column(prompt, response, row):
    return row["points"]

def said(prompt, response, row):
    print("noise", flush=True), os.write(1, b"1" * 9), os.write(2, b"2" * 200_000)
    return float(sys.stdin.read() == "")

def of_group(prompts, responses, rows):
    mean = sum(map(len, responses)) / len(responses)
    return np.array([len(response) - mean for response in responses], np.float32)

def short(prompts, responses, rows):
    return [0.0] * (len(responses) - 1)

def odd(prompt, response, row):
    return {
        "none": None, "nan": math.nan, "inf": -math.inf, "text": "1.0", "list": [1.0], "true": True, "int": 3,
        "numpy": np.float64(0.25), "dict": {"error": "mine"}, "huge": 10.0 ** 300,
    }[response]

def bad(prompt, response, row):
    if response == "spin":
        while True:
            pass
    if response == "sleep":
        time.sleep(1000)
    if response == "eat":
        return len(bytearray(4 << 30))
    if response == "exit":
        os._exit(0)
    if response == "quit":
        sys.exit("bye")
    if response == "deep":
        return bad(prompt, response, row)
    if response == "child":
        import subprocess
        open(row["pid"], "w").write(str(subprocess.Popen(["sleep", "1000"]).pid))
        while True:
            pass
    return 1.0

def other(response):
    return 1.0

async def later(prompt, response, row):
    return 1.0

def wide(prompt, response, row, **more):
    return 0.5

NUMBER = 5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rewards")
    (path / "mine.py").write_text(FUNCTIONS)
    (path / "helper.py").write_text("TENTH = 0.1\n")
    return path


def functions(folder: Path, *names: str, weights: tuple[float, ...] = (), file: str = "mine.py", **knobs) -> Functions:
    cfg = config.load(tiny.get_config())
    verifier = VerifierConfig(**{"workers": 2, "deadline": 3.0, "memory": 1024, "recycle": 5000} | knobs)
    named = ",".join(f"{folder / file}:{name}" for name in names)
    return Functions(dataclasses.replace(cfg, reward=RewardConfig(named, weights), verifier=verifier))


def test_weights_columns_groups_and_what_is_printed(folder):
    rows = [{"points": 1}, {"points": 2}]
    names = ("length", "column", "said", "of_group", "wide")
    with functions(folder, *names, weights=(1.0, 10.0, 100.0, 0.5, 0.0)) as all_of_them:
        all_of_them.begin("ab", "c", rows[0])
        found = all_of_them.rewards(
            ["ab", "ab", "ab", "abc"], ["x", "", "xxxxx", "é\ud800" * 40_000], [rows[0], rows[0], rows[0], rows[1]]
        )
        lengths = [(1, 2, 1 - 2), (0, 2, 0 - 2), (5, 2, 5 - 2), (80_000, 3, 0)]
        points = [1, 1, 1, 2]
        expected = [n + 0.1 * p + 10 * k + 100 + 0.5 * away for (n, p, away), k in zip(lengths, points, strict=True)]
        assert found == pytest.approx(expected)
        assert all_of_them.rewards([], [], []) == []
    assert not list(folder.glob("__pycache__")), "nothing is written beside the user's files"


def test_what_is_no_number_is_unscorable_and_told_once_with_the_functions_name(folder, caplog):
    kinds = ["none", "nan", "inf", "text", "list", "true", "int", "numpy", "dict", "huge", "missing", "nan"]
    with functions(folder, "odd") as odd:
        found = odd.rewards([""] * len(kinds), kinds, [{}] * len(kinds))
    known = {"true": 1.0, "int": 3.0, "numpy": 0.25}
    assert found == [known.get(kind) for kind in kinds]
    said = [record.getMessage() for record in caplog.records]
    assert all("mine.py:odd" in line for line in said)
    assert sum("raised KeyError: 'missing' (mine.py, line" in line for line in said) == 1
    for words in ("returned nan", "returned -inf", "returned str '1.0'", "returned list [1.0]", "returned dict"):
        assert sum(words in line for line in said) == 1, (words, said)


def test_a_list_of_another_length_is_told(folder, caplog):
    row = {"points": 0}
    with functions(folder, "short") as short:
        assert short.rewards(["p"] * 3, list("abc"), [row] * 3) == [None] * 3
    assert "returned 2 rewards; expected one for each of 3 responses" in caplog.text


def test_a_response_on_which_it_hangs_or_dies_alone_is_unscorable(folder, caplog, tmp_path):
    texts = ["spin", "fine", "sleep", "eat", "exit", "quit", "deep", "fine too"]
    start = time.monotonic()
    with functions(folder, "bad", deadline=0.4) as bad:
        found = bad.rewards(["p"] * len(texts), texts, [{"pid": ""}] * len(texts))
        assert found == [None, 1.0, None, None, None, None, None, 1.0]
        assert "raised SystemExit: bye" in caplog.text and "raised RecursionError" in caplog.text
        assert "mine.py:bad hung on" in caplog.text
        pid = tmp_path / "pid"
        assert bad.rewards(["p"], ["child"], [{"pid": str(pid)}]) == [None]
        for _ in range(100):  # the worker's child goes with it
            if not _alive(int(pid.read_text())):
                break
            time.sleep(0.1)
        assert not _alive(int(pid.read_text()))
    assert time.monotonic() - start < 120


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


LOADING = {
    "no such file": ("gone.py", None, "score", "gone.py: no such file"),
    "no such name": ("a.py", "def one(prompt, response, row): ...", "score", "a.py has no function score; it has one"),
    "no function": ("a.py", "score = 5", "score", "a.py has no function score; it has none"),
    "arguments": (
        "a.py",
        "def score(text): ...",
        "score",
        "score takes \\(text\\); expected \\(prompt, response, row\\)",
    ),
    "async": ("a.py", "async def score(prompt, response, row): ...", "score", "and is async; expected"),
    "import": ("a.py", "import no_such_module", "score", "a.py does not load: ModuleNotFoundError: .*a.py, line 1"),
    "syntax": ("a.py", "def score(:", "score", "a.py does not load: SyntaxError"),
    "leaves": ("a.py", "import sys; sys.exit(3)", "score", "a.py does not load: SystemExit: 3"),
    "dies": ("a.py", "import os; os._exit(3)", "score", "does not start: exit status 3"),
    "memory": ("a.py", "x = bytearray(4 << 30)", "score", "a.py does not load: MemoryError"),
}


@pytest.mark.parametrize("case", LOADING)
def test_what_does_not_load_is_one_line(tmp_path, case):
    file, text, name, expected = LOADING[case]
    if text is not None:
        (tmp_path / file).write_text(text)
    with functions(tmp_path, name, file=file) as wrong, pytest.raises(ConfigError, match=expected) as error:
        wrong.rewards(["p"], ["r"], [{}])
    assert "\n" not in str(error.value) and "reward.function" in str(error.value)


def test_a_file_that_never_loads_is_given_up(tmp_path, monkeypatch):
    from t1jax.rewards import process

    monkeypatch.setattr(process, "_START_LIMIT", 2.0)
    (tmp_path / "a.py").write_text("while True: pass")
    with functions(tmp_path, "score", file="a.py") as wrong:
        with pytest.raises(ConfigError, match="not ready after 2 s"):
            wrong.rewards(["p"], ["r"], [{}])
        assert wrong.counts()["started"] == 1  # it would not load the next time either


def test_the_first_problem_shows_a_function_that_cannot_work(folder):
    with functions(folder, "column") as column:
        with pytest.raises(ConfigError, match=r"mine.py:column raised KeyError: 'points'.*whose row has answer, text"):
            column.begin("p", "r", {"answer": 1, "text": 2})
        column.begin("p", "r", {"points": None})  # no reward is none of its faults


def test_terms():
    assert reward_terms(RewardConfig("correct", ())) == [("correct", 1.0)]
    both = RewardConfig("correct, a/b.py:f", (1.0, 0.2))
    assert reward_terms(both) == [("correct", 1.0), ("a/b.py:f", 0.2)]
    assert right_and_wrong(both) and not plain_reward(both)
    assert not right_and_wrong(RewardConfig("a.py:f", ())) and plain_reward(RewardConfig("correct", (1.0,)))
    assert not plain_reward(RewardConfig("correct", (2.0,)))


@pytest.mark.parametrize(
    ("function", "weights", "words"),
    [
        ("a.py", (), "FILE.py:NAME"),
        ("a.txt:f", (), "FILE.py:NAME"),
        ("correkt", (), "FILE.py:NAME"),
        ("gs://b/a.py:f", (), "local FILE.py:NAME"),
        ("a.py:f g", (), "FILE.py:NAME"),
        ("", (), "FILE.py:NAME"),
        ("a.py:f,a.py:f", (), "names a.py:f twice"),
        ("a.py:f", (1.0, 2.0), "reward.weights has 2 numbers; expected one for each of the 1"),
    ],
)
def test_terms_that_are_refused(function, weights, words):
    with pytest.raises(ConfigError, match=words):
        reward_terms(RewardConfig(function, weights))

# SPDX-License-Identifier: Apache-2.0
"""Rules of form, and a scorer in which one bad row never touches another."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from configs import tiny
from t1jax import config
from t1jax.config import ConfigError
from t1jax.rewards import penalties, score
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG
from t1jax.rewards.score import make_scorer
from t1jax.tasks.pairs.task import PairsTask
from t1jax.text import tokenizer

CFG = config.load(tiny.get_config())
TASK = PairsTask(CFG.task)


@pytest.fixture(scope="module")
def trained() -> tokenizer.SentencePieceTokenizer:
    texts = TASK.corpus(200, 0)
    return tokenizer.SentencePieceTokenizer(tokenizer.train_sentencepiece(texts, 96, TASK.symbols(), 0))


def test_repetition_counts_one_substring_of_the_given_length():
    line = "6+14=20, need 20: too small\n"
    assert penalties.repetitive(line * 5, length=len(line), count=5)
    assert not penalties.repetitive(line * 5, length=len(line), count=6)
    assert not penalties.repetitive(line * 5, length=4 * len(line) + 2, count=2 * len(line))


def test_repetition_counts_overlaps_and_stops_at_the_edges():
    assert penalties.repetitive("a" * 10, length=8, count=3)
    assert not penalties.repetitive("a" * 10, length=8, count=4)
    assert not penalties.repetitive("", length=8, count=1)
    assert penalties.repetitive("x" * 3 + "abcabc" + "y", length=3, count=2)


def test_repetition_with_the_default_rule():
    phrase = "Wait, let me check that once more: the sum of the two numbers is 20, so it is right. "
    assert len(phrase) >= 80
    assert penalties.repetitive(phrase * 20, CFG.rl.repeat_length, CFG.rl.repeat_count)
    assert not penalties.repetitive(phrase * 18, CFG.rl.repeat_length, CFG.rl.repeat_count)
    different = "".join(f"{phrase}{n} " for n in range(40))
    assert not penalties.repetitive(different, 100, CFG.rl.repeat_count)


def test_substrings_of_ordinary_text_are_not_counted_one_by_one():
    """A hash that put them together would be right, and slow."""
    text = "".join(f"{n} times {n} is {n * n}. " for n in range(3000))
    assert len(text) > 50_000 and np.bincount(penalties._hashes(text, 80)).max() < CFG.rl.repeat_count


@pytest.mark.parametrize(
    "text, is_garbled",
    [
        ("6+14=20, need 20: yes\n", False),
        ("", False),
        ("\\frac{π}{2} ≤ ∑ x² → ∞ – naïve “quote” …\r\n\t", False),
        ("e\u0301", False),
        ("απόδειξη", False),
        ("所以答案是二十", True),
        ("ответ двадцать", True),
        ("\ufffd\ufffd", True),
        ("\u2047 \u2047 \u2047", True),
        ("\x00\x01\x02", True),
        ("\ue000\ue001", True),
    ],
)
def test_garbled_text(text, is_garbled):
    assert penalties.garbled(text, share=0.05) is is_garbled


def test_garbled_share_is_a_threshold():
    assert not penalties.garbled("a" * 95 + "是" * 5, share=0.05)
    assert penalties.garbled("a" * 94 + "是" * 6, share=0.05)


def rows(trained, responses: list[str], length: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, sampled and stopped as the sampler gives them; the rest of a row holds rubbish."""
    tokens = np.full((len(responses), length), trained.piece_id("7"), np.int32)
    sampled = np.zeros((len(responses), length), bool)
    for row, text in enumerate(responses):
        ids = [*trained.encode(text), *trained.stop_ids]
        tokens[row, : len(ids)] = ids
        sampled[row, : len(ids)] = True
    return tokens, sampled, np.ones(len(responses), bool)


def test_scorer_reads_sampled_tokens_only_and_row_by_row(trained):
    scorer = make_scorer(TASK, "train", trained, CFG.rl)
    golds = [TASK.gold(TASK.problem(index, "train")) for index in (3, 5, 8)]
    responses = [f"</think>\n\\boxed{{{gold}}}" for gold in golds]
    tokens, sampled, stopped = rows(trained, responses)
    stopped[2] = False
    scores = scorer(np.array([3, 5, 8], np.int32), tokens, sampled, stopped)
    assert scores.outcome.tolist() == [RIGHT, RIGHT, RIGHT]
    assert scores.overlong.tolist() == [False, False, True]
    assert scores.repetition.tolist() == scores.garbled.tolist() == [False, False, False]
    assert scores.outcome.dtype == np.int8 and {part.dtype for part in scores[1:4]} == {np.dtype(bool)}
    assert scorer(np.array([5, 3, 0], np.int32), tokens, sampled, stopped).outcome.tolist() == [WRONG, WRONG, WRONG]
    sampled[1, 4] = False  # the box of row 1 loses a number
    assert scorer(np.array([3, 5, 8], np.int32), tokens, sampled, stopped).outcome.tolist() == [RIGHT, WRONG, RIGHT]


def test_scorer_looks_problems_up_in_its_own_split(trained):
    gold = TASK.gold(TASK.problem(3, "held_out"))
    assert TASK.problem(3, "train").numbers != TASK.problem(3, "held_out").numbers
    tokens, sampled, stopped = rows(trained, [f"</think>\n\\boxed{{{gold}}}"])
    index = np.array([3], np.int32)
    assert make_scorer(TASK, "held_out", trained, CFG.rl)(index, tokens, sampled, stopped).outcome.tolist() == [RIGHT]
    assert make_scorer(TASK, "train", trained, CFG.rl)(index, tokens, sampled, stopped).outcome.tolist() == [WRONG]


def test_scorer_applies_the_rules_with_their_knobs(trained):
    strict = dataclasses.replace(CFG.rl, repeat_length=20, repeat_count=3)
    line = "6+14=20, need 20: too small\n"
    tokens, sampled, stopped = rows(trained, [line * 3, line * 2, "</think>\n\\boxed{6+14}"])
    tokens[2, :3] = 2  # unknown tokens decode to broken characters
    index = np.array([0, 1, 2], np.int32)
    scores = make_scorer(TASK, "train", trained, strict)(index, tokens, sampled, stopped)
    assert scores.repetition.tolist() == [True, False, False]
    assert scores.garbled.tolist() == [False, False, True]
    assert not make_scorer(TASK, "train", trained, CFG.rl)(index, tokens, sampled, stopped).repetition.any()


def test_as_many_threads_as_cores_read_responses_and_keep_their_order(trained, monkeypatch):
    """Each response is decoded only once three are being decoded."""
    monkeypatch.setattr(score, "cores", lambda: 3)
    together = threading.Barrier(3, timeout=20)

    class Slow:
        def decode(self, ids):
            together.wait()
            return trained.decode(ids)

    class Echo(BrokenTask):
        def score(self, problems, responses):
            return [RIGHT if response == f"{index}" else WRONG for index, response in enumerate(responses)]

    tokens, sampled, stopped = rows(trained, [f"{index}" for index in range(6)])
    scores = make_scorer(Echo(), "train", Slow(), CFG.rl)(np.arange(6), tokens, sampled, stopped)
    assert scores.outcome.tolist() == [RIGHT] * 6


class BrokenTask:
    """A check that crashes on every other problem."""

    def problem(self, index, split):
        return index

    def score(self, problems, responses):
        assert len(problems) == len(responses)
        if odd := [problem for problem in problems if problem % 2]:
            raise ZeroDivisionError(odd)
        return [RIGHT] * len(problems)


def test_a_crash_of_the_check_is_unscorable_for_its_row_alone_and_logged_once(trained, caplog):
    scorer = make_scorer(BrokenTask(), "train", trained, CFG.rl)
    batch = rows(trained, ["\\boxed{6+14}"] * 4)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            scores = scorer(np.arange(4, dtype=np.int32), *batch)
            assert scores.outcome.tolist() == [RIGHT, UNSCORABLE, RIGHT, UNSCORABLE]
    assert len(caplog.records) == 1
    assert "problem 1" in caplog.text and "ZeroDivisionError" in caplog.text


def test_a_verifier_that_cannot_start_is_no_rows_fault(trained):
    class NoWorkers(BrokenTask):
        def score(self, problems, responses):
            raise ConfigError("verifier: no worker starts")

    scorer = make_scorer(NoWorkers(), "train", trained, CFG.rl)
    with pytest.raises(ConfigError, match="no worker starts"):
        scorer(np.arange(4, dtype=np.int32), *rows(trained, ["\\boxed{6+14}"] * 4))


def test_no_box_is_wrong_and_not_unscorable(trained):
    scorer = make_scorer(TASK, "train", trained, CFG.rl)
    assert scorer(np.array([0], np.int32), *rows(trained, ["</think>\n"])).outcome.tolist() == [WRONG]


def test_rewards_do_not_import_jax():
    program = "import sys, t1jax.rewards.score, t1jax.tasks.pairs; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[2]).returncode == 0

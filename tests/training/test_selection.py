# SPDX-License-Identifier: Apache-2.0
"""T1's filter inside a run: rates by hand, what is kept, found again on resume, and the run that draws from it."""

from __future__ import annotations

import dataclasses
import json
import types

import numpy as np
import pytest
import small

from t1jax.config import ConfigError
from t1jax.host.progress import Progress
from t1jax.prompts import streams
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG
from t1jax.rewards.score import make_scorer
from t1jax.rollouts.generate import Generator
from t1jax.tasks.pairs.task import PairsTask
from t1jax.tasks.task import Source
from t1jax.text import tokenizer
from t1jax.training import selection, stages

KNOBS = {
    "mesh__fsdp": 1,
    "mesh__data": 8,
    "data__prompt_length": 24,
    "sft__num_steps": 3,
    "sft__sequence_length": 64,
    "rl__num_steps": 4,
    "rl__prompts_per_step": 8,
    "rl__max_new_tokens": 12,
    "rl__window": 12,
    "rl__filter_pass_rate": 0.3,
    "rl__filter_samples": 4,
    "rl__filter_problems": 24,
    "eval__num_problems": 8,
    "eval__batch_size": 16,
    "eval__quick_problems": 8,
    "eval__every": 0,
    "eval__samples": 0,
    "scaling__budgets": (),
    "checkpoint__sft_every": 2,
    "checkpoint__every": 2,
    "task__curriculum": 0.5,
}
CFG = small.make_config(**KNOBS)
TOKENS = tokenizer.SentencePieceTokenizer(
    tokenizer.train_sentencepiece(
        PairsTask(CFG.task).corpus(300, 0), CFG.model.vocab_size, PairsTask(CFG.task).symbols()
    )
)


KEPT = [i for i in range(24) if i % 5 < 2 and i not in (7, 11)]


class Graded(PairsTask):
    """Judges the tries at problem i in order: right as often as i mod 5 says; those of problem 7 cannot be judged,
    nor can the first two of problem 11, of whose others one is right."""

    def __init__(self, cfg=CFG, size=None):
        super().__init__(cfg.task)
        self.asked, self._size = [], size

    def size(self, split):
        return self._size if split == "train" else None

    def score(self, problems, responses):
        out, seen = [], {}
        for problem in problems:
            i, attempt = problem.index, seen.setdefault(problem.index, 0)
            seen[i] += 1
            assert problem.split == "train"
            if i == 7 or (i == 11 and attempt < 2):
                out.append(UNSCORABLE)
            else:
                out.append(RIGHT if attempt < (3 if i == 11 else i % 5) else WRONG)
        self.asked += [(problem.index, response) for problem, response in zip(problems, responses, strict=True)]
        return out


@pytest.fixture(scope="module")
def params():
    return small.make_params(CFG, small.make_mesh())


def select(task, params, workdir, cfg=CFG):
    return selection.select(cfg, small.make_mesh(), task, TOKENS, params, workdir, Progress())


@pytest.fixture(scope="module")
def done(params, tmp_path_factory):
    """(task, what select gave, the workdir)."""
    task, workdir = Graded(), tmp_path_factory.mktemp("filter")
    return task, select(task, params, workdir), workdir


def test_problems_are_kept_by_the_share_of_right_among_the_scorable(done):
    task, chosen, workdir = done
    assert len(task.asked) == 24 * 4 and len(set(task.asked)) > 60  # tries differ
    rates = dict(json.loads((workdir / "filter.json").read_text())["pass_rates"])
    assert list(rates) == list(range(24)) and rates[7] is None and rates[11] == 0.5
    assert all(rates[i] == i % 5 / 4 for i in range(24) if i not in (7, 11))
    assert chosen.size("train") == len(KEPT) and chosen.size("held_out") is None
    for place, index in enumerate(KEPT):
        assert chosen.problem(place, "train") == task.problem(index, "train")
    assert chosen.problem(3, "held_out") == task.problem(3, "held_out")
    assert chosen.prompt(chosen.problem(0, "train")) == task.prompt(task.problem(0, "train"))
    assert chosen.difficulties == task.difficulties


def test_tries_are_at_the_temperature_of_training_and_batches_change_nothing(done, params, monkeypatch, tmp_path):
    asked = {}
    real = Generator.__call__

    def call(self, *arguments, **options):
        asked.update(options)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Generator, "__call__", call)
    other = Graded()
    cfg = dataclasses.replace(CFG, eval=dataclasses.replace(CFG.eval, batch_size=64))
    select(other, params, tmp_path, cfg)
    assert asked["temperature"] == CFG.rl.temperature == 1.2 and asked["responses"] == 4
    assert asked["truncate"]  # a try is cut as a response of RL is
    assert other.asked == done[0].asked


def test_what_was_found_is_found_again_without_a_model(done):
    _, chosen, workdir = done
    task = Graded()
    again = select(task, None, workdir)
    assert not task.asked and [again.problem(i, "train") for i in range(again.size("train"))] == [
        chosen.problem(i, "train") for i in range(chosen.size("train"))
    ]


def test_a_filter_that_is_gone_or_broken_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="filter.json: not found, but reinforcement learning has begun"):
        select(Graded(), None, tmp_path)
    (tmp_path / "filter.json").write_text("[]")
    with pytest.raises(ConfigError, match="filter.json: .*; expected what t1jax wrote"):
        select(Graded(), None, tmp_path)


def test_too_few_are_an_end_that_names_the_knobs(done):
    cfg = small.with_rl(CFG, filter_pass_rate=0.0)
    with pytest.raises(
        ConfigError, match=r"filter_pass_rate = 0.0 keeps 5 of 24 problems; expected at least rl.prompts_per_step = 8"
    ):
        select(Graded(), None, done[2], cfg)


def test_files_have_as_many_problems_as_are_kept_of_them():
    task = Graded()
    task.sources = (Source("a", 4, 0.5), Source("b", 2, 0.3), Source("c", 3, 0.2))
    assert [s.size for s in selection.Selected(task, [0, 3, 4, 6, 7, 8]).sources] == [2, 1, 3]
    assert [s.size for s in selection.Selected(task, [1, 8]).sources] == [1, 0, 1]
    assert [s.weight for s in selection.Selected(task, [1]).sources] == [0.5, 0.3, 0.2]


def test_what_is_drawn_must_be_kept(done):
    cfg = small.with_rl(CFG, overdraw=2.0)
    with pytest.raises(ConfigError, match=r"expected at least rl.overdraw \* rl.prompts_per_step = 16: raise"):
        select(Graded(), None, done[2], cfg)


def test_off_is_the_task_itself_and_leaves_nothing(tmp_path):
    task = Graded()
    assert select(task, None, tmp_path, small.with_rl(CFG, filter_pass_rate=1.0)) is task
    assert list(tmp_path.iterdir()) == []


def test_of_a_file_some_are_tried_and_of_a_small_one_all():
    assert selection.candidates(None, 5, 0) == [0, 1, 2, 3, 4]
    some = selection.candidates(1000, 50, 0)
    assert len(set(some)) == 50 and some == sorted(some) and max(some) > 700
    assert some == selection.candidates(1000, 50, 0) != selection.candidates(1000, 50, 1)
    assert selection.candidates(7, 50, 0) == list(range(7))


def test_of_several_files_some_of_each_are_tried_by_its_share():
    files = (Source("a", 900, 0.5), Source("b", 60, 0.4), Source("c", 40, 0.1))
    tried = selection.candidates(1000, 100, 0, files)
    counts = [sum(start <= index < end for index in tried) for start, end in ((0, 900), (900, 960), (960, 1000))]
    assert counts == [50, 40, 10] and tried == sorted(set(tried))
    plain = [Source("a", 960, None), Source("c", 40, None)]
    assert selection.candidates(1000, 100, 0, plain) == selection.candidates(1000, 100, 0)
    assert len(selection.candidates(1000, 500, 0, files)) == 250 + 60 + 40  # all of a file that has fewer


@pytest.mark.parametrize("count", [32, 40, 50, 64])
@pytest.mark.parametrize("light", [0.01, 0.07, 0.5])
def test_of_a_light_file_as_many_are_tried_as_a_batch_takes(count, light):
    """Otherwise the run would end after its cold start, whatever the model solves."""
    task = Graded(size=1100)
    task.sources = (Source("a", 1000, 1 - light), Source("b", 100, light))
    tried = selection.candidates(1100, count, 0, task.sources)
    assert count <= len(tried) <= count + 1
    streams.refuse_too_few(selection.Selected(task, tried), "train", 32)


def test_training_draws_from_what_was_kept_and_is_judged_by_it(done):
    """The stream names places among the kept; prompts and verdicts are those of the problems there."""
    task, chosen, _ = done
    cfg = dataclasses.replace(CFG, task=dataclasses.replace(CFG.task, curriculum=0.0))
    stream = streams.prompt_stream(cfg, chosen, TOKENS, "train", 8, 1)
    batches = [next(stream) for _ in range(9)]
    stream.close()
    places = np.concatenate([batch.problem_P for batch in batches])
    assert set(places.tolist()) == set(range(9)) and {int(n) for n in np.bincount(places)} == {8}
    for row, valid, place in zip(batches[0].tokens_PC, batches[0].valid_PC, batches[0].problem_P, strict=True):
        assert TOKENS.decode(row[valid]) == task.prompt(task.problem(KEPT[place], "train"))
    scored = make_scorer(chosen, "train", TOKENS, CFG.rl)(
        np.arange(9), np.zeros((9, 3), int), np.ones((9, 3), bool), np.ones(9, bool)
    )
    assert scored.outcome.tolist() == [int(index % 5 > 0) for index in KEPT]


@pytest.mark.slow
def test_a_run_filters_once_and_goes_on_with_the_same_problems(tmp_path, monkeypatch):
    """A run without RL's training and without measuring, stopped where that begins; then the same command again."""
    seen = []

    def train(cfg, mesh, task, tokens, params, *rest):
        seen.append([task.problem(place, "train") for place in range(task.size("train"))])
        if len(seen) == 1:
            raise KeyboardInterrupt
        return types.SimpleNamespace(params=params)

    monkeypatch.setattr(stages.rl, "train", train)
    monkeypatch.setattr(stages, "measure", lambda *_: {})
    monkeypatch.setattr(stages, "finish", lambda cfg, workdir, *_: workdir)
    with pytest.raises(KeyboardInterrupt):
        stages.run(CFG, tmp_path)
    path = tmp_path / "filter.json"
    before = path.stat().st_mtime_ns
    stages.run(CFG, tmp_path)
    assert path.stat().st_mtime_ns == before and len(seen) == 2 and seen[0] == seen[1]
    rates = json.loads(path.read_text())["pass_rates"]
    assert len(rates) == 24 and [p.index for p in seen[0]] == [i for i, rate in rates if rate <= 0.3]
    with pytest.raises(ConfigError, match="rl.filter_pass_rate is 0.5, was 0.3"):
        stages.run(small.with_rl(CFG, filter_pass_rate=0.5), tmp_path)
    with pytest.raises(ConfigError, match="rl.filter_samples cannot change in a run"):
        stages.run(CFG, tmp_path, ["rl.filter_samples"])

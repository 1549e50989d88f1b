# SPDX-License-Identifier: Apache-2.0
"""Batches are what they say, splits share no problem, streams go on where they were."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json

import hf_folders
import hub
import jax
import numpy as np
import pytest

from configs import tiny
from t1jax import config
from t1jax.config import Config, ConfigError
from t1jax.prompts import streams
from t1jax.tasks.pairs.task import PairsTask
from t1jax.tasks.task import Source
from t1jax.text import tokenizer
from t1jax.text.huggingface import HFTokenizer


def make_config(**knobs: int) -> Config:
    tree = config.load(tiny.get_config()).to_dict()
    tree["sft"].update({"batch_size": 8, "sequence_length": 128} | knobs)
    tree["data"]["prompt_length"] = 24
    return config.load(tree)


CFG = make_config()
TASK = PairsTask(CFG.task)


@pytest.fixture(scope="module")
def tokens():
    model = tokenizer.train_sentencepiece(TASK.corpus(300, 0), CFG.model.vocab_size, TASK.symbols(), 0)
    return tokenizer.SentencePieceTokenizer(model)


def take(stream, count):
    with_stream = list(itertools.islice(stream, count))
    stream.close()
    return with_stream


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def goes_on(make, done, used=0):
    """Whether another stream, `used` batches old and set to where one was after `done`, goes on as that one does."""
    stream = make()
    for _ in range(done):
        next(stream)
    state = json.dumps(stream.get_state())
    rest = take(stream, 6)
    other = make()
    for _ in range(used):
        next(other)
    other.set_state(json.loads(state))
    return all(same(a, b) for a, b in zip(take(other, 6), rest, strict=True))


def prompts(tokens, split="train", batch=4, seed=0):
    return streams.prompt_stream(CFG, TASK, tokens, split, batch, seed)


# prompts


def test_a_batch_of_prompts_is_the_text_of_its_problems_padded_on_the_right(tokens):
    (batch,) = take(prompts(tokens), 1)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(batch)] == [
        ((4, 24), np.int32),
        ((4, 24), np.bool_),
        ((4,), np.int32),
    ]
    for row, valid, index in zip(batch.tokens_PC, batch.valid_PC, batch.problem_P, strict=True):
        assert tokens.decode(row[valid]) == TASK.prompt(TASK.problem(int(index), "train"))
        assert valid[: valid.sum()].all() and (row[~valid] == tokens.pad_id).all()


def test_a_prompt_that_is_too_long_names_the_knob(tokens):
    text = TASK.prompt(TASK.problem(0, "train"))
    length = len(tokens.encode(text))
    assert streams.tokenise_prompts(tokens, [text], [5], length).valid_PC.all()
    with pytest.raises(ConfigError, match=f"data.prompt_length is {length - 1}; expected at least {length}"):
        streams.tokenise_prompts(tokens, [text], [5], length - 1)


def test_an_error_in_the_pipeline_reaches_the_loop_as_it_is(tokens):
    tree = CFG.to_dict()
    tree["data"]["prompt_length"] = 3
    stream = streams.prompt_stream(config.load(tree), TASK, tokens, "train", 4, 0)
    with pytest.raises(ConfigError, match="data.prompt_length is 3"):
        next(stream)
    stream.close()


def test_problems_do_not_come_twice_and_the_seed_chooses_them(tokens):
    seen = [np.concatenate([b.problem_P for b in take(prompts(tokens, seed=seed), 20)]) for seed in (0, 0, 1)]
    assert len(set(seen[0])) == 80
    assert np.array_equal(seen[0], seen[1]) and not set(seen[0]) & set(seen[2])


def test_training_and_held_out_prompts_are_of_different_problems(tokens):
    texts = {}
    for split in ("train", "held_out"):
        batches = take(prompts(tokens, split, batch=100), 3)
        texts[split] = {
            tokens.decode(row[valid]) for b in batches for row, valid in zip(b.tokens_PC, b.valid_PC, strict=True)
        }
        assert len(texts[split]) > 250
    assert not texts["train"] & texts["held_out"]


# packed rows


def texts_of(batch):
    """(tokens, positions, target) of each text of a packed batch."""
    for tokens, segment, position, target in zip(*jax.tree.leaves(batch), strict=True):
        for number in range(1, segment.max() + 1):
            at = segment == number
            yield tokens[at], position[at], target[at]


def test_packed_rows_hold_whole_texts_one_after_the_other(tokens):
    batches = take(streams.sft_stream(CFG, TASK, tokens), 6)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(batches[0])] == [((8, 128), np.int32)] * 3 + [
        ((8, 128), np.bool_)
    ]
    cut = whole = 0
    for batch in batches:
        padding = batch.segment_BT == 0
        assert not batch.target_BT[padding].any() and (batch.tokens_BT[padding] == tokens.pad_id).all()
        steps = np.diff(np.where(padding, 10**6, batch.segment_BT), axis=1)
        assert np.isin(steps[steps < 10**5], (0, 1)).all() and (batch.segment_BT[:, 0] == 1).all()
        for text, position, target in texts_of(batch):
            assert np.array_equal(position, np.arange(len(text)))
            prompt, response = tokens.decode(text[~target]), tokens.decode(text[target])
            assert (
                prompt.startswith("Pick two of ")
                and prompt.endswith("<think>\n")
                and not target[: (~target).sum()].any()
            )
            if text[-1] in tokens.stop_ids:
                whole += 1
                assert response.endswith("}") and "</think>\n\\boxed{" in response
            else:
                cut += 1
                assert len(text) == 128
    assert whole > 50 and cut <= whole // 10


def test_little_is_padding(tokens):
    filled = [(batch.segment_BT > 0).mean() for batch in take(streams.sft_stream(CFG, TASK, tokens), 10)]
    assert np.mean(filled) > 0.85


def test_no_text_is_lost_or_comes_twice(tokens):
    """Everything that the pipeline makes is in some row: long texts are not dropped."""
    stream = streams.sft_stream(CFG, TASK, tokens)
    batches = [next(stream) for _ in range(10)]
    made = stream.get_state()["parent"]["next_index"]
    stream.close()
    packed = [bytes(text.tobytes()) for batch in batches for text, _, _ in texts_of(batch)]
    assert len(packed) == made and len(set(packed)) > 0.95 * made


def test_a_text_longer_than_a_row_is_cut_and_a_prompt_that_fills_one_is_refused(tokens):
    (batch,) = take(streams.sft_stream(make_config(sequence_length=30), TASK, tokens), 1)
    assert max(len(text) for text, _, _ in texts_of(batch)) == 30
    stream = streams.sft_stream(make_config(sequence_length=12), TASK, tokens)
    with pytest.raises(ConfigError, match="sft.sequence_length is 12; expected more than"):
        next(stream)
    stream.close()


# resume


def make_streams(tokens):
    return {
        "prompts": lambda: prompts(tokens),
        "packed": lambda: streams.sft_stream(CFG, TASK, tokens),
    }


@pytest.mark.parametrize("kind", ["prompts", "packed"])
@pytest.mark.parametrize("done", [0, 1, 5])
def test_a_stream_goes_on_with_exactly_the_next_batch(tokens, kind, done):
    make = make_streams(tokens)[kind]
    assert goes_on(make, done) and goes_on(make, done, used=done + 3)


@pytest.mark.parametrize("state", [{"next_index": 3}, {"parent": {"next_index": 60}, "next_row": 0, "counter": 24}])
def test_states_of_checkpoints_from_before_a_batch_was_whole_are_read(tokens, state):
    """Both are those of either of two processes after three batches, as they were saved until 0.1.0's last changes."""
    kind = "prompts" if "next_index" in state else "packed"
    stream, unbroken = make_streams(tokens)[kind](), make_streams(tokens)[kind]()
    stream.set_state(state)
    assert all(same(a, b) for a, b in zip(take(stream, 2), take(unbroken, 5)[3:], strict=True))


# a file: problems and texts come again, in another order


class Small(PairsTask):
    """The embedded task cut to the first few problems and texts, as a file has."""

    def __init__(self, problems, texts=10):
        super().__init__(CFG.task)
        self.problems, self.texts = problems, texts

    def size(self, split):
        return self.problems

    def num_demonstrations(self):
        return self.texts


def indices(tokens, problems, batch, count, seed=0):
    stream = streams.prompt_stream(CFG, Small(problems), tokens, "train", batch, seed)
    return [batch.problem_P.tolist() for batch in take(stream, count)]


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_every_problem_comes_once_an_epoch_in_a_new_order(tokens, batch):
    flat = sum(indices(tokens, 7, batch, 42 // batch), [])
    epochs = [flat[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert flat == sum(indices(tokens, 7, batch, 42 // batch), [])
    assert flat[:7] != sum(indices(tokens, 7, 1, 7, seed=1), [])


def test_a_batch_may_hold_the_end_of_one_epoch_and_the_beginning_of_the_next(tokens):
    assert sum(indices(tokens, 7, 3, 14), []) == sum(indices(tokens, 7, 1, 42), [])


def test_streams_of_the_embedded_task_are_what_they_have_always_been(tokens):
    """A changed order or chain would change every run of the embedded task, and break the resume of an old one."""
    expected = {
        "prompts": "2cf50ab9f0afc799",
        "packed": "ed6a8a0a039f0055",
    }
    for kind, make in make_streams(tokens).items():
        digest = hashlib.sha256()
        for batch in take(make(), 20):
            for leaf in jax.tree.leaves(batch):
                digest.update(leaf.tobytes())
        assert digest.hexdigest()[:16] == expected[kind], kind


@pytest.mark.parametrize("kind", ["prompts", "texts"])
@pytest.mark.parametrize("done", [1, 2, 5])
def test_a_stream_goes_on_exactly_over_the_end_of_an_epoch(tokens, kind, done):
    """Epochs of 7 problems in batches of 4, and of 10 texts in batches of 8 rows: every place relative to the end."""

    def make():
        if kind == "prompts":
            return streams.prompt_stream(CFG, Small(7), tokens, "train", 4, 0)
        return streams.sft_stream(CFG, Small(7), tokens)

    assert goes_on(make, done)


def test_every_text_of_the_cold_start_comes_once_an_epoch(tokens):
    task = Small(7, texts=10)
    stream = streams.sft_stream(CFG, task, tokens)
    batches = [next(stream) for _ in range(12)]
    made = stream.get_state()["parent"]["next_index"]
    stream.close()
    packed = collections.Counter(bytes(text.tobytes()) for batch in batches for text, _, _ in texts_of(batch))
    assert made > 50 and sum(packed.values()) == made
    wanted = [task.demonstration(index, CFG.seed) for index in range(10)]
    wanted = {
        np.array([*tokens.encode(p), *tokens.encode(r), *tokens.stop_ids][:128], np.int32).tobytes() for p, r in wanted
    }
    assert set(packed) == wanted and max(packed.values()) - min(packed.values()) <= 1


class Files(Small):
    """Several files, of which each has its share of the prompts."""

    def __init__(self, sizes, weights):
        super().__init__(sum(sizes))
        files = enumerate(zip(sizes, weights, strict=True))
        self.sources = tuple(Source(f"{number}.jsonl", size, weight) for number, (size, weight) in files)


def drawn(tokens, sizes, weights, batch, count, seed=0, split="train"):
    """The problems that are drawn, one after the other."""
    stream = streams.prompt_stream(CFG, Files(sizes, weights), tokens, split, batch, seed)
    return np.concatenate([batch.problem_P for batch in take(stream, count)])


@pytest.mark.parametrize(
    ("sizes", "weights"), [((40, 9), (0.7, 0.3)), ((9, 40), (0.7, 0.3)), ((30, 30, 5), (0.6, 0.3, 0.1))]
)
def test_each_file_has_its_share_of_any_prompts_and_epochs_of_its_own(tokens, sizes, weights):
    problems = drawn(tokens, sizes, weights, 10, 100)
    starts = np.cumsum((0, *sizes))
    source = np.searchsorted(starts[1:], problems, side="right")
    for number, weight in enumerate(weights):
        mine = source == number
        assert abs(mine.mean() - weight) < 0.003  # grain counts in hundredths of the smallest
        for stretch in (10, 50, 333):
            counts = np.convolve(mine, np.ones(stretch), "valid")
            assert abs(counts - weight * stretch).max() <= 2 + 0.01 * stretch
        own, size = problems[mine] - starts[number], sizes[number]
        epochs = [own[i : i + size] for i in range(0, len(own) - size + 1, size)]
        assert len(epochs) > 4 and all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2  # reshuffled at its own end
    assert np.array_equal(problems, drawn(tokens, sizes, weights, 10, 100))
    assert not np.array_equal(problems, drawn(tokens, sizes, weights, 10, 100, seed=1))


def test_files_of_one_size_are_not_in_one_order(tokens):
    problems = drawn(tokens, (20, 20), (0.5, 0.5), 10, 4)
    assert [*problems[problems < 20]] != [*problems[problems >= 20] - 20]


def test_files_without_weights_are_one_and_held_out_problems_have_no_files(tokens):
    plain = [*sum(indices(tokens, 49, 7, 20), [])]
    assert drawn(tokens, (40, 9), (None, None), 7, 20).tolist() == plain
    assert drawn(tokens, (40, 9), (0.1, 0.9), 7, 20, split="held_out").tolist() == plain
    assert drawn(tokens, (49,), (1.0,), 7, 20).tolist() == plain


@pytest.mark.parametrize("done", [1, 4, 9])
def test_mixed_files_go_on_exactly_over_the_ends_of_their_epochs(tokens, done):
    def make():
        return streams.prompt_stream(CFG, Files((23, 5), (0.7, 0.3)), tokens, "train", 6, 3)

    assert goes_on(make, done)


def test_a_file_that_is_smaller_than_its_share_of_a_batch_is_refused(tokens):
    drawn(tokens, (40, 3), (0.7, 0.3), 10, 1)
    message = r"data.weights takes 4 of the 11 prompts of a batch from 1.jsonl; expected at most 3, its problems"
    with pytest.raises(ConfigError, match=message):
        drawn(tokens, (40, 3), (0.7, 0.3), 11, 1)


def test_a_batch_larger_than_the_file_is_refused(tokens):
    assert len(indices(tokens, 4, 4, 3)) == 3
    with pytest.raises(ConfigError, match="a batch is 4 prompts; expected at most 3, the train problems of the file"):
        indices(tokens, 3, 4, 1)
    take(streams.sft_stream(CFG, Small(7, texts=8), tokens), 1)
    for texts in (7, 0):
        with pytest.raises(ConfigError, match=f"sft.batch_size is 8; expected at most {texts}, the texts of data.sft"):
            streams.sft_stream(CFG, Small(7, texts), tokens)


class Chains:
    """A task whose cold start has texts of these many tokens in all, or without end."""

    def __init__(self, *lengths):
        self.lengths = lengths

    def num_demonstrations(self):
        return len(self.lengths) or None

    def demonstration(self, index, seed):
        return "5", "6" * (self.lengths[index] - 2)  # and a stop token


def test_texts_of_the_cold_start_beyond_what_the_model_was_trained_for_are_refused(tmp_path):
    """A packed row may be longer: each text has positions of its own."""
    folder = hf_folders.write(tmp_path / "model", hf_folders.byte_level(), {"eos_token_id": 0})
    found, cfg = HFTokenizer(folder), make_config(sequence_length=200, batch_size=1)
    streams.sft_stream(cfg, Chains(300), found).close()  # no config.json, so nobody knows
    hf_folders.change(folder, "config.json", **hub.SMOLLM2 | {"max_position_embeddings": 100})
    found = HFTokenizer(folder)
    streams.sft_stream(cfg, Chains(20, 100, 9), found).close()
    with pytest.raises(
        ConfigError, match=r"longest text of data.sft, cut at sft.sequence_length = 200, is 101; expected"
    ):
        streams.sft_stream(cfg, Chains(20, 101, 9), found)
    with pytest.raises(
        ConfigError, match=r"is 200; expected at most 100, .* lower sft.sequence_length, or leave the te"
    ):
        streams.sft_stream(cfg, Chains(300), found)
    with pytest.raises(ConfigError, match=r"sft.sequence_length, at which texts are cut, is 200; expected at most 100"):
        streams.sft_stream(cfg, Chains(), found)
    cut = make_config(sequence_length=100, batch_size=1)
    streams.sft_stream(cut, Chains(300), found).close()
    streams.sft_stream(cut, Chains(), found).close()

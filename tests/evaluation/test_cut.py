# SPDX-License-Identifier: Apache-2.0
"""Cutting thoughts, with one token a letter: x ends the thinking, . stops, / ends a line."""

from __future__ import annotations

import pytest
import small

from t1jax.evaluation.cut import BUCKET, cut, padded_length

ALPHABET = "\nabcdefx."
STOP = ALPHABET.index(".")


class Letters:
    stop_ids, pad_id, vocab_size = (STOP,), STOP, len(ALPHABET)

    def encode(self, text):
        return [ALPHABET.index(letter) for letter in text]

    def decode(self, ids):
        return "".join(ALPHABET[i] for i in ids)

    def save(self, directory):
        raise AssertionError("nothing saves a tokenizer here")


TOKENS = Letters()


def thought_end(ids):
    ids = list(ids)
    return ids.index(ALPHABET.index("x")) if ALPHABET.index("x") in ids else None


def cuts(budget, *texts, prefix="\nxf"):
    """{i: text of the cut thought}."""
    found = cut([TOKENS.encode(text) for text in texts], [budget], thought_end, prefix, TOKENS)
    assert found.keys() == {budget}
    return {i: TOKENS.decode(thought) for i, thought in found[budget].items()}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("aaaxb.", None),  # ends its thinking just in time
        ("aaaaxb.", "aaa\nxf"),
        ("aaa.", None),  # ends itself just in time
        ("aaaa.", "aaa\nxf"),
        ("aaa", "aaa\nxf"),  # never ends: it is asked even where the budget is not used up
        ("aa", "aa\nxf"),
        ("aa\na", "aa\nxf"),  # a line that is whole stays whole
        ("", "xf"),
    ],
)
def test_a_thought_is_cut_where_it_does_not_end_within_the_budget(text, expected):
    assert cuts(3, text) == ({} if expected is None else {0: expected})


def test_thoughts_keep_the_places_of_their_responses():
    assert cuts(2, "aax.", "bbbx.", ".", "cccc") == {1: "bb\nxf", 3: "cc\nxf"}


def test_each_budget_has_its_cuts_and_no_budget_has_none():
    found = cut([TOKENS.encode("abcx.")], [1, 3, 9], thought_end, "x", TOKENS)
    assert {budget: [*map(TOKENS.decode, thoughts.values())] for budget, thoughts in found.items()} == {
        1: ["ax"], 3: [], 9: [],
    }  # fmt: skip
    assert cut([TOKENS.encode("abcx.")], [], thought_end, "x", TOKENS) == {}


def test_prompts_are_padded_to_a_few_lengths_that_hold_the_longest():
    cfg = small.make_config(data__prompt_length=60, rl__max_new_tokens=200)
    lengths = {budget: padded_length(cfg, budget, "\nxf", TOKENS) for budget in (1, 2, 65, 66, 200, 9999)}
    assert lengths == {1: BUCKET, 2: 2 * BUCKET, 65: 2 * BUCKET, 66: 3 * BUCKET, 200: 5 * BUCKET, 9999: 5 * BUCKET}

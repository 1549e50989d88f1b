# SPDX-License-Identifier: Apache-2.0
"""The quick decoder says what the engine of Hugging Face says, of any ids, and leaves it what it cannot do."""

from __future__ import annotations

import numpy as np
import pytest
from hf_folders import byte_level
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from t1jax.text import decoding

ENGINE = byte_level()
ENGINE.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<a b>", "是", "é", " ")])
DECODE = decoding.make_decoder(ENGINE)


def by_engine(ids):
    return ENGINE.decode(ids, skip_special_tokens=True)


@given(st.lists(st.integers(0, ENGINE.get_vocab_size() - 1), max_size=60))
@example([])
def test_any_ids_give_what_the_engine_gives(ids):
    """Most are no UTF-8: parts of characters, bytes that no text has."""
    assert DECODE(np.array(ids, np.int64)) == by_engine(ids)


@given(st.text())
def test_any_text_comes_back(text):
    ids = ENGINE.encode(text, add_special_tokens=False).ids
    assert DECODE(np.array(ids, np.int64)) == by_engine(ids)


def test_byte_level_tokens_are_not_left_to_the_engine():
    assert DECODE.__name__ == "by_table"


def test_special_tokens_give_nothing_and_others_are_as_written():
    ids = [ENGINE.token_to_id(text) for text in ("<|im_end|>", "<think>", "<a b>", "<|endoftext|>", "是")]
    assert DECODE(np.array(ids)) == by_engine(ids) == "<think><a b>是"


@pytest.mark.parametrize("decoder", [decoders.Metaspace(), decoders.Sequence([decoders.ByteLevel()]), None])
def test_other_decoders_are_the_engines_own(decoder):
    engine = Tokenizer(models.WordLevel({"▁two": 0, "▁words": 1, "?": 5}, unk_token="?"))
    if decoder is not None:
        engine.decoder = decoder
    ids, decode = np.array([0, 1, 5]), decoding.make_decoder(engine)
    assert decode(ids) == engine.decode(ids.tolist()) and decode.__name__ == "by_engine"


def test_a_table_that_says_something_else_is_not_used(monkeypatch):
    """Such as that of a version of the engine that does more than join bytes."""
    monkeypatch.setitem(decoding._BYTES, "a", ord("b"))
    assert decoding.make_decoder(ENGINE)(np.array(ENGINE.encode("a cat").ids)) == "a cat"

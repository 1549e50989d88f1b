# SPDX-License-Identifier: Apache-2.0
"""Encoding is lossless, the vocabulary is exactly as large as asked, and what it cannot do it says."""

from __future__ import annotations

import io

import numpy as np
import pytest
import sentencepiece

from t1jax.config import ConfigError
from t1jax.text import tokenizer

TEXTS = ["12 + 7 is  19.\n\nso: the answer, the answer\n", "7 is 7\n the answer 127\n"] * 20
SYMBOLS = ["1", "7", "12", "19", "<think>", "a, b"]


@pytest.fixture(scope="module")
def trained() -> tokenizer.SentencePieceTokenizer:
    return tokenizer.SentencePieceTokenizer(tokenizer.train_sentencepiece(TEXTS, 48, SYMBOLS))


@pytest.mark.parametrize("text", [*TEXTS[:2], "", " ", "\n\n  7", "  12<think>\n", "a, b a, b "])
def test_decoding_gives_back_exactly_what_was_encoded(trained, text):
    assert trained.decode(trained.encode(text)) == text


def test_symbols_are_one_token_and_the_longest_wins(trained):
    for symbol in SYMBOLS:
        assert trained.encode(symbol) == [trained.piece_id(symbol)]
    assert trained.encode("127") == [trained.piece_id("12"), trained.piece_id("7")]


def test_frequent_phrases_become_tokens_across_spaces_and_line_ends():
    trained = tokenizer.SentencePieceTokenizer(tokenizer.train_sentencepiece(TEXTS, 80, SYMBOLS))
    pieces = [trained.decode([token]) for token in trained.encode(TEXTS[0])]
    assert any(" " in piece[1:-1] for piece in pieces), pieces
    assert any("\n" in piece and len(piece.strip()) > 1 for piece in pieces), pieces


@pytest.mark.parametrize("vocab_size", [32, 48, 200])
def test_vocabulary_is_exactly_as_large_as_asked(vocab_size):
    trained = tokenizer.SentencePieceTokenizer(tokenizer.train_sentencepiece(TEXTS, vocab_size, SYMBOLS))
    assert trained.vocab_size == vocab_size
    assert trained.decode(trained.encode(TEXTS[0])) == TEXTS[0]


def test_vocabulary_too_small_names_the_knob_and_the_least():
    with pytest.raises(ConfigError, match=r"model\.vocab_size is 20; .* at least (\d+)") as caught:
        tokenizer.train_sentencepiece(TEXTS, 20, SYMBOLS)
    fewest = int(str(caught.value).split("at least ")[1].split(":")[0])
    trained = tokenizer.SentencePieceTokenizer(tokenizer.train_sentencepiece(TEXTS, fewest, SYMBOLS))
    assert trained.vocab_size == fewest


def test_characters_that_stand_only_inside_symbols_need_no_piece_of_their_own():
    model = tokenizer.train_sentencepiece(["then+7"] * 9, 6, ["then", "7"])  # three controls, two symbols, "+"
    assert len(tokenizer.SentencePieceTokenizer(model).encode("then+7")) == 3


def test_pad_is_not_stop_and_both_decode_to_nothing(trained):
    assert trained.pad_id not in trained.stop_ids
    assert trained.decode([trained.pad_id, *trained.encode("7 is"), *trained.stop_ids]) == "7 is"


def test_text_that_cannot_be_given_back_is_an_error(trained):
    with pytest.raises(ValueError, match="Z"):
        trained.encode("the Z answer")
    with pytest.raises(ValueError, match="▁"):
        trained.encode("7▁is")


def test_decode_takes_numpy_and_rejects_ids_outside_the_vocabulary(trained):
    assert trained.decode(np.array(trained.encode("7 is 19"), np.int32)) == "7 is 19"
    assert trained.decode([2]) == "\ufffd"  # an unknown token that was sampled is visible
    for wrong in (-1, 48):
        with pytest.raises(ValueError, match=r"expected 0\.\.47"):
            trained.decode([wrong])


def test_piece_id_of_what_is_not_one_piece_is_an_error(trained):
    with pytest.raises(ValueError, match="not one piece"):
        trained.piece_id("12 + 7")


def test_saved_and_loaded_is_the_same(trained, tmp_path):
    trained.save(tmp_path / "checkpoint")
    loaded = tokenizer.load(tmp_path / "checkpoint")
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["tokenizer.model"]
    assert loaded.encode(TEXTS[0]) == trained.encode(TEXTS[0])
    with pytest.raises(ConfigError, match="no tokenizer; expected tokenizer.json or tokenizer.model"):
        tokenizer.load(tmp_path)


def test_a_model_that_is_not_ours_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match="tokenizer.model: .*; expected a SentencePiece model"):
        tokenizer.load(tmp_path)
    other = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=other, vocab_size=24, hard_vocab_limit=False, minloglevel=2
    )
    path.write_bytes(other.getvalue())
    with pytest.raises(ConfigError, match="tokenizer.model: not made by t1jax; expected tokenizer.json beside it"):
        tokenizer.load(tmp_path)


def test_training_twice_gives_the_same_model():
    assert tokenizer.train_sentencepiece(TEXTS, 60, SYMBOLS, 1) == tokenizer.train_sentencepiece(TEXTS, 60, SYMBOLS, 1)


def test_duplicate_symbols_are_an_error():
    with pytest.raises(ValueError, match="duplicates"):
        tokenizer.train_sentencepiece(TEXTS, 48, ["7", "7"])

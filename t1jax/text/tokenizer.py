# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, behind one small interface.

Where: before the prompts. The data pipeline encodes, the scorer and the report decode.
Here: the interface, `load` for whatever a folder holds, and a SentencePiece model trained on the task's own text, so
that nothing is downloaded. That one encodes without loss or raises: there is no normalisation, no space is added or
squeezed, and a character that the model does not know is an error.
Deliberately not here: tokenizers of Hugging Face (text/huggingface.py), padding and packing (prompts/streams.py), and
which symbols a task needs (tasks/).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import sentencepiece

from t1jax.config import Config, ConfigError
from t1jax.host import files, place
from t1jax.host.place import Place
from t1jax.text import huggingface as hf
from t1jax.text.huggingface import HFTokenizer

FILE_NAME = "tokenizer.model"
PAD_ID, STOP_ID, UNKNOWN_ID = 0, 1, 2
NUM_CONTROL = 3  # pad, stop, unknown
SPACE = "\u2581"  # how SentencePiece writes a space inside a piece
BROKEN = "\ufffd"  # the text of an unknown token that was sampled: counts as a broken character
LONGEST_PIECE = 32  # characters of a learned piece

TokenIds = Sequence[int] | np.ndarray


class Tokenizer(Protocol):
    """What t1jax needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def stop_ids(self) -> tuple[int, ...]: ...

    @property
    def vocabulary(self) -> Mapping[str, int]: ...  # how a token is written -> its id

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: TokenIds) -> str: ...

    def save(self, directory: Place) -> None: ...


class SentencePieceTokenizer:
    """A trained SentencePiece model. Pad and stop tokens decode to nothing."""

    def __init__(self, model_bytes: bytes) -> None:
        self._bytes = model_bytes
        self._model = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        self.vocab_size: int = self._model.vocab_size()
        self.pad_id: int = self._model.pad_id()
        self.stop_ids: tuple[int, ...] = (self._model.eos_id(),)
        self._unknown_id: int = self._model.unk_id()
        self.vocabulary = {self._model.id_to_piece(token): token for token in range(self.vocab_size)}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no stop token added. ValueError where decode could not give the text back."""
        ids = self._model.encode(text)
        if self._unknown_id in ids or SPACE in text:
            pieces = zip(self._model.encode(text, out_type=str), ids, strict=True)
            unknown = set("".join(piece for piece, token in pieces if token == self._unknown_id)) | {SPACE} & set(text)
            lacking = sorted(character for character in unknown if not self._knows(character)) or sorted(unknown)
            raise ValueError(f"the tokenizer has no piece for {lacking} in {text[:80]!r}")
        return ids

    def decode(self, ids: TokenIds) -> str:
        """The exact text of `ids`; an unknown token gives U+FFFD."""
        ids_T = np.asarray(ids, np.int64)
        if ids_T.size and not 0 <= ids_T.min() <= ids_T.max() < self.vocab_size:
            raise ValueError(f"token ids {ids_T.min()}..{ids_T.max()}, expected 0..{self.vocab_size - 1}")
        return self._model.decode(ids_T.tolist())

    def piece_id(self, piece: str) -> int:
        """The id of the one piece that spells `piece`; ValueError if it is not one piece."""
        token = self._model.piece_to_id(piece.replace(" ", SPACE))
        if token == self._unknown_id:
            raise ValueError(f"{piece!r} is not one piece of the tokenizer")
        return token

    def save(self, directory: Place) -> None:
        """Write the model to directory/tokenizer.model, whole or not at all."""
        files.write_bytes(directory / FILE_NAME, self._bytes)

    def _knows(self, character: str) -> bool:
        return character != SPACE and self._unknown_id not in self._model.encode(character)


def is_saved(directory: str | Place) -> bool:
    """Whether `directory` holds a tokenizer that `load` can read: `save` was not interrupted."""
    return any((place.of(directory, "tokenizer") / name).is_file() for name in (hf.FILE_NAME, FILE_NAME))


def load(directory: str | Place) -> Tokenizer:
    """The tokenizer of a folder: Hugging Face's where there is a tokenizer.json, else what `save` wrote.

    Raises:
      ConfigError: there is neither, or its file is no tokenizer.
    """
    folder = place.of(directory, "tokenizer")
    if (folder / hf.FILE_NAME).is_file():
        return HFTokenizer(folder)
    path = folder / FILE_NAME
    if not path.is_file():
        raise ConfigError(f"{folder}: no tokenizer; expected {hf.FILE_NAME} or {FILE_NAME} (written by t1jax)")
    try:
        found = SentencePieceTokenizer(path.read_bytes())
    except RuntimeError as error:
        raise ConfigError(f"{path}: {error}; expected a SentencePiece model") from error
    if found.pad_id != PAD_ID:  # one that came with Llama, say, whose spaces and digits t1jax would treat wrongly
        raise ConfigError(f"{path}: not made by t1jax; expected {hf.FILE_NAME} beside it")
    return found


def refuse_too_big(tokenizer: Tokenizer, vocab_size: int, where: str) -> None:
    """ConfigError if the tokenizer, of the folder `where`, has ids that a model with `vocab_size` tokens lacks."""
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"{where}: the tokenizer has ids up to {tokenizer.vocab_size - 1}; expected ids below the model's "
            f"vocabulary of {vocab_size}: take the tokenizer that belongs to these weights"
        )


def refuse_too_long(tokenizer: Tokenizer, cfg: Config, budgets: Sequence[int] = ()) -> None:
    """ConfigError if prompt and response are more than what the tokenizer's model was trained for; config.json tells.

    Args:
      budgets: tokens of thinking after which the answer is sampled.
    """
    if not isinstance(tokenizer, HFTokenizer):  # its model is trained from scratch, at these lengths
        return
    prompt, new = cfg.data.prompt_length, cfg.rl.max_new_tokens
    tokenizer.refuse_too_long(prompt + new, "data.prompt_length + rl.max_new_tokens")
    if budgets:
        answer = len(tokenizer.encode(cfg.scaling.answer_prefix)) + cfg.scaling.answer_tokens
        what = "data.prompt_length + the largest budget + scaling.answer_prefix + scaling.answer_tokens"
        tokenizer.refuse_too_long(prompt + min(max(budgets), new) + answer, what)


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, user_defined_symbols: Sequence[str], seed: int = 0
) -> bytes:
    """Train a byte-pair model of exactly `vocab_size` pieces on `texts`; returns the model file.

    Each symbol is one piece wherever it stands (the longest wins). Pieces may cross spaces and line ends.
    Where the texts hold fewer pieces than asked for, `<unused0>`, `<unused1>`, ... fill the rest.
    ConfigError where even the symbols and the single characters do not fit.
    """
    texts = list(texts)
    symbols = list(user_defined_symbols)
    if len(set(symbols)) < len(symbols):
        raise ValueError(f"user_defined_symbols has duplicates: {sorted({s for s in symbols if symbols.count(s) > 1})}")
    fewest = NUM_CONTROL + len(symbols) + len(_characters_outside(texts, symbols))
    if vocab_size < fewest:
        raise ConfigError(f"model.vocab_size is {vocab_size}; this task's tokenizer needs at least {fewest}: raise it")
    sentencepiece.set_random_generator_seed(seed)
    model = _train(texts, vocab_size, symbols)
    found = SentencePieceTokenizer(model).vocab_size
    if found < vocab_size:
        model = _train(texts, vocab_size, symbols + [f"<unused{i}>" for i in range(vocab_size - found)])
        found = SentencePieceTokenizer(model).vocab_size
    if found != vocab_size:
        raise ConfigError(f"model.vocab_size is {vocab_size}, but the tokenizer came out with {found}: set it to that")
    return model


def _characters_outside(texts: Iterable[str], symbols: Sequence[str]) -> set[str]:
    """The characters that remain once every symbol is cut out: each needs a piece."""
    longest_first = sorted(symbols, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    return set().union(*(pattern.sub("", text) for text in texts))


def _train(texts: list[str], vocab_size: int, symbols: list[str]) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        user_defined_symbols=[symbol.replace(" ", SPACE) for symbol in symbols],
        pad_id=PAD_ID,
        eos_id=STOP_ID,
        unk_id=UNKNOWN_ID,
        bos_id=-1,
        unk_surface=BROKEN,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_by_number=False,
        allow_whitespace_only_pieces=True,
        max_sentencepiece_length=LONGEST_PIECE,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,  # errors only; they also raise
    )
    return model.getvalue()

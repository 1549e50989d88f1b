# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a Hugging Face folder: text to token ids and back, chats to text.

Where: before the prompts; the scorer and the report decode. Token ids equal those of transformers' AutoTokenizer, which
uses the same engine (`tokenizers`) for tokenizer.json. Every file is checked when the folder is read.
Decoding keeps text as it was sampled (spaces are not "cleaned up") and drops special tokens. Incomplete characters
become U+FFFD, and so do ids without a token, which a model with a padded vocabulary can sample.
Padding is `pad_id`, which may also be a stop token: use the masks, never the id, to tell what is padding.
Source: transformers 5.23, tokenization_utils_tokenizers.py.
Deliberately not here: the template's language (chat.py), ids to text (decoding.py), tokenizers without tokenizer.json.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import tokenizers

from t1jax.config import ConfigError
from t1jax.host import files, place
from t1jax.host.place import Place
from t1jax.text.chat import end_of_turn
from t1jax.text.decoding import make_decoder
from t1jax.text.rendering import Renderer
from t1jax.weights import strict
from t1jax.weights.families import CARRIED
from t1jax.weights.rope import trained_length

FILE_NAME, SETTINGS, JINJA, OLD_JINJA = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MAX_BYTES = 1 << 28  # largest file accepted; the largest real tokenizer.json has 35 MB
MAX_SETTINGS = 1 << 24  # largest of the other JSON files, bytes; real ones have up to 100 kB
MAX_IDS = 1 << 24  # largest vocabulary; the largest real ones have 2^18 ids
BROKEN = "\ufffd"


class HFTokenizer:
    """tokenizer.json with its special tokens, stop tokens and chat template. Thread-safe.

    Attributes:
      vocabulary: the id of each token, added ones included.
      vocab_size: the highest id + 1; a model's vocabulary may be larger.
      stop_ids: from generation_config.json, else config.json, else the eos_token of tokenizer_config.json; plus the
        token with which the chat template ends the assistant's turn, if rendering reveals one (chat.py).
      pad_id: the pad_token of tokenizer_config.json, else the first stop id.
      special_texts: texts that encode as a control token wherever they occur, so no problem should contain one.
      has_chat: whether the folder has a chat template.
      notes: a line if the token that ends a turn could not be found.
    """

    def __init__(self, folder: str | Place) -> None:
        """Reads the folder.

        Raises:
          ConfigError: a file is missing, malformed, too large, or contradicts another; there is no stop token.
        """
        self._folder = place.of(folder, "tokenizer")
        self._carried = {name: self._read(name) for name in CARRIED if (self._folder / name).is_file()}
        if FILE_NAME not in self._carried:
            raise ConfigError(f"{self._folder / FILE_NAME}: not found; expected a tokenizer in Hugging Face's format")
        self._tokenizer, bos_ids = self._engine()
        self.vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self.vocabulary.values(), default=-1) + 1
        if not 0 < self.vocab_size <= MAX_IDS:
            raise ConfigError(f"{self._folder / FILE_NAME}: {self.vocab_size} ids; expected 1 to {MAX_IDS}")
        self._known = np.zeros(self.vocab_size, bool)
        self._known[list(self.vocabulary.values())] = True

        settings = self._settings()
        self._tokens = {name: self._token(name, settings[name]) for name in NAMED if settings.get(name) is not None}
        self._chat = self._chat_template(settings)
        self.has_chat = self._chat is not None
        self.notes: list[str] = []
        self.stop_ids = self._stop_ids()
        pad = self._tokens.get("pad_token")
        self.pad_id: int = self.stop_ids[0] if pad is None else self.vocabulary[pad]
        self._make_special(settings)
        self._text_of = make_decoder(self._tokenizer)
        self._bos = "".join(self._tokenizer.id_to_token(token) or "" for token in bos_ids)
        if self.encode(self._bos) != bos_ids:
            raise ConfigError(f"{self._folder / FILE_NAME}: text begins with {self._bos!r}, not an added token")

        source = "" if self._chat is None else self._chat.source
        self.special_texts: tuple[str, ...] = tuple(
            token.content
            for _, token in sorted(self._tokenizer.get_added_tokens_decoder().items())
            if token.special or (token.content in source and not token.content.isspace())
        )

    def trained_length(self) -> int | None:
        """The positions that the model was trained for by config.json, tokens; None if it does not say."""
        return trained_length(self._object("config.json"), str(self._folder / "config.json"))

    def refuse_too_long(self, positions: int, what: str, turn: str = "lower it") -> None:
        """ConfigError if `positions`, the value of `what`, exceeds the length that the model was trained for.

        `turn`: what to do about it.
        """
        trained = self.trained_length()
        if trained is not None and positions > trained:
            raise ConfigError(
                f"{what} is {positions}; expected at most {trained}, the positions that the model was trained for by "
                f"{self._folder / 'config.json'}: {turn}, or change max_position_embeddings or the rope scaling there"
            )

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, list of int[T]. Adds no token; special tokens written out in `text` are recognised.

        Raises:
          ValueError: `text` is not valid Unicode (it has a lone surrogate).
        """
        try:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise ValueError(f"{text[:80]!r} is not Unicode text; expected no lone surrogates") from error

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`, int[T]. Special tokens are dropped; each id without a token becomes U+FFFD.

        Raises:
          ValueError: an id is negative.
        """
        ids_T = np.asarray(ids, np.int64)
        if ids_T.size and ids_T.min() < 0:
            raise ValueError(f"token id {ids_T.min()}; expected 0 or more")
        known_T = self._known[np.minimum(ids_T, self.vocab_size - 1)] & (ids_T < self.vocab_size)
        if known_T.all():
            return self._text_of(ids_T)
        runs = np.split(np.arange(ids_T.size), np.flatnonzero(np.diff(known_T)) + 1)
        return "".join(self.decode(ids_T[run]) if known_T[run[0]] else BROKEN * run.size for run in runs)

    def chat(self, messages: Sequence[Mapping[str, str]], *, generate: bool = True) -> str:
        """Renders a chat with the folder's template, including BOS if the template writes it; encode it unchanged.

        Args:
          messages: each with `role` and `content`.
          generate: whether to end with the header of the assistant's turn.

        Raises:
          ConfigError: there is no template, or it rejects the messages.
        """
        if self._chat is None:
            raise ConfigError(f"{self._folder}: no chat template; set data.chat to False, or add {JINJA}")
        return self._chat.render(messages, self._tokens, generate)

    def plain(self, text: str) -> str:
        """`text`, preceded by the BOS token's text if the tokenizer adds one."""
        return self._bos + text

    def save(self, directory: str | Place) -> None:
        """Writes the tokenizer's files and both configs, unchanged, to `directory`. Each write is atomic.

        tokenizer.json is written last: if it is there, so are the others.
        """
        for name in sorted(self._carried, key=FILE_NAME.__eq__):
            files.write_bytes(place.of(directory, "tokenizer") / name, self._carried[name])

    def _read(self, name: str) -> bytes:
        path = self._folder / name
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path}: {size} bytes; expected at most {MAX_BYTES}")
        return path.read_bytes()

    def _text(self, name: str) -> str:
        try:
            return self._carried[name].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._folder / name}: byte {error.start} is not UTF-8; expected text") from error

    def _object(self, name: str) -> dict[str, Any]:
        """The JSON object in a file; {} if the file does not exist."""
        return strict.read_object(self._folder / name, MAX_SETTINGS) if name in self._carried else {}

    def _engine(self) -> tuple[tokenizers.Tokenizer, list[int]]:
        """The tokenizer of tokenizer.json, and the ids that its post-processor puts before every text."""
        text = self._text(FILE_NAME)
        try:
            engine = tokenizers.Tokenizer.from_str(text)
            engine.no_truncation()
            engine.no_padding()
            encoding = engine.encode("1")
        except BaseException as error:  # the library panics on some files; a panic is not an Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            what = " ".join(str(error).split())[:200]
            raise ConfigError(f"{self._folder / FILE_NAME}: {what}; expected a tokenizer of Hugging Face") from error
        if getattr(engine.model, "dropout", None):
            raise ConfigError(f"{self._folder / FILE_NAME}: model.dropout is {engine.model.dropout}; expected none")
        added = takewhile(lambda pair: pair[1], zip(encoding.ids, encoding.special_tokens_mask, strict=True))
        return engine, [token for token, _ in added]

    def _settings(self) -> dict[str, Any]:
        """tokenizer_config.json, merged with the older special_tokens_map.json where transformers reads that too."""
        settings = self._object(SETTINGS)
        if "added_tokens_decoder" not in settings:
            return settings | self._object("special_tokens_map.json")
        listed = settings["added_tokens_decoder"]
        if not isinstance(listed, dict) or not all(key.isdecimal() and len(key) < 10 for key in listed):
            raise ConfigError(f"{self._folder / SETTINGS}: added_tokens_decoder is not a table of ids and tokens")
        for key, value in listed.items():
            text = self._token(f"added_tokens_decoder[{key}]", value)
            if (found := self.vocabulary[text]) != int(key):
                raise ConfigError(
                    f"{self._folder / SETTINGS}: {reprlib.repr(text)} has id {key}; in {FILE_NAME} it has {found}"
                )
        return settings

    def _token(self, name: str, value: Any) -> str:
        """The text of the token in setting `name`; ConfigError if tokenizer.json does not have it."""
        text = value.get("content") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise ConfigError(f"{self._folder / SETTINGS}: {name} is {reprlib.repr(value)}; expected a token's text")
        if text not in self.vocabulary:
            shown = reprlib.repr(text)
            raise ConfigError(f"{self._folder / SETTINGS}: {name} is {shown}, which {FILE_NAME} does not have")
        return text

    def _stop_ids(self) -> tuple[int, ...]:
        """The stop tokens of the folder's configs, and the one that its chat template writes after an answer."""
        stated = self._stated_stop_ids()
        if self._chat is None:
            return stated
        added = (token.content for token in self._tokenizer.get_added_tokens_decoder().values())
        text, why = end_of_turn(partial(self.chat, generate=False), {*added, *self._tokens.values()})
        if text is None:
            stops = ", ".join(repr(self._tokenizer.id_to_token(token)) for token in stated)
            self.notes.append(f"{self._folder}: {why}: only {stops} ends a response")
            return stated
        return tuple(dict.fromkeys((*stated, self.vocabulary[text])))

    def _stated_stop_ids(self) -> tuple[int, ...]:
        for name in ("generation_config.json", "config.json"):
            found = self._object(name).get("eos_token_id")
            if found is None or found == []:
                continue
            ids = found if isinstance(found, list) else [found]
            for token in ids:
                if type(token) is not int or not 0 <= token < self.vocab_size or not self._known[token]:
                    raise ConfigError(
                        f"{self._folder / name}: eos_token_id is {reprlib.repr(found)}; expected ids of tokens "
                        f"that {FILE_NAME} has, below {self.vocab_size}"
                    )
            return tuple(dict.fromkeys(ids))
        if "eos_token" in self._tokens:
            return (self.vocabulary[self._tokens["eos_token"]],)
        raise ConfigError(
            f"{self._folder}: no stop token; expected eos_token_id in generation_config.json or config.json, or "
            f"eos_token in {SETTINGS}"
        )

    def _make_special(self, settings: Mapping[str, Any]) -> None:
        """Marks named tokens and stop tokens as special, whatever tokenizer.json says, so that decoding drops them."""
        more = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
        if not isinstance(more, list | dict):
            raise ConfigError(
                f"{self._folder / SETTINGS}: {reprlib.repr(more)} as extra_special_tokens; expected a list"
            )
        more = [self._token("extra_special_tokens", x) for x in (more.values() if isinstance(more, dict) else more)]
        added = self._tokenizer.get_added_tokens_decoder()
        stops = [added[token].content for token in self.stop_ids if token in added]
        known = {token.content: token for token in added.values()}
        for text in dict.fromkeys((*self._tokens.values(), *more, *stops)):
            token = known.get(text, tokenizers.AddedToken(text, special=True, normalized=False))
            if text not in known or not token.special:
                token.special = True
                self._tokenizer.add_special_tokens([token])

    def _chat_template(self, settings: Mapping[str, Any]) -> Renderer | None:
        """The template of chat_template.jinja, tokenizer_config.json or chat_template.json, the first that has one."""
        if JINJA in self._carried:
            return Renderer(self._text(JINJA), str(self._folder / JINJA))
        for name, found in ((SETTINGS, settings), (OLD_JINJA, self._object(OLD_JINJA))):
            source = found.get("chat_template")
            if source is None:
                continue
            path = self._folder / name
            if isinstance(source, list):  # [{"name": "default", "template": "..."}, ...]
                named = {str(entry.get("name")): entry.get("template") for entry in source if isinstance(entry, dict)}
                source = named.get("default")
                if source is None:
                    raise ConfigError(
                        f"{path}: chat_template has {reprlib.repr(sorted(named))}; expected one 'default'"
                    )
            if not isinstance(source, str):
                raise ConfigError(f"{path}: chat_template is a JSON {type(source).__name__}; expected text")
            return Renderer(source, str(path))
        return None

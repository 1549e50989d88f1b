# SPDX-License-Identifier: Apache-2.0
"""Token ids to text for tokenizers whose tokens are written in bytes, ten times as fast as their engine does it.

Where: the scorer decodes each response of a step while the devices wait. Byte-level BPE writes a byte as a letter, so
the text of tokens is that of their bytes, one after the other.
Source: bytes_to_unicode of GPT-2's encoder.py; the decoder ByteLevel of Hugging Face's tokenizers 0.23.
Deliberately not here: which ids have a token, what special tokens are (huggingface.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tokenizers

_SHOWN = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_HIDDEN = [byte for byte in range(256) if byte not in _SHOWN]
_BYTES = {chr(byte): byte for byte in _SHOWN} | {chr(256 + i): byte for i, byte in enumerate(_HIDDEN)}


def make_decoder(engine: tokenizers.Tokenizer) -> Callable[[np.ndarray], str]:
    """A function (int[T], ids that have a token) -> their text, without special tokens; what is no UTF-8 is U+FFFD.

    It says what the engine says: where it would not, of all ids in a row, it is the engine.
    """

    def by_engine(ids_T: np.ndarray) -> str:
        # decode_batch lets other threads run meanwhile, decode does not
        return engine.decode_batch([ids_T.tolist()], skip_special_tokens=True)[0]

    if not isinstance(engine.decoder, tokenizers.decoders.ByteLevel):
        return by_engine
    written = {token: _written(text) for text, token in engine.get_vocab(with_added_tokens=True).items()}
    written |= {token: b"" for token, added in engine.get_added_tokens_decoder().items() if added.special}
    pieces = [written.get(token, b"") for token in range(max(written, default=-1) + 1)]
    bytes_ = np.frombuffer(b"".join(pieces), np.uint8)
    length_V = np.array([len(piece) for piece in pieces], np.int64)
    start_V = length_V.cumsum() - length_V

    def by_table(ids_T: np.ndarray) -> str:
        length_T = length_V[ids_T]
        shift_T = start_V[ids_T] - (length_T.cumsum() - length_T)  # from a byte's place in the text to that in bytes_
        place = np.arange(length_T.sum()) + shift_T.repeat(length_T)
        return bytes_[place].tobytes().decode("utf-8", "replace")

    every = np.array(sorted(written), np.int64)
    return by_table if by_table(every) == by_engine(every) else by_engine


def _written(text: str) -> bytes:
    """The bytes that a token's letters stand for; its own if one of them stands for none."""
    try:
        return bytes(_BYTES[letter] for letter in text)
    except KeyError:
        return text.encode()

# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of real models on real problems: ids as their makers give them, nothing lost."""

from __future__ import annotations

import base64
import json
import unicodedata
from pathlib import Path

import pytest
import real
import regex
from hf_folders import QWEN, QWEN_SPLIT, SPECIAL, byte_level, write
from tokenizers import AddedToken, Tokenizer, models, normalizers
from transformers import AutoTokenizer

from t1jax.text.huggingface import HFTokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXTS = [
    "",
    "  two  spaces, \t tabs\r\n\r\n and lines \n",
    "naïve cafe\u0301 数学 🙂🏽 \u200d\u0000",
    "I'm 'DON'T' \\frac{1}{2}",
]


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    lines = real.qwen_ranks().read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}


@pytest.fixture(scope="module")
def qwen(ranks, tmp_path_factory) -> HFTokenizer:
    """Qwen2.5's real tokenizer: its ranks as vocabulary and merges, its splits, NFC, its special tokens."""
    letters = byte_letters()
    spelt = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [tuple(spelt[part] for part in merged(t, ranks, rank)) for t, rank in ranks.items() if len(t) > 1]
    whole = Tokenizer(models.BPE({spelt[token]: rank for token, rank in ranks.items()}, merges))
    small = byte_level()
    whole.normalizer, whole.pre_tokenizer, whole.decoder = normalizers.NFC(), small.pre_tokenizer, small.decoder
    whole.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    folder = tmp_path_factory.mktemp("qwen")
    stops = {"eos_token_id": [151645, 151643]}
    return HFTokenizer(write(folder, whole, stops, pad_token="<|endoftext|>", chat_template=QWEN))


def byte_letters() -> dict[int, str]:
    """The letter that GPT-2 and its heirs write each byte as."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def merged(token: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """The parts of `token` after all merges of a lower rank than `below`."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 1:
        found = [ranks.get(left + right, below) for left, right in zip(parts, parts[1:], strict=False)]
        if min(found) >= below:
            break
        i = found.index(min(found))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def problems(number: int) -> list[str]:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is missing: put gsm8k_test.jsonl (GSM8K) and math_train.json (MATH) there")
    lines = (DATA / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["question"] for line in lines]
    texts += [row["problem"] for row in json.loads((DATA / "math_train.json").read_text(encoding="utf-8"))]
    assert len(texts) >= number
    return texts[:number]


def test_real_qwen_ids_are_those_of_its_ranks(qwen, ranks):
    assert (qwen.vocab_size, qwen.stop_ids, qwen.pad_id) == (151646, (151645, 151643), 151643)
    for text in [*TEXTS, *problems(5000)[::50]]:
        pieces = regex.findall(QWEN_SPLIT, unicodedata.normalize("NFC", text))
        expected = [ranks[part] for piece in pieces for part in merged(piece.encode(), ranks, len(ranks))]
        assert qwen.encode(text) == expected, text


def test_real_qwen_gives_back_5000_real_problems(qwen):
    texts = problems(5000)
    tokens = [qwen.encode(text) for text in texts]
    assert [qwen.decode(ids) for ids in tokens] == [unicodedata.normalize("NFC", text) for text in texts]
    assert sum(map(len, tokens)) > 300_000


def test_real_smollm2_is_as_in_transformers():
    folder = real.smollm2()
    ours, theirs = HFTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.pad_id == ours.stop_ids[0] == theirs.eos_token_id == theirs.pad_token_id
    for text in [*TEXTS, *problems(50)]:
        messages = [{"role": "user", "content": text}]
        prompt = ours.chat(messages)
        assert prompt == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert ours.encode(prompt) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)

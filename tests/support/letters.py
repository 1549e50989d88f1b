# SPDX-License-Identifier: Apache-2.0
"""A tokenizer in which every character is a token."""

from __future__ import annotations

import re


class Letters:
    """A tokenizer with a token for each character and each special text; those of thinking decode to themselves."""

    control = ("<|im_start|>", "<|im_end|>")
    special_texts = (*control, "<think>", "</think>")
    pad_id, stop_ids, vocab_size = 1, (1,), 0x110000 + 10
    has_chat = True

    def encode(self, text):
        parts = re.split("(" + "|".join(map(re.escape, self.special_texts)) + ")", text)
        ids = [[self.special_texts.index(p)] if p in self.special_texts else [10 + ord(c) for c in p] for p in parts]
        return sum(ids, [])

    def decode(self, ids):
        texts = ["", "", *self.special_texts[2:]]
        return "".join(texts[i] if i < 10 else chr(i - 10) for i in ids)

    def chat(self, messages, *, generate=True):
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        return text + "<|im_start|>assistant\n" * generate

    def plain(self, text):
        return "<s>" + text


LETTERS = Letters()

# SPDX-License-Identifier: Apache-2.0
"""Texts for the cold start from a file: rows with `messages` or `conversations`, or with `prompt` and `response`.

Rows may differ: each is read by its own columns, without those that are empty in it. `problem`, `question` and `query`
are prompts too, `output` and `completion` responses; `history`, a list of such pairs, comes before them, as in
THUDM/TreeRL (sft_dataset.py).
The prompt is built exactly as for sampling: data.template is applied to `prompt`, the text of a problem; messages go
through the chat template unchanged. The last assistant turn is the response; anything after it is dropped. The
beginning of every response (data.response_prefix, or <think> from the chat template) is part of the prompt, and is
removed from a response that repeats it.
Deliberately not here: turns (turns.py), packing, and truncating what is longer than a row (prompts/streams.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from t1jax.config import Config, ConfigError
from t1jax.tasks.files.overlap import Known
from t1jax.tasks.files.prompts import ChatTokenizer, after, control_texts, has_any, render, render_messages
from t1jax.tasks.files.rows import CONVERSATIONS, Dropped, Row, first_filled, names, read_rows, text_of, value_of
from t1jax.tasks.files.turns import Message, response_of, turns_of

MESSAGES, HISTORY, PROMPT, RESPONSE = "messages", "history", "prompt", "response"
TURNS = (MESSAGES, CONVERSATIONS)  # of these, and of each below, the first that is not empty in a row
PROMPTS = (PROMPT, "problem", "question", "query")
RESPONSES = (RESPONSE, "output", "completion")


def read_demonstrations(
    path: str, cfg: Config, tokenizer: ChatTokenizer, held_out: Known
) -> tuple[list[tuple[str, str]], list[str]]:
    """((prompt, response without stop token) of each row that is used, a line for each reason to drop others).

    Raises:
      ConfigError: the file, a column or its type is not as expected, or no row is left.
    """
    data = cfg.data
    special, control = tokenizer.special_texts, control_texts(tokenizer)
    texts: dict[tuple[str, str], None] = {}
    dropped = Dropped(path)
    for number, row in read_rows(path):
        turns, said, is_problem = _turns(path, number, row)
        asked = [turn["content"] for turn in turns if turn["role"] == "user"]
        if not any(asked) or said is None or not any(text for key, text in said.items() if key != "role"):
            dropped.add("no prompt or no response", number)
            continue
        spoken = [text for turn in (*turns, said) for key, text in turn.items() if key != "role"]
        if any(has_any(text, special) for text in asked) or any(has_any(text, control) for text in spoken):
            dropped.add("holds the text of a special token", number)
            continue
        if any(held_out.inside(text) for text in asked):
            dropped.add("a held-out problem", number)
            continue
        try:
            prompt = render(asked[0], data, tokenizer) if is_problem else render_messages(turns, data, tokenizer)
            response = after(prompt, response_of(turns, said, tokenizer), data)
        except ConfigError as error:  # there is no chat template, or it refuses the turns
            raise ConfigError(f"{path}: row {number}: {error}") from error
        text = (prompt, response)
        if text in texts:
            dropped.add("the same text as an earlier row", number)
        elif len(tokenizer.encode(prompt)) >= cfg.sft.sequence_length:
            dropped.add(f"a prompt of sft.sequence_length = {cfg.sft.sequence_length} tokens or more", number)
        else:
            texts[text] = None
    return dropped.rest(list(texts))


def _turns(path: str, number: int, row: Row) -> tuple[Sequence[Message], Message | None, bool]:
    """(the turns before the response, the response's turn or None, whether the only turn is the text of a problem)."""
    column, prompt, response = (first_filled(row, common) for common in (TURNS, PROMPTS, RESPONSES))
    if column is not None and (value_of(row, column) or prompt is None or response is None):
        turns = turns_of(path, number, row, column)
        last = max((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
        return (turns[:last], turns[last], False) if last else ([], None, False)
    if prompt is None or response is None:
        expected = f"{MESSAGES}, or {PROMPT} and {RESPONSE}"
        raise ConfigError(f"{path}: row {number}: expected columns {expected}; it has {names(row)}")
    said: Message = {"role": "assistant", "content": text_of(path, number, row, response)}
    if isinstance(value_of(row, prompt), list):
        return turns_of(path, number, row, prompt), said, False
    asked: Message = {"role": "user", "content": text_of(path, number, row, prompt)}
    if before := _history(path, number, row):
        return [*before, asked], said, False
    return [asked], said, True


def _history(path: str, number: int, row: Row) -> list[Message]:
    """The turns of `history`, a list of prompts and responses; [] without one."""
    column = first_filled(row, (HISTORY,))
    pairs = None if column is None else row[column]
    if not pairs:
        return []
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        raise ConfigError(
            f"{path}: row {number}: column {column!r}: expected a list of objects with prompt and response"
        )
    return [
        {"role": role, "content": text_of(path, number, pair, name)}
        for pair in pairs
        for role, name in (("user", PROMPT), ("assistant", RESPONSE))
    ]

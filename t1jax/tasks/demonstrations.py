# SPDX-License-Identifier: Apache-2.0
"""Texts for the cold start from a file: rows with `messages`, or with `prompt` and `response`.

Where: before the cold start. The prompt is made exactly as for sampling: `prompt` is the text of a problem, and gets
data.template; `messages` hold what the user said, and go through the chat template as they are. The last turn of the
assistant is the response, what follows it is left out. The beginning that data.response_prefix gives to every response
is part of the prompt, and is taken off a response that has it.
Deliberately not here: packing, and cutting of what is longer than a row (data.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from t1jax.config import Config, ConfigError
from t1jax.tasks.overlap import Known
from t1jax.tasks.prompts import ChatTokenizer, control_texts, has_any, render, render_messages
from t1jax.tasks.rows import Dropped, Row, names, read_rows, text_of

Message = Mapping[str, str]
MESSAGES, PROMPT, RESPONSE = "messages", "prompt", "response"


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
        turns, response = _turns(path, number, row)
        asked = [turn["content"] for turn in turns if turn["role"] == "user"]
        if not any(asked) or not response:
            dropped.add("no prompt or no response", number)
            continue
        if any(has_any(text, special) for text in asked) or any(
            has_any(text, control) for text in (response, *(turn["content"] for turn in turns))
        ):
            dropped.add("holds the text of a special token", number)
            continue
        if any(held_out.inside(text) for text in asked):
            dropped.add("a held-out problem", number)
            continue
        try:
            prompt = render_messages(turns, data, tokenizer) if MESSAGES in row else render(asked[0], data, tokenizer)
        except ConfigError as error:  # there is no chat template, or it refuses the turns
            raise ConfigError(f"{path}: row {number}: {error}") from error
        text = (prompt, response.removeprefix(data.response_prefix))
        if text in texts:
            dropped.add("the same text as an earlier row", number)
        elif len(tokenizer.encode(prompt)) >= cfg.sft.sequence_length:
            dropped.add(f"a prompt of sft.sequence_length = {cfg.sft.sequence_length} tokens or more", number)
        else:
            texts[text] = None
    return dropped.rest(list(texts))


def _turns(path: str, number: int, row: Row) -> tuple[list[Message], str]:
    """(the turns before the response, the response); no turns, or "", if there is none."""
    if MESSAGES not in row:
        if PROMPT not in row or RESPONSE not in row:
            expected = f"{MESSAGES}, or {PROMPT} and {RESPONSE}"
            raise ConfigError(f"{path}: row {number}: expected columns {expected}; it has {names(row)}")
        prompt, response = (text_of(path, number, row, column) for column in (PROMPT, RESPONSE))
        return [{"role": "user", "content": prompt}], response
    if not isinstance(row[MESSAGES], list) or not all(isinstance(turn, dict) for turn in row[MESSAGES]):
        raise ConfigError(
            f"{path}: row {number}: column {MESSAGES!r}: expected a list of objects with role and content"
        )
    turns: list[Message] = [
        {key: text_of(path, number, turn, key) for key in ("role", "content")} for turn in row[MESSAGES]
    ]
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
    return (turns[:last], turns[last]["content"]) if last else ([], "")

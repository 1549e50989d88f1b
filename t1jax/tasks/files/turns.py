# SPDX-License-Identifier: Apache-2.0
"""Conversations in rows: messages with `role` and `content`, or ShareGPT's `from` and `value`.

Where: before the prompts and the cold start. A problem may be a conversation (a system message, examples, and the
question last); a demonstration may be a conversation that ends with the response.
Reasoning in a field of its own (`reasoning_content`) becomes part of the response, written as the chat template writes
it. If the template does not write it, the row is rejected, so that reasoning is never lost silently.
Deliberately not here: the template (text/chat.py), which column is read (columns.py, demonstrations.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from t1jax.config import ConfigError
from t1jax.tasks.files.prompts import ChatTokenizer
from t1jax.tasks.files.rows import Row, named, text_of, value_of

Message = Mapping[str, str]
SHAREGPT = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
REASONING = ("reasoning_content", "reasoning", "thinking")  # field names in use
REASON, ANSWER = "the reasons", "the result"  # of a sample turn, rendered to see how the template writes reasoning


def turns_of(path: str, number: int, row: Row, column: str) -> list[Message]:
    """The turns in a column: `role`, `content` and, if any, reasoning. ShareGPT's names are converted.

    Raises:
      ConfigError: the column is not a list of turns, or has a role that is not in SHAREGPT.
    """
    value = row[column] if column in row else value_of(row, column)
    where = f"{path}: row {number}: column {column!r}"
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise ConfigError(f"{where}: expected a list of objects with role and content")
    return [_turn(path, number, where, turn) for turn in value]


def asked(path: str, number: int, row: Row, column: str) -> tuple[tuple[Message, ...], str]:
    """(the turns before the last question, that question). A string is a question; "" if there is none."""
    if not isinstance(value_of(row, column), list):
        return (), text_of(path, number, row, column)
    turns = turns_of(path, number, row, column)
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    return ((), "") if last is None else (tuple(turns[:last]), turns[last]["content"])


def response_of(turns: Sequence[Message], turn: Message, tokenizer: ChatTokenizer) -> str:
    """The response in an assistant's `turn` that follows `turns`, with its reasoning first, as the template writes it.

    Raises:
      ConfigError: the template does not write the reasoning.
    """
    key = next((key for key in REASONING if turn.get(key)), None)
    if key is None:
        return turn["content"]
    shown = {"role": "assistant", "content": ANSWER, key: REASON}
    before, after = tokenizer.chat(turns), tokenizer.chat([*turns, shown], generate=False)
    opening, reason, rest = after.removeprefix(before).partition(REASON)
    closing, answer, _ = rest.partition(ANSWER)
    if not after.startswith(before) or not reason or not answer:
        raise ConfigError(
            f"a message has {key!r}, which the chat template does not write; expected it in the content, between "
            "<think> and </think>, or a template that writes it"
        )
    return opening + turn[key] + closing + turn["content"]


def _turn(path: str, number: int, where: str, turn: Row) -> Message:
    if "from" in turn and "role" not in turn:
        role = text_of(path, number, turn, "from")
        if role not in SHAREGPT:
            raise ConfigError(f"{where}: a turn is from {role[:40]!r}; expected one of {', '.join(SHAREGPT)}")
        said = text_of(path, number, turn, "value") if named(turn, "value") else ""  # some have only a gold
        return {"role": SHAREGPT[role], "content": said}
    found = {key: text_of(path, number, turn, key) for key in ("role", "content")}
    return found | {key: text for key in REASONING if key in turn and (text := text_of(path, number, turn, key))}

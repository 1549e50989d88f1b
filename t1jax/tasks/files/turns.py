# SPDX-License-Identifier: Apache-2.0
"""Conversations in rows: `role` and `content` as chat templates have them, or `from` and `value` as ShareGPT has.

Where: before the prompts and the cold start. A problem may be a conversation (a system message, examples, the question
last), and a text of the cold start may be one that ends with the response.
Reasoning that stands apart from the content (`reasoning_content`) becomes part of the response as the chat template
would write it; a template that does not write it is no reason to lose it: it is refused by name.
Deliberately not here: the template (text/chat.py), which columns (columns.py, demonstrations.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from t1jax.config import ConfigError
from t1jax.tasks.files.prompts import ChatTokenizer
from t1jax.tasks.files.rows import Row, named, text_of, value_of

Message = Mapping[str, str]
SHAREGPT = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
REASONING = ("reasoning_content", "reasoning", "thinking")  # names that programs use for it
REASON, ANSWER = "the reasons", "the result"  # texts of a turn that shows how a template writes one


def turns_of(path: str, number: int, row: Row, column: str) -> list[Message]:
    """The turns in a column: `role`, `content`, and reasoning where there is some. ShareGPT's names become these.

    Raises:
      ConfigError: it holds something else, or a role that ShareGPT does not have.
    """
    value = row[column] if column in row else value_of(row, column)
    where = f"{path}: row {number}: column {column!r}"
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise ConfigError(f"{where}: expected a list of objects with role and content")
    return [_turn(path, number, where, turn) for turn in value]


def asked(path: str, number: int, row: Row, column: str) -> tuple[tuple[Message, ...], str]:
    """(the turns before the last question, that question); a text is a question, and "" stands for none."""
    if not isinstance(value_of(row, column), list):
        return (), text_of(path, number, row, column)
    turns = turns_of(path, number, row, column)
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    return ((), "") if last is None else (tuple(turns[:last]), turns[last]["content"])


def response_of(turns: Sequence[Message], turn: Message, tokenizer: ChatTokenizer) -> str:
    """What an assistant's turn says after `turns`, its reasoning in front as the chat template writes it.

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
        said = text_of(path, number, turn, "value") if named(turn, "value") else ""  # ORZ's last turn has a gold only
        return {"role": SHAREGPT[role], "content": said}
    found = {key: text_of(path, number, turn, key) for key in ("role", "content")}
    return found | {key: text for key in REASONING if key in turn and (text := text_of(path, number, turn, key))}

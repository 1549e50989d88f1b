# SPDX-License-Identifier: Apache-2.0
"""The text that a response continues, from a problem of a file: template, chat, beginning of the response.

Where: the prompts of the sentence, for sampling, the cold start and evaluation alike, so that all three ask the same.
Deliberately not here: the chat template itself (text/huggingface.py), the embedded task's prompt (tasks/pairs/task.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from t1jax.config import ConfigError, DataConfig
from t1jax.text.tokenizer import Tokenizer

PROBLEM = "{problem}"
THINK = "<think>"
_THINKING = re.compile(rf"{THINK}\s*\Z")  # how some chat templates begin every response


class ChatTokenizer(Tokenizer, Protocol):
    """What prompts need of a tokenizer, see text/huggingface.py."""

    @property
    def has_chat(self) -> bool: ...

    @property
    def special_texts(self) -> tuple[str, ...]: ...

    def chat(self, messages: Sequence[Mapping[str, str]], *, generate: bool = True) -> str: ...

    def plain(self, text: str) -> str: ...


def render(problem: str, cfg: DataConfig, tokenizer: ChatTokenizer, before: Sequence[Mapping[str, str]] = ()) -> str:
    """The prompt for the text of a problem; `before`: the turns of a conversation that it is the last of.

    Raises:
      ConfigError: data.chat with a tokenizer that has no chat template; turns without data.chat.
    """
    said = cfg.template.replace(PROBLEM, problem)
    if not cfg.chat and not before:
        return tokenizer.plain(said) + cfg.response_prefix
    return render_messages([*before, {"role": "user", "content": said}], cfg, tokenizer)


def render_messages(messages: Sequence[Mapping[str, str]], cfg: DataConfig, tokenizer: ChatTokenizer) -> str:
    """The prompt for a conversation up to the response; data.system_prompt comes first if it has no system message.

    Raises:
      ConfigError: data.chat is off, or the tokenizer has no chat template.
    """
    if not cfg.chat:
        raise ConfigError("data.chat is False; expected True: a file of `messages` is written by the chat template")
    if not tokenizer.has_chat:
        raise ConfigError("data.chat is True, but the tokenizer has no chat template; expected False, or one that has")
    if cfg.system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": cfg.system_prompt}, *messages]
    prompt = tokenizer.chat(messages)
    begun = cfg.response_prefix.strip() and prompt.rstrip().endswith(cfg.response_prefix.strip())
    return prompt if begun else prompt + cfg.response_prefix


def after(prompt: str, response: str, cfg: DataConfig) -> str:
    """`response` without the beginning that the prompt has written already: data.response_prefix, or <think>."""
    begun = _THINKING.search(prompt)
    for beginning in (cfg.response_prefix, begun[0] if begun else ""):
        if beginning and response.startswith(beginning):
            return response.removeprefix(beginning)
    if begun and response.startswith(THINK):  # with other spaces after it
        return response.removeprefix(THINK).lstrip()
    return response


def control_texts(tokenizer: ChatTokenizer) -> tuple[str, ...]:
    """The special texts that decode to nothing; those of thinking, say, are special and may stand in a response."""
    return tuple(text for text in tokenizer.special_texts if not tokenizer.decode(tokenizer.encode(text)))


def has_any(text: str, specials: tuple[str, ...]) -> bool:
    """Whether `text` holds the text of a special token: encoded, it would be that token and not these letters."""
    return any(special in text for special in specials)

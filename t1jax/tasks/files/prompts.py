# SPDX-License-Identifier: Apache-2.0
"""Builds the prompt for a problem of a file: data.template, the chat template, and data.response_prefix.

Where: prompts. Sampling, the cold start and evaluation all use it, so that they ask in the same way.
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
_THINKING = re.compile(rf"{THINK}\s*\Z")  # some chat templates begin every response with it


class ChatTokenizer(Tokenizer, Protocol):
    """The methods of a tokenizer that prompts use; see text/huggingface.py."""

    @property
    def has_chat(self) -> bool: ...

    @property
    def special_texts(self) -> tuple[str, ...]: ...

    def chat(self, messages: Sequence[Mapping[str, str]], *, generate: bool = True) -> str: ...

    def plain(self, text: str) -> str: ...


def render(problem: str, cfg: DataConfig, tokenizer: ChatTokenizer, before: Sequence[Mapping[str, str]] = ()) -> str:
    """The prompt for the text of a problem, which comes after the turns `before` of a conversation.

    Raises:
      ConfigError: data.chat is True and the tokenizer has no chat template, or there are turns and data.chat is False.
    """
    said = cfg.template.replace(PROBLEM, problem)
    if not cfg.chat and not before:
        return tokenizer.plain(said) + cfg.response_prefix
    return render_messages([*before, {"role": "user", "content": said}], cfg, tokenizer)


def render_messages(messages: Sequence[Mapping[str, str]], cfg: DataConfig, tokenizer: ChatTokenizer) -> str:
    """The prompt for a conversation. data.system_prompt is put first unless there is a system message.

    Raises:
      ConfigError: data.chat is False, or the tokenizer has no chat template.
    """
    if not cfg.chat:
        raise ConfigError("data.chat is False; expected True: `messages` need a chat template")
    if not tokenizer.has_chat:
        raise ConfigError("data.chat is True, but the tokenizer has no chat template; expected False")
    if cfg.system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": cfg.system_prompt}, *messages]
    prompt = tokenizer.chat(messages)
    begun = cfg.response_prefix.strip() and prompt.rstrip().endswith(cfg.response_prefix.strip())
    return prompt if begun else prompt + cfg.response_prefix


def after(prompt: str, response: str, cfg: DataConfig) -> str:
    """`response` without what the prompt already ends with: data.response_prefix or <think>."""
    begun = _THINKING.search(prompt)
    for beginning in (cfg.response_prefix, begun[0] if begun else ""):
        if beginning and response.startswith(beginning):
            return response.removeprefix(beginning)
    if begun and response.startswith(THINK):  # with other spaces after it
        return response.removeprefix(THINK).lstrip()
    return response


def control_texts(tokenizer: ChatTokenizer) -> tuple[str, ...]:
    """The special texts that decode to "". Others, such as <think> in some models, may occur in a response."""
    return tuple(text for text in tokenizer.special_texts if not tokenizer.decode(tokenizer.encode(text)))


def has_any(text: str, specials: tuple[str, ...]) -> bool:
    """Whether `text` contains a special token's text, which would be encoded as that token."""
    return any(special in text for special in specials)

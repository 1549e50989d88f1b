# SPDX-License-Identifier: Apache-2.0
"""Chat templates of Hugging Face folders: messages -> the text that the model was trained to continue.

A template is a program that came with the weights, so it runs in Jinja's sandbox as in transformers: with the same
settings, extensions, filters and globals, so that the text is the same.
Source: transformers 5.23, utils/chat_template_utils.py.
Deliberately not here: the process that it runs in (rendering.py), what it may spend (sandbox.py); tools and documents,
which no task here has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.utils import Namespace

from t1jax.config import ConfigError
from t1jax.text.sandbox import Sandbox

MAX_TEMPLATE = 1 << 20  # characters; real ones have 300 to 20,000
MAX_TEXT = 1 << 24  # characters of a rendered chat
SAID = "forty-two"  # an answer that stands nowhere else in a conversation


class ChatTemplate:
    """A compiled chat template. `render` may be called from any thread."""

    def __init__(self, source: str, file: str, now: float | None = None) -> None:
        """Compiles `source`; `file` is what errors name, `now` what the clock says (default: the time).

        Raises:
          ConfigError: it is too long, or Jinja does not understand it.
        """
        if len(source) > MAX_TEMPLATE:
            raise ConfigError(f"{file}: a chat template of {len(source)} characters; expected at most {MAX_TEMPLATE}")
        self.source, self._file = source, file
        try:
            self._environment = _environment(datetime.now() if now is None else datetime.fromtimestamp(now))
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"{file}: chat template, line {error.lineno}: {_line(error)}; expected Jinja") from error
        except Exception as error:  # Jinja evaluates what is constant, so any error of a program may come out
            raise ConfigError(f"{file}: chat template: {type(error).__name__}: {_line(error)}") from error

    def render(self, messages: Sequence[Mapping[str, str]], tokens: Mapping[str, str], generate: bool) -> str:
        """The text of `messages`, each with `role` and `content`.

        Args:
          messages: at least one; entries that are None count as absent.
          tokens: the template's names of special tokens: {"bos_token": "<s>"}.
          generate: end with what begins the assistant's answer.

        Raises:
          ConfigError: the template refuses the messages, fails, reaches out of the sandbox or does not end.
        """
        chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
        pieces, size = [], 0
        self._environment.begin()
        try:
            for piece in self._template.generate(
                messages=chat, tools=None, documents=None, add_generation_prompt=generate, **tokens
            ):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_TEXT:
                    raise SecurityError(f"more than {MAX_TEXT} characters came out")
        except Exception as error:  # the template's program: whatever it raises is its fault, and said in one line
            what = _line(error) if type(error) is jinja2.TemplateError else f"{type(error).__name__}: {_line(error)}"
            roles = ", ".join(str(message.get("role")) for message in chat)
            raise ConfigError(f"{self._file}: the chat template refuses messages of {roles}: {what}") from error
        return "".join(pieces)


def end_of_turn(render: Callable[[Sequence[Mapping[str, str]]], str], added: Collection[str]) -> tuple[str | None, str]:
    """(the added token that the template writes after the assistant's content or, as GLM's, before the next turn;
    why there is none).

    It is read off a short conversation, by `render`. What a template writes in other places only, such as after a call
    of a tool, cannot be told so.
    """
    turns = [{"role": role, "content": said} for role, said in (("user", "2"), ("assistant", SAID), ("user", "3"))]
    refused = ""
    for messages in (turns[:2], turns):
        try:
            _, said, rest = render(messages).rpartition(SAID)
        except ConfigError as error:
            refused = f"; {error}"
            continue
        following = [text for text in added if said and text.strip() and rest.lstrip().startswith(text)]
        if following:
            return max(following, key=len), ""
    return None, f"the chat template ends no answer by a token{refused}"


class _Generation(Extension):
    """{% generation %}...{% endgeneration %}: marks what the assistant says, for others; the text is what is inside."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Dict:
    """`dict` of a template: calls only, none of the class's attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` of a template: no name in it begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that `self` stays free as a name
        self, attributes = args[0], dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _environment(now: datetime) -> Sandbox:
    """What transformers gives its templates. The clock stands still, so that prompts do not change within a run."""
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = environment.bounded(_to_json)
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=now.strftime, dict=_Dict(), namespace=_Namespace
    )
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Plain JSON; Jinja's own filter would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not hold {name!r}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

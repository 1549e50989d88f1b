# SPDX-License-Identifier: Apache-2.0
"""Jinja's sandbox with an end: what a chat template may spend while it renders.

Where: prompts; the language that chat.py gives to templates. Jinja keeps a template from reaching out; it does not keep
one from looping for a year or from doubling a text forty times. Here each turn of a loop and each call is a step, and
so is each KILO of what an operator or a call makes; a rendering has MAX_STEPS.
Deliberately not here: a bound on what one filter allocates at once (a join, a replace); it is measured afterwards.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 1 << 18  # a chat of 1,000 messages takes 10,000 or so
MAX_SIZE = 1 << 24  # characters of a text, entries of a list; a number's bits count KILO each
KILO = 1 << 10


class _Counting(CodeGenerator):
    """Jinja's compiler; loops go through `Sandbox.turns`, and joined texts through `Sandbox.measured`."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        node.iter = nodes.Call(nodes.EnvironmentAttribute("turns"), [node.iter], [], None, None, lineno=node.lineno)
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.measured(")
        super().visit_Concat(node, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one template. Each thread that renders has steps of its own; `begin` gives it new ones."""

    code_generator_class = _Counting
    intercepted_binops = frozenset(("+", "*", "**"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.globals["lipsum"]
        self.filters = {name: self.bounded(function) for name, function in self.filters.items()}
        self._thread = threading.local()

    def begin(self) -> None:
        """A rendering begins in this thread."""
        self._thread.steps = 0

    def spend(self, steps: int) -> None:
        """Counts steps of this thread's rendering.

        Raises:
          SecurityError: it had them all.
        """
        self._thread.steps = getattr(self._thread, "steps", 0) + steps
        if self._thread.steps > MAX_STEPS:
            raise SecurityError(f"it does not end within {MAX_STEPS} turns of loops and calls")

    def turns(self, items: Iterable[Any]) -> Iterator[Any]:
        """`items`, a step each."""
        for item in items:
            self.spend(1)
            yield item

    def measured(self, value: Any) -> Any:
        """`value`, which an operator, a filter or a call made, if it is no larger than MAX_SIZE."""
        size = len(value) if isinstance(value, str | list) else 0
        if isinstance(value, int):
            size = value.bit_length() * KILO
        self._refuse_large(size)
        self.spend(size // KILO)
        return value

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a function of the template or of Python; the names keep out of the way of the template's own."""
        __self.spend(1)
        __self._check_numbers((*args, *kwargs.values()))
        if isinstance(__obj, LoopContext):  # a loop that calls itself
            args = tuple(map(__self.turns, args))
        return __self.measured(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """left + right, left * right or left ** right."""
        self._refuse_large(_size(operator, left, right))
        return self.measured(super().call_binop(context, operator, left, right))

    def bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that takes no large numbers (the width of `center`, say) and whose result is measured."""

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self._check_numbers((*args, *kwargs.values()))
            return self.measured(function(*args, **kwargs))

        return bounded

    def _check_numbers(self, arguments: Iterable[Any]) -> None:
        for argument in arguments:
            if isinstance(argument, int):
                self._refuse_large(abs(argument))

    def _refuse_large(self, size: int) -> None:
        if size > MAX_SIZE:
            raise SecurityError(f"it makes something of more than {MAX_SIZE} characters or entries")


def _size(operator: str, left: Any, right: Any) -> int:
    """Of left * right or left ** right before it is made, as `Sandbox.measured` counts; 0 where it stays small."""
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * right * KILO
    if operator == "*" and isinstance(left, int):
        left, right = right, left
    if operator == "*" and isinstance(left, str | list | tuple) and isinstance(right, int):
        return len(left) * right
    return 0

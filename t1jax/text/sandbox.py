# SPDX-License-Identifier: Apache-2.0
"""Jinja's sandbox with a limit on the work and memory of a rendering.

Where: prompts; the environment in which chat.py runs chat templates. Jinja's sandbox keeps a template away from the
host, but not from looping for a year or doubling a string forty times. Here each loop iteration and each call counts as
a step, and so do each KILO characters or entries that an operator or call produces; a rendering has MAX_STEPS.
Deliberately not here: a bound on what one filter (join, replace) allocates at once: that is for the process in which
templates run (rendering.py).
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

MAX_STEPS = 1 << 18  # per rendering; a chat of 1,000 messages takes about 10,000
MAX_SIZE = 1 << 24  # characters of a string or entries of a list; each bit of an integer counts as KILO
KILO = 1 << 10


class _Counting(CodeGenerator):
    """Jinja's compiler, with loops routed through `Sandbox.turns` and concatenation through `Sandbox.measured`."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        node.iter = nodes.Call(nodes.EnvironmentAttribute("turns"), [node.iter], [], None, None, lineno=node.lineno)
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.measured(")
        super().visit_Concat(node, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one template. Steps are counted per thread; `begin` resets the count."""

    code_generator_class = _Counting
    intercepted_binops = frozenset(("+", "*", "**"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.globals["lipsum"]
        self.filters = {name: self.bounded(function) for name, function in self.filters.items()}
        self._thread = threading.local()

    def begin(self) -> None:
        """Starts a rendering in this thread, with no steps used."""
        self._thread.steps = 0

    def spend(self, steps: int) -> None:
        """Counts steps of this thread's rendering.

        Raises:
          SecurityError: more than MAX_STEPS.
        """
        self._thread.steps = getattr(self._thread, "steps", 0) + steps
        if self._thread.steps > MAX_STEPS:
            raise SecurityError(f"it does not end within {MAX_STEPS} turns of loops and calls")

    def turns(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yields `items`, counting one step for each."""
        for item in items:
            self.spend(1)
            yield item

    def measured(self, value: Any) -> Any:
        """`value`, the result of an operator, filter or call; SecurityError if it is larger than MAX_SIZE."""
        size = len(value) if isinstance(value, str | list) else 0
        if isinstance(value, int):
            size = value.bit_length() * KILO
        self._refuse_large(size)
        self.spend(size // KILO)
        return value

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a macro or Python function. The mangled names cannot collide with a template's keyword arguments."""
        __self.spend(1)
        __self._check_numbers((*args, *kwargs.values()))
        if isinstance(__obj, LoopContext):  # a recursive loop
            args = tuple(map(__self.turns, args))
        return __self.measured(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """left + right, left * right or left ** right; SecurityError if the result would be too large."""
        self._refuse_large(_size(operator, left, right))
        return self.measured(super().call_binop(context, operator, left, right))

    def bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as a filter that rejects large integers (such as a width for `center`) and measures its result."""

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
    """Size of left * right or left ** right, computed beforehand as `Sandbox.measured` counts; 0 if it stays small."""
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * right * KILO
    if operator == "*" and isinstance(left, int):
        left, right = right, left
    if operator == "*" and isinstance(left, str | list | tuple) and isinstance(right, int):
        return len(left) * right
    return 0

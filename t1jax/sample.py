# SPDX-License-Identifier: Apache-2.0
"""One answer on a terminal, as it is sampled.

    python -m t1jax.sample --checkpoint=models/Qwen2.5-0.5B-Instruct "What is 2 + 3?"

weights -> prompt -> one rollout, for interactive use. The answer goes to stdout, everything else to stderr. Heavy
imports wait until the flags are read, so that --help is instant.
Deliberately not here: many problems (evaluate.py), whether the answer is right (rewards/).
"""

from __future__ import annotations

import dataclasses
import math
import queue
import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from absl import flags

from t1jax.config import Config, ConfigError
from t1jax.host import command_line

if TYPE_CHECKING:
    import numpy as np

    from t1jax.text.tokenizer import Tokenizer

USAGE = """\
usage: python -m t1jax.sample --checkpoint=DIR [FLAGS] "problem"

Streams a model's answer to a problem, with its thinking dimmed, then prints tokens per second.

  --checkpoint=DIR     weights and tokenizer: OWNER/NAME of the Hugging Face hub, such a model's folder, output of
                       t1jax.convert, or a workdir (default: the config's model.checkpoint)
  --config=FILE        config with data.template, data.system_prompt, mesh, ... (default: that of the run, if DIR is a
                       workdir, else configs/base.py)
  --config.KNOB=...    set any knob of the config, such as --config.model.compute_dtype=float32
  --temperature=X      sampling temperature; 0 is greedy (default: 0.6)
  --max_new_tokens=N   maximum length of the answer, in tokens (default: 1024)
  --seed=N             random seed (default: the config's)
  --raw                continue the text as it is, without a chat template or what the embedded task adds
  --help               show this text

Exit codes: 0 success, 1 failure (names the file of its traceback), 2 error in flags or files, 3 disk full,
130 interrupted.
"""
DEFAULT_CONFIG = "configs/base.py"
THINK, THOUGHT = "<think>", "</think>"
BROKEN = "\ufffd"

Report = Callable[[list[int]], None]


def cli() -> None:
    """What `python -m t1jax.sample` calls."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    return command_line.call("t1jax.sample", USAGE, _run, argv, "interrupted")


class Answer:
    """Prints a text as it grows. On a terminal the thinking is dim; elsewhere the text is printed exactly."""

    def __init__(self, tokenizer: Tokenizer, thinking: bool, out: TextIO) -> None:
        """`thinking`: the prompt has begun it. Without that, an answer that starts with <think> does."""
        from rich.console import Console

        self._console = Console(file=out, highlight=False)
        self._tokenizer, self._thinking, self._shown = tokenizer, thinking, ""
        self._within_line = False

    def show(self, ids: list[int], complete: bool = False) -> None:
        """Prints what `ids`, all tokens so far, have more than before; a last character waits until it is whole."""
        text = self._tokenizer.decode(ids)
        if not complete:
            text = text.rstrip(BROKEN)
        end = text.find(THOUGHT)
        thought = len(text) if end < 0 else end + len(THOUGHT)
        if not self._thinking and not THINK.startswith(text.lstrip()[: len(THINK)]):
            thought = 0
        start = len(self._shown)
        self._write(text[start:thought], "dim")
        self._write(text[max(start, thought) :], "")
        self._shown = max(self._shown, text, key=len)

    def close(self) -> None:
        """Ends the line."""
        if self._within_line:
            self._write("\n", "")

    def _write(self, text: str, style: str) -> None:
        from rich.text import Text

        if text:  # noted first: Ctrl-C may come at any point
            self._within_line = not text.endswith("\n")
        if self._console.is_terminal:
            self._console.print(Text(visible(text), style), end="", soft_wrap=True)
        else:
            self._console.file.write(text)
        self._console.file.flush()


def visible(text: str) -> str:
    """`text` with U+FFFD for characters that would command the terminal instead of being shown."""
    return "".join(BROKEN if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def until_stop(ids: list[int], stop_ids: tuple[int, ...]) -> list[int]:
    """`ids` up to its first stop token, that included."""
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in stop_ids), ids)


@dataclass(frozen=True)
class Drawn:
    """An answer, and how long it took."""

    ids: list[int]
    first: int  # how many tokens came first, in one go
    before: float  # seconds until these were there: the program is compiled, the prompt read
    after: float  # seconds from then to the end

    def figures(self) -> str:
        """Tokens, seconds, tokens a second; the time before the first tokens apart."""
        count = len(self.ids)
        speed = f", {(count - self.first) / self.after:.1f} tokens/s" if count > self.first else ""
        return f"{count} tokens in {self.after:.1f} s{speed}; {self.before:.1f} s to compile and prefill"


def in_background(sample: Callable[[Report], list[int]], show: Report) -> Drawn:
    """Runs `sample` in a thread, so that Ctrl-C is heard here.

    `sample` reports, in any order, all tokens so far; `show` is told of them here. What `sample` raises is raised here.
    """
    events: queue.SimpleQueue[tuple[float, list[int] | BaseException, bool]] = queue.SimpleQueue()

    def work() -> None:
        try:
            result: list[int] | BaseException = sample(lambda ids: events.put((time.monotonic(), ids, False)))
        except BaseException as error:  # raised again below, where it is heard
            result = error
        events.put((time.monotonic(), result, True))

    began = time.monotonic()
    threading.Thread(target=work, daemon=True).start()
    first = None
    while True:
        when, ids, ended = events.get()
        if isinstance(ids, BaseException):
            raise ids
        first = first or (len(ids), when)
        if ended:
            return Drawn(ids, first[0], first[1] - began, when - first[1])
        show(ids)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("checkpoint", None, "", values)
    flags.DEFINE_float("temperature", 0.6, "", 0.0, flag_values=values)
    flags.DEFINE_integer("max_new_tokens", 1024, "", 1, flag_values=values)
    flags.DEFINE_integer("seed", None, "", 0, 2**32 - 1, flag_values=values)
    flags.DEFINE_boolean("raw", False, "", values)


def _run(argv: list[str]) -> None:
    cfg, values, extra = command_line.read_config(argv, _define, DEFAULT_CONFIG)
    if len(extra) != 1:
        raise ConfigError(f"{len(extra)} problems; expected one, in quotes, see --help")
    folder = values.checkpoint or cfg.model.checkpoint
    if not folder:
        raise ConfigError("--checkpoint is missing; expected a folder of weights, see --help")
    if not math.isfinite(values.temperature):
        raise ConfigError(f"--temperature={values.temperature}; expected a finite number")
    cfg = cfg if values.seed is None else dataclasses.replace(cfg, seed=values.seed)
    _sample(cfg, folder, extra[0], values.temperature, values.max_new_tokens, values.raw)


def _sample(cfg: Config, folder: str, problem: str, temperature: float, new_tokens: int, raw: bool) -> None:
    from rich.console import Console

    from t1jax.api.model import encoded, prompt_of
    from t1jax.devices import sharding
    from t1jax.evaluation.opened import open_checkpoint
    from t1jax.model import heads
    from t1jax.rollouts.generate import Generator
    from t1jax.text.huggingface import HFTokenizer

    notes = Console(stderr=True, highlight=False)
    opened = open_checkpoint(cfg, folder)
    tokens = opened.tokenizer
    cfg = dataclasses.replace(opened.cfg, eval=dataclasses.replace(cfg.eval, batch_size=1))
    prompt = prompt_of(problem, cfg, tokens, raw)
    ids = encoded(prompt, opened)
    if isinstance(tokens, HFTokenizer):
        tokens.refuse_too_long(len(ids) + new_tokens, "the prompt's tokens + --max_new_tokens")

    def sample(report: Report) -> list[int]:
        def on_tokens(tokens_BT: np.ndarray, done: int) -> None:
            report(until_stop(tokens_BT[0, :done].tolist(), tokens.stop_ids))

        generator = Generator(cfg, mesh, tokens)
        [[answer]] = generator(
            params,
            [ids],
            "sample",
            length=len(ids),
            new_tokens=new_tokens,
            temperature=temperature,
            truncate=True,
            on_tokens=on_tokens,
        )
        return answer

    for note in getattr(tokens, "notes", ()):
        notes.print(note, style="dim", soft_wrap=True)
    answer = Answer(tokens, prompt.rfind(THINK) > prompt.rfind(THOUGHT), sys.stdout)
    status = notes.status("reading the weights")
    status.start()

    def show(ids: list[int]) -> None:
        status.stop()
        answer.show(ids)

    try:
        mesh = sharding.make_mesh(cfg.mesh)
        if copied := heads.note(cfg.model, mesh.shape["tensor"]):
            notes.print(copied, style="dim", soft_wrap=True)
        params = opened.params(mesh)
        status.update("compiling")
        drawn = in_background(sample, show)
        status.stop()
        answer.show(drawn.ids, complete=True)
    finally:
        status.stop()
        answer.close()
    cut = "" if drawn.ids[-1] in tokens.stop_ids else f"; truncated at --max_new_tokens={new_tokens}"
    notes.print(drawn.figures() + cut, style="dim", soft_wrap=True)


command_line.callable_module(__name__)
if __name__ == "__main__":
    cli()

# SPDX-License-Identifier: Apache-2.0
"""One command for everything: `t1jax COMMAND ...`, also `python -m t1jax COMMAND ...`.

A command is a module at the top of the package, and `python -m t1jax.MODULE` does the same. Only the module that is
asked for is imported, so --help and --version are instant.
Deliberately not here: what the commands do, and their flags (main.py, sample.py, ...).
"""

from __future__ import annotations

import difflib
import importlib
import sys

from t1jax import __version__
from t1jax.host import command_line

COMMANDS = {  # command -> (module, what it does)
    "train": ("main", "the whole of T1, or the stages that a config asks for: cold start, RL, evaluation"),
    "sample": ("sample", "answers to questions, from any checkpoint"),
    "evaluate": ("evaluate", "accuracy on files of problems, with intervals; inference scaling"),
    "convert": ("convert", "weights from Hugging Face to Orbax and back"),
    "plan": ("plan", "what a config takes on chips that are not here: memory, time, communication"),
    "filter": ("filter", "problems of a file that the model rarely solves"),
    "synthesize": ("synthesize", "trial-and-error chains for the cold start"),
    "verify": ("verify", "how answers of a file are judged, and which cannot be"),
    "analyze": ("analyze", "how responses reach their answers"),
    "report": ("report", "the report of a run, or several side by side"),
    "study": ("study", "the paper's claims, with several seeds"),
    "status": ("status", "what a run is doing, how far it is, and what it has cost"),
    "replay": ("replay", "a step that failed, again"),
}
USAGE = f"""usage: t1jax COMMAND ...

{"".join(f"  {name:<11} {what}{chr(10)}" for name, (_, what) in COMMANDS.items())}
t1jax COMMAND --help explains a command. t1jax --version prints the version.
`t1jax --config=...` without a command trains; `python -m t1jax.MODULE` works as well.
"""


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    name, rest = (argv[1], argv[2:]) if len(argv) > 1 else ("--help", [])
    if name in ("--help", "-h", "help"):
        print(USAGE, end="")
        return 0
    if name == "--version":
        print(f"t1jax {__version__}")
        return 0
    if name.startswith("-"):
        name, rest = "train", argv[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
        print(f"t1jax: no command {name!r}; {hint}", file=sys.stderr)
        return command_line.EXIT_MISTAKE
    code: int = importlib.import_module(f"t1jax.{COMMANDS[name][0]}").main([f"t1jax {name}", *rest])
    return code


def cli() -> None:
    """What `t1jax` and `python -m t1jax` call."""
    command_line.leave(main(sys.argv))


if __name__ == "__main__":
    cli()

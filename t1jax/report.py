# SPDX-License-Identifier: Apache-2.0
"""Command line of the report: rebuild one run's page, or compare several runs on one page.

    python -m t1jax.report workdirs/a workdirs/b --out=compared.html

... -> evaluate -> **report**. Reads workdirs and changes nothing in them except the report of a single run.
Deliberately not here: what the pages say (run_page.py, comparison.py), what is read (runs.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from t1jax.config import ConfigError
from t1jax.host import command_line, place

USAGE = """\
usage: python -m t1jax.report WORKDIR [WORKDIR ...] [--out=FILE.html]

With one workdir: rebuilds its report.html and PNGs from results.json and metrics.jsonl. With several (at most 12):
writes one page that compares each with the first. Unfinished runs are shown up to their latest step.

  --out=FILE.html   output file (default: report.html in the workdir, or compared.html here); its folder is created
                    if needed
  --help            show this text

Exit codes: 0 success, 1 failure (names the file of its traceback), 2 error in flags or files, 3 disk full,
130 interrupted.
"""
DEFAULT_OUT = "compared.html"


def cli() -> None:
    """What `python -m t1jax.report` calls."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    return command_line.call("t1jax.report", USAGE, _run, argv, interrupted="interrupted; nothing was written")


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "", flag_values=values)


def _run(argv: list[str]) -> None:
    values, workdirs = command_line.read_flags(argv, _define)
    if not workdirs:
        raise ConfigError("no workdir given; expected at least one, see --help")
    out = place.of(values.out, "--out") if values.out else None
    if values.out is not None and (out is None or out.suffix != ".html"):
        raise ConfigError(f"--out={values.out}; expected a file that ends in .html")

    from t1jax.host import files
    from t1jax.reports import comparison, run_page, runs

    found = runs.read(workdirs)
    try:
        if len(found) == 1:
            path = run_page.write(found[0], out)
        else:
            path = files.write_text(out or Path(DEFAULT_OUT), comparison.render(found))
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: {error.strerror}; expected a writable path") from error
    print(f"report: {path.resolve()}")


if __name__ == "__main__":
    cli()

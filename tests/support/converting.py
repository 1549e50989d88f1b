# SPDX-License-Identifier: Apache-2.0
"""The converter's command line, called here, and how it refuses."""

from __future__ import annotations

from t1jax import convert


def run(*args):
    return convert.main(["t1jax.convert", *map(str, args)])


def refused(tmp_path, capsys, words, *args):
    """Runs the command line: one line with these words, exit code 2, and the folder as it was."""
    before = sorted(tmp_path.rglob("*"))
    assert run(*args) == 2
    line = capsys.readouterr().err
    assert line.startswith("t1jax.convert: ") and line.count("\n") == 1 and len(line) < 1200, line
    for word in words:
        assert word in line, line
    assert sorted(tmp_path.rglob("*")) == before

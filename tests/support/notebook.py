# SPDX-License-Identifier: Apache-2.0
"""Runs a notebook's cells in one process, as far as this project's notebooks need IPython: `!` lines go to the shell.

python notebook.py FILE.ipynb '{"MODEL": "models/tiny"}'     # after the cell tagged `parameters` these are set
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook."""
    return list(json.loads(path.read_text(encoding="utf-8"))["cells"])


def source(cell: dict[str, Any]) -> str:
    """A cell's Python: `!command {name}` became a call of `shell`."""
    text = "".join(cell["source"])
    return re.sub(r"^( *)!(.*)$", lambda line: f"{line[1]}shell({line[2]!r})", text, flags=re.MULTILINE)


def run(path: Path, parameters: dict[str, Any]) -> None:
    """Runs all cells; the first that fails ends it."""

    def shell(command: str) -> None:
        command = re.sub(r"\{(\w+)\}", lambda name: str(names[name[1]]), command)
        subprocess.run(command, shell=True, check=True)

    names: dict[str, Any] = {"shell": shell, "__name__": "__main__"}
    for number, cell in enumerate(cells(path)):
        if cell["cell_type"] == "code":
            exec(compile(source(cell), f"{path.name}, cell {number}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= names.keys(), "the notebook has no such parameter"
            names.update(parameters)


if __name__ == "__main__":
    run(Path(sys.argv[1]), json.loads(sys.argv[2]))

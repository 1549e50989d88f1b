# SPDX-License-Identifier: Apache-2.0
"""`t1jax COMMAND`: every command is there, help and version are instant, a slip is one line."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from t1jax import __main__ as program

TOP = Path(program.__file__).parent


def test_every_module_that_can_be_run_is_a_command_and_explains_itself(capsys):
    runnable = {path.stem for path in TOP.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()}
    assert {module for module, _ in program.COMMANDS.values()} == runnable - {"__main__"}
    for name, (module, _) in program.COMMANDS.items():
        assert program.main(["t1jax", name, "--help"]) == 0
        said = capsys.readouterr().out
        assert import_module(f"t1jax.{module}").USAGE == said


def test_the_list_of_commands_is_what_help_and_nothing_print(capsys):
    for argv in (["t1jax"], ["t1jax", "--help"], ["t1jax", "help"]):
        assert program.main(argv) == 0
        assert all(f"  {name} " in capsys.readouterr().out for name in list(program.COMMANDS)[:1])


def test_without_a_command_flags_are_those_of_train(capsys):
    assert program.main(["t1jax", "--config=nowhere.py"]) == 2
    assert "nowhere.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "hint"), [("evalute", "did you mean evaluate?"), ("dance", "expected one of train, ")]
)
def test_a_command_that_does_not_exist_is_one_line(name, hint, capsys):
    assert program.main(["t1jax", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"t1jax: no command {name!r}; ") and hint in said and said.count("\n") == 1


def test_the_module_runs_and_imports_nothing_heavy():
    code = "import sys; from t1jax import __main__ as m; m.main(['t1jax', '--version']); print('jax' in sys.modules)"
    version, heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert version.startswith("t1jax ") and heavy == "False"
    done = subprocess.run([sys.executable, "-m", "t1jax", "plan", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage:")

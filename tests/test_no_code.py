# SPDX-License-Identifier: Apache-2.0
"""Data is never run: no line of the product could, and nothing does while hostile data is loaded.

Two exceptions, by design: a file given by --config (`t1jax/host/config_files.py`) and one named by reward.function
(`t1jax/rewards/function_worker.py`) are Python programs of the user's own.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import audited
import pytest
import several

from configs import gym as gym_config
from t1jax import config
from t1jax.tasks.gym.task import make_gym

ROOT = Path(__file__).parent.parent
FILES = [path for folder in ("t1jax", "launch", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
CONFIGS_ARE_CODE = ("t1jax/host/config_files.py", "load", "runpy.run_path")
REWARDS_ARE_CODE = ("t1jax/rewards/function_worker.py", "_load", "importlib.util.spec_from_file_location")
WORKERS_ARE_OURS = ("t1jax/rewards/worker.py", "main", "runpy.run_path")  # a file that our own code names, see below

MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "code"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system", "os.popen", "os.execv", "os.execvp", "os.execve", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "torch.load", "torch.jit.load", "runpy.run_path", "runpy.run_module", "pandas.read_pickle", "subprocess.getoutput",
    "subprocess.getstatusoutput", "sympy.sympify", "sympy.parse_expr", "importlib.util.spec_from_file_location",
}  # fmt: skip
FLAGS = {"allow_pickle", "trust_remote_code", "shell"}  # that may only be False


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of everything in a program that could run data."""
    full = {}  # name in this file -> what it stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                full[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                if alias.name.partition(".")[0] in MODULES:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                if {alias.name, str(node.module).partition(".")[0]} & MODULES or f"{node.module}.{alias.name}" in CALLS:
                    yield node.lineno, f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in BUILTINS:
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            root, _, rest = name.partition(".")
            if (found := f"{full.get(root, root)}.{rest}") in CALLS or (root == "builtins" and rest in BUILTINS):
                yield node.lineno, found
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in FLAGS and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield node.lineno, f"{keyword.arg}={ast.unparse(keyword.value)}"
            if ast.unparse(node.func).endswith("import_module") and not _in_house(node):
                yield node.lineno, ast.unparse(node)


def _in_house(node: ast.Call) -> bool:
    """Whether a module that is imported by name is one of this repository, whatever the rest of its name."""
    first = node.args[0]
    start = first.values[0] if isinstance(first, ast.JoinedStr) else first
    return isinstance(start, ast.Constant) and str(start.value).startswith(("t1jax.", "configs."))


def test_no_line_of_the_product_could_run_data():
    found = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        owners = {
            n: f.name
            for f in ast.walk(tree)
            if isinstance(f, ast.FunctionDef)
            for n in range(f.lineno, f.end_lineno + 1)
        }
        found += [(str(path.relative_to(ROOT)), owners.get(line, ""), what) for line, what in dangers(tree)]
    assert found == [CONFIGS_ARE_CODE, REWARDS_ARE_CODE, WORKERS_ARE_OURS]
    assert len(FILES) > 80


def test_the_program_of_a_worker_is_a_file_of_the_package():
    """What the one caller names: nothing that a user, a file or a model says is part of it."""
    cfg = config.load(gym_config.get_config())
    program = Path(make_gym(cfg)._program[0])
    assert program == ROOT / "t1jax/tasks/gym/worker.py" and program in FILES


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import dill as d",
        "from marshal import loads",
        "import joblib.memory",
        "from numpy.lib import pickle",
        "eval('1')",
        "run = exec",
        "builtins.exec('1')",
        "compile('1', 'f', 'eval')",
        "__import__('os')",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "import yaml\nyaml.load(f)",
        "import yaml as y\ny.load(f, y.Loader)",
        "from yaml import load",
        "AutoModel.from_pretrained(f, trust_remote_code=True)",
        "torch.load(f)",
        "import os as o\no.system('x')",
        "from os import system",
        "subprocess.run('x', shell=True)",
        "sp.Popen(x, shell=flag)",
        "runpy.run_path(f)",
        "import sympy as s\ns.sympify(x)",
        "import importlib\nimportlib.import_module(name)",
        "importlib.import_module('os')",
    ],
)
def test_the_walk_sees_what_is_dangerous(line):
    assert list(dangers(ast.parse(line)))


def test_the_walk_leaves_the_harmless_alone():
    text = (
        "import json, re, numpy as np\nre.compile('x')\nlowered.compile()\nnp.load(f)\nnp.load(f, allow_pickle=False)\n"
    )
    text += "subprocess.run(['x'])\nos.environ\nimportlib.import_module('t1jax.main')\nmodel.eval()\n"
    assert list(dangers(ast.parse(text))) == []


def test_nothing_runs_while_hostile_data_is_loaded(tmp_path):
    place = tmp_path / "é"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.audited", str(place)],
        cwd=ROOT,
        env=several.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["events"] == []
    assert sorted(path.name for path in place.iterdir()) == ["harmless", "hostile"]
    known = found["known"]
    assert known.keys() <= {audited.IMPORT, audited.RENDERER, audited.VERIFIER, audited.GENERATED, audited.NUMBER}
    assert known[audited.VERIFIER] and known[audited.NUMBER]
    ends = found["outcomes"]
    assert [ends[name] for name in ("problems", "tokenizer", "hub", "checkpoint", "answers")] == ["loaded"] * 5
    assert "SecurityError" in ends["template"]
    seen = [event.partition(" ")[0] for event in found["control"]]
    assert {"exec", "compile", "pickle.find_class", "os.system", "subprocess.Popen"} <= set(seen)

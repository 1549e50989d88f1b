# SPDX-License-Identifier: Apache-2.0
"""Imports only go down the layers of docs/architecture.md, and importing does no work.

The table in the document is the rule: this test reads it there.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "t1jax"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


def read_table() -> dict[str, int]:
    """module -> layer, from lines like: | L3 | `tasks.*` `data` | the stages |"""
    layers: dict[str, int] = {}
    for line in (ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines():
        if row := re.match(r"\| L(\d) \|([^|]*)\|", line):
            for name in re.findall(r"`([^`]+)`", row[2]):
                modules = [m for m in FILES if m == name or (name.endswith(".*") and m.startswith(name[:-1]))]
                assert modules, f"`{name}` of the table is no module"
                for module in modules:
                    assert module not in layers, f"{module} is in the table twice"
                    layers[module] = int(row[1])
    return layers


def imports_of(path: Path, at_top: bool = False) -> set[str]:
    """Dotted names that the file imports, anywhere or only when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.Lambda) for n in ast.walk(f)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if at_top and id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def own_imports(path: Path) -> set[str]:
    """The modules of t1jax that the file imports."""
    return {name.removeprefix("t1jax.") for name in imports_of(path) if name.startswith("t1jax.")} & set(FILES)


LAYERS = read_table()


def test_the_table_has_every_module_and_no_other():
    assert sorted(LAYERS) == sorted(FILES)
    assert max(LAYERS.values()) >= 5


@pytest.mark.parametrize("module", FILES)
def test_imports_only_go_down(module):
    up = {name: LAYERS[name] for name in own_imports(FILES[module]) if LAYERS[name] > LAYERS[module]}
    assert not up, f"{module} is on layer {LAYERS[module]} and imports {up}"


def test_no_module_imports_itself_by_a_detour():
    TopologicalSorter({module: own_imports(path) for module, path in FILES.items()}).prepare()


def test_the_walk_sees_imports():
    """So that the tests above cannot pass because nothing is found."""
    assert {"config", "types", "step", "checkpoint"} <= own_imports(FILES["rl"])
    assert "pipeline" in own_imports(FILES["main"])  # imported inside a function


@pytest.mark.parametrize("module", FILES)
def test_the_product_never_imports_what_only_tests_need(module):
    roots = {name.partition(".")[0] for name in imports_of(FILES[module])}
    assert not roots & {"torch", "transformers", "pytest", "scipy", "tests"}


@pytest.mark.parametrize("module", [module for module in FILES if module.split(".")[0] in ("tasks", "rewards")])
def test_tasks_and_rewards_run_on_the_host_alone(module):
    roots = {name.partition(".")[0] for name in imports_of(FILES[module])}
    assert not roots & {"jax", "flax", "optax", "orbax", "grain"}
    assert not own_imports(FILES[module]) & {"types", "sharding", "multihost"}


def test_every_file_says_its_licence_and_what_it_is():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "configs").glob("*.py"), *(ROOT / "tests").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if path.name == "__init__.py" and not text:
            continue
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_no_file_is_a_dumping_ground():
    for module, path in FILES.items():
        assert module.rpartition(".")[2] not in ("utils", "util", "common", "helpers", "misc"), module
        assert len(path.read_text(encoding="utf-8").splitlines()) < 400, module


def test_importing_does_no_device_work_and_reads_no_flag(tmp_path):
    """In a process where jax has no backend to start: a module that touches a device at import fails there."""
    code = (
        "import importlib, sys\n"
        "sys.argv = ['t1jax', '--config.no.such=1']\n"
        f"for name in {list(FILES)!r}:\n"
        "    importlib.import_module('t1jax.' + name)\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a device was touched'\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "no_such_platform"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []

# SPDX-License-Identifier: Apache-2.0
"""Imports only go down between the folders of t1jax/, and importing does no work."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "t1jax"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
# The house from the ground up: a module may import its own folder, and folders before its own.
GROUND = ("typed", "sections", "config", "checks", "validation", "types")
FOLDERS = (
    "devices",
    "host",
    "model",
    "update",
    "weights",
    "text",
    "rewards",
    "tasks",
    "prompts",
    "rollouts",
    "evaluation",
    "reports",
    "training",
    "behaviour",
    "synthesis",
    "studies",
    "planning",
    "api",
)
COMMANDS = tuple(
    # verbs, alone
    "__main__ main convert plan sample evaluate filter verify synthesize study analyze report replay status".split()
)
MOST = 20  # files of a folder


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


def folder_of(module: str) -> str:
    """`config` -> "", `model.qwen` -> `model`, `tasks.gym.task` -> `tasks`."""
    return module.partition(".")[0] if "." in module else ""


def level(module: str) -> int:
    """Where it stands: the ground at the bottom, then the folders, the commands on top."""
    if folder := folder_of(module):
        return FOLDERS.index(folder)
    return -1 if module in GROUND else len(FOLDERS)


def problems(imports: Mapping[str, Collection[str]]) -> list[str]:
    """What is wrong with a house in which each module imports these."""
    top = {module for module in imports if not folder_of(module)} - {*GROUND, *COMMANDS}
    found = [f"{module}.py at the top is neither a command nor ground: move it to a folder" for module in sorted(top)]
    strange = {folder_of(module) for module in imports} - {"", *FOLDERS}
    found += [f"the folder {name}/ has no place in FOLDERS" for name in sorted(strange)]
    if found:
        return found
    for module, others in imports.items():
        for other in others:
            inside = (
                module == "__main__"
                or folder_of(module)
                and folder_of(module) == folder_of(other)
                or {module, other} <= set(GROUND)
            )
            if not inside and level(other) >= level(module):
                found.append(f"{module} imports {other}, which is not below it")
    count = Counter(module.rpartition(".")[0] for module in imports)
    found += [f"{name}/ has {n} files, expected at most {MOST}" for name, n in count.items() if name and n > MOST]
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        found.append(f"imports go in a circle: {' -> '.join(error.args[1])}")
    return found


IMPORTS = {module: own_imports(path) for module, path in FILES.items()}


def test_imports_only_go_down_between_folders():
    assert problems(IMPORTS) == []


@pytest.mark.parametrize(
    ("module", "others", "message"),
    [
        ("update.optim", {"training.step"}, "update.optim imports training.step, which is not below it"),
        ("main", {"plan"}, "main imports plan, which is not below it"),
        ("config", {"host.files"}, "config imports host.files, which is not below it"),
        ("model.parameters", {"model.qwen", "model.ring"}, ""),
        ("model.precision", {"model.qwen"}, "circle"),
        ("evaluator", set(), "evaluator.py at the top is neither a command nor ground"),
        ("attic.things", set(), "attic/ has no place"),
    ],
)
def test_what_is_wrong_with_a_house_is_seen(module, others, message):
    found = problems(IMPORTS | {module: others})
    assert message in found[0] if message else not found, found


def test_a_folder_with_too_many_files_is_seen():
    more = {f"model.more{n}": set() for n in range(MOST)}
    assert any(line.startswith("model/ has") for line in problems(IMPORTS | more))


def test_no_test_imports_a_test():
    """What tests share is in tests/support/."""
    tests = sorted((ROOT / "tests").rglob("*.py"))
    names = {path.stem for path in tests if path.stem.startswith("test_")}
    found = {path.stem: {name.partition(".")[0] for name in imports_of(path)} & names for path in tests}
    assert not {name: others for name, others in found.items() if others}


def test_the_document_draws_the_house_as_it_is():
    """docs/architecture.md names every folder and every command."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for name in FOLDERS:
        assert f"`{name}/`" in text, name


def test_the_walk_sees_imports():
    """So that the tests above cannot pass because nothing is found."""
    assert {"config", "types", "training.step", "training.checkpoint"} <= IMPORTS["training.rl"]
    assert "api.training" in IMPORTS["main"] and "training.stages" in IMPORTS["api.training"]  # inside of functions


@pytest.mark.parametrize("module", FILES)
def test_the_product_never_imports_what_only_tests_need(module):
    roots = {name.partition(".")[0] for name in imports_of(FILES[module])}
    assert not roots & {"torch", "transformers", "peft", "pytest", "tests"}


@pytest.mark.parametrize("module", [module for module in FILES if module.split(".")[0] in ("tasks", "rewards")])
def test_tasks_and_rewards_run_on_the_host_alone(module):
    roots = {name.partition(".")[0] for name in imports_of(FILES[module])}
    assert not roots & {"jax", "flax", "optax", "orbax", "grain"}
    assert not {name for name in IMPORTS[module] if name == "types" or folder_of(name) == "devices"}


def test_every_file_says_its_licence_and_what_it_is():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "configs").glob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if path.name == "__init__.py" and not text:
            continue
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_no_file_is_a_dumping_ground():
    for module, path in FILES.items():
        assert module.rpartition(".")[2] not in ("utils", "util", "common", "helpers", "misc"), module
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, module


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

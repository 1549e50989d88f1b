# SPDX-License-Identifier: Apache-2.0
"""What `pip install .` installs: one top-level name, every file of the package, and the configs by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("t1jax", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel of this checkout, unpacked; built from a copy, because building leaves folders behind."""
    pytest.importorskip("setuptools", "77", reason="setuptools >= 77 builds the wheel")
    tmp = tmp_path_factory.mktemp("wheel")
    source = tmp / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run([*pip, f"--wheel-dir={tmp}", str(source)], cwd=tmp, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp / "installed")
    return tmp / "installed"


def run(installed: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`python ARGS` in a folder where only the installed t1jax is found."""
    env = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, *args], cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_one_name_is_taken_and_every_file_is_there(installed):
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"t1jax"}
    (listed,) = installed.glob("*.dist-info/top_level.txt")
    assert listed.read_text().split() == ["t1jax"]
    for folder, there in (("t1jax", "t1jax"), ("configs", "t1jax/configs")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (installed / there / path.relative_to(ROOT / folder)).is_file(), path


def test_it_works_from_any_folder_with_any_config(installed, tmp_path):
    """All in one process, because importing is most of the time."""
    (tmp_path / "mine.py").write_text(
        "from configs import tiny\ndef get_config():\n  c = tiny.get_config()\n  c.seed = 7\n  return c\n"
    )
    program = (
        "import t1jax, types\n"
        "from pathlib import Path\n"
        "from t1jax import main\n"
        "assert Path(t1jax.__file__).is_relative_to(Path({installed!r})), t1jax.__file__\n"
        "for flag in ([], ['--config=tiny'], ['--config=configs/countdown.py'], ['--config=mine.py']):\n"
        "    cfg, workdir, _, _ = main.parse(['t1jax', *flag])\n"
        "    print(cfg.seed, cfg.task.name, workdir)\n"
        "from t1jax import config, convert\n"
        "assert convert.main(['convert', '--help']) == 0\n"
    ).replace("{installed!r}", repr(str(installed)))
    done = run(installed, tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:4] == [
        "0 pairs workdirs/tiny",
        "0 pairs workdirs/tiny",
        "0 countdown workdirs/countdown",
        "7 pairs workdirs/mine",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py"]


def test_a_name_that_is_unknown_is_one_line_that_lists_those_that_are_known(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "t1jax.plan", "--config=tinny", "--topology=cpu:1")
    assert done.returncode == 2
    assert done.stderr.startswith("t1jax.plan: --config=tinny: no such file; ") and done.stderr.count("\n") == 1
    assert "countdown, " in done.stderr and "tiny" in done.stderr

# SPDX-License-Identifier: Apache-2.0
"""Every command of the README runs, every link in it and in docs/ leads somewhere, and no figure is left open."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGES[0].read_text(), re.DOTALL) for line in block.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_command(command, tmp_path):
    """make targets as a dry run (CI runs them for real); t1jax itself for real, in a folder of its own."""
    words = shlex.split(command)
    if words[0] == "make":
        words.insert(1, "--dry-run")
    else:
        assert words[:3] == ["python", "-m", "t1jax.main"], "a README command that this test does not know how to run"
        words[0] = sys.executable
        words = [re.sub(r"^--workdir=", f"--workdir={tmp_path}/", word) for word in words]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device, as a reader has
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    if "--workdir" in command:
        assert list(tmp_path.rglob("report.html")) and list(tmp_path.rglob("results.json"))


def test_the_readme_shows_the_two_commands():
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_no_figure_is_open(page):
    text = page.read_text()
    assert "FIGURE:" not in text
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert targets
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing

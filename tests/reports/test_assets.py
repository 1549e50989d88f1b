# SPDX-License-Identifier: Apache-2.0
"""CSS and JavaScript are files: in the wheel, used by a page, and of a length that can be read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from t1jax.behaviour import page as responses
from t1jax.reports import charts
from t1jax.reports.page import STYLES, assets

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "t1jax"
DATA = [path for path in sorted(PACKAGE.rglob("*")) if path.is_file() and path.suffix not in (".py", ".pyc")]
ASSETS = [path for path in DATA if path.suffix in (".css", ".js")]


def test_every_file_of_the_package_is_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packed = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    assert len(ASSETS) >= 16 and set(DATA) <= packed


def test_every_asset_is_on_a_page():
    used = {"reports": {*STYLES, *charts.STYLES, *charts.SCRIPTS, "comparison.css"}}
    used["behaviour"] = {*responses.STYLES, *responses.SCRIPTS}
    assert {(path.parts[-3], path.name) for path in ASSETS} == {
        (folder, name) for folder, names in used.items() for name in names
    }


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.name)
def test_an_asset_can_stand_inside_a_page(path):
    text = assets(path.name, package=f"t1jax.{path.parts[-3]}")
    assert "</" not in text and "<!--" not in text  # would end the element around it
    assert not re.search(r"url\(|@import|https?://", text)  # would load something
    assert "SPDX-License-Identifier: Apache-2.0" in text.splitlines()[0] and len(text.splitlines()) <= 300


def test_no_css_or_javascript_is_left_in_python():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"addEventListener|querySelector|^[.#]?[\w-]+ \{ [a-z-]+: [^}]*; \}", text, re.M), path

# SPDX-License-Identifier: Apache-2.0
"""Configs that come with t1jax are found by name, and a user's file may import them wherever it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import configs
from configs import base
from t1jax.config import ConfigError
from t1jax.host import config_files

SHIPPED = Path(__file__).parents[2] / "configs"
MINE = "from configs import tiny\ndef get_config():\n  c = tiny.get_config()\n  c.seed = 7\n  return c\n"


@pytest.mark.parametrize("name", ["tiny", "configs/tiny.py", str(SHIPPED / "tiny.py")])
def test_a_shipped_config_is_found_by_name_and_by_path_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_files.find(name) == SHIPPED / "tiny.py"
    assert config_files.load(config_files.find(name)).rl.num_steps == 36


def test_a_file_of_the_user_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "configs/tiny.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(MINE)
        assert config_files.find(name) == Path(name)


@pytest.mark.parametrize("name", ["", "tinny", "configs", "configs/nope.py", "other/tiny.py", "__init__", "tiny.py"])
def test_an_unknown_one_is_told_the_names_that_there_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        config_files.find(name)
    said = str(error.value)
    assert said.startswith(f"--config={name}: no such file; ") and "\n" not in said
    names = said.rpartition(": ")[2].split(", ")
    assert names == sorted(path.stem for path in SHIPPED.glob("*.py") if path.stem != "__init__")
    assert {"base", "tiny", "qwen32b"} <= set(names)


def test_a_users_file_imports_the_shipped_ones_where_nothing_else_finds_them(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "configs").is_dir()])
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    assert config_files.load(tmp_path / "mine.py").seed == 7
    assert not {name for name in sys.modules if name.partition(".")[0] == "configs"}
    with pytest.raises(ModuleNotFoundError):
        import configs.tiny  # noqa: F401


def test_a_users_folder_configs_comes_before_the_shipped_one_and_is_forgotten_afterwards(tmp_path):
    mine = tmp_path / "configs"
    mine.mkdir()
    (mine / "tiny.py").write_text("from configs import base\nget_config = lambda: base.get_config()\n")
    (mine / "mine.py").write_text(MINE)
    assert config_files.load(mine / "mine.py").rl.num_steps == base.get_config().rl.num_steps
    assert sys.modules["configs"] is configs and sys.modules["configs.base"] is base
    assert config_files.load(config_files.find("tiny")).rl.num_steps == 36


def test_what_was_imported_comes_back_after_an_error(tmp_path):
    (tmp_path / "broken.py").write_text("import configs.tiny\nraise SystemExit(3)\n")
    with pytest.raises(ConfigError, match="SystemExit: 3; expected a get_config"):
        config_files.load(tmp_path / "broken.py")
    assert sys.modules["configs"] is configs and sys.modules["configs.base"] is base

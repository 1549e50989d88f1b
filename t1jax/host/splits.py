# SPDX-License-Identifier: Apache-2.0
"""Which files of a data set of the Hugging Face hub a split is: by its card, else by their names.

The card, README.md, begins with YAML; its `configs` name the files of each split, as the hub's viewer reads them. Where
neither card nor names tell of any split, all files are train.
Source: huggingface.co/docs/hub/datasets-manual-configuration and datasets-file-names-and-splits.
Deliberately not here: downloading (hub.py), what is in the files (tasks/files/rows.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from t1jax.config import ConfigError

READABLE = re.compile(r"\.(jsonl?|ndjson|parquet|csv)(\.(gz|bz2|xz|zip))?$", re.IGNORECASE)
SPLITS = {  # words of names that tell of a split, as the hub reads them
    "train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation",
}  # fmt: skip
ABOUT = {"config.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json"}  # files without rows
DEFAULTS = ("default", "main", "data", ".")  # of several configs or folders, in this order
LISTED = 8  # names that an error lists

Configs = Mapping[str, Mapping[str, list[str]]]  # config -> split -> patterns of files; "": the default one, if any


def configs(card: str) -> Configs:
    """What a card says: config -> split -> patterns. {} if it says nothing that can be used; it is not trusted."""
    import yaml

    match = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        told = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return {}
    listed = told.get("configs") if isinstance(told, dict) else None
    found = [config for config in listed if isinstance(config, dict)] if isinstance(listed, list) else []

    named = {str(config.get("config_name", "default")): _splits(config) for config in found}
    first = [str(config.get("config_name")) for config in found if config.get("default") is True]
    default = next((name for name in (*first, *DEFAULTS) if name in named), "")
    if len(named) == 1:
        default = next(iter(named))
    return {**named, "": named[default]} if default else named


def _splits(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """split -> patterns of its files, of one config."""
    files, folder = config.get("data_files"), str(config.get("data_dir") or "")
    if isinstance(files, str) or (isinstance(files, list) and all(isinstance(one, str) for one in files)):
        files = [{"split": "train", "path": files}]
    found: dict[str, list[str]] = {}
    for one in files if isinstance(files, list) else []:
        if isinstance(one, dict) and "split" in one and "path" in one:
            paths = one["path"] if isinstance(one["path"], list) else [one["path"]]
            found.setdefault(str(one["split"]), []).extend(str(PurePosixPath(folder) / str(path)) for path in paths)
    return found


def choose(name: str, paths: Sequence[str], card: Configs, wanted: str, split: bool) -> list[str]:
    """The files that are meant, in the order of their names.

    Args:
      name: of the data set, for errors.
      paths: all files of the data set.
      card: from `configs`.
      wanted: [CONFIG/]SPLIT, or, unless `split`, a pattern of files.

    Raises:
      ConfigError: none is meant, or it is not sure which.
    """
    if not split:
        found = sorted(path for path in paths if path == wanted or fnmatch(path, wanted))
        return found or _refuse(name, f"no file {wanted}", paths)
    config, _, wanted = wanted.rpartition("/")
    if card:
        if config and config not in card:
            raise ConfigError(f"{name}: no config {config}; expected one of {_listed([*filter(None, card)])}")
        if config not in card:
            raise ConfigError(f"{name}: it has several configs; expected one of {_listed(list(card))}: /{wanted}")
        splits = card[config]
        if wanted not in splits:
            raise ConfigError(f"{name}: no split {wanted}; expected one of {_listed(list(splits))}: OWNER/NAME:SPLIT")
        found = sorted(path for path in paths if any(fnmatch(path, pattern) for pattern in splits[wanted]))
        if any(not READABLE.search(path) for path in found):
            return _refuse(name, f"the files of {wanted} are no JSON lines, JSON, CSV or Parquet", found)
        return found or _refuse(name, f"no file of the split {wanted}", paths)
    readable = [path for path in paths if READABLE.search(path)]
    named = [path for path in readable if wanted in _words(path)]
    if wanted == "train" and not any(SPLITS & _words(path) for path in readable):
        return _all(name, readable, config) or _refuse(name, "no file is named after the split train", paths)
    folders = {str(PurePosixPath(path).parent) for path in named}
    folder = config or next((each for each in DEFAULTS if each in folders), next(iter(sorted(folders)), ""))
    if len(folders) > 1 and not config and folder not in DEFAULTS:
        raise ConfigError(
            f"{name}: {wanted} is in several folders; expected one of {_listed(sorted(folders))}: /{wanted}"
        )
    found = sorted(path for path in named if str(PurePosixPath(path).parent) == folder)
    return found or _refuse(name, f"no file is named after the split {wanted}", paths)


def _words(path: str) -> set[str]:
    """The words of a path, which may tell of a split."""
    return set(re.split(r"[/._-]", path))


def _all(name: str, readable: Sequence[str], folder: str) -> list[str]:
    """All files with rows, of one format; in `folder`, if there is one."""
    hidden = re.compile(r"(^|/)(\.|__)")
    inside = [path for path in readable if path.startswith(f"{folder}/" if folder else "") and not hidden.search(path)]
    found = sorted(path for path in inside if PurePosixPath(path).name not in ABOUT)
    if len({match[1].lower() for path in found if (match := READABLE.search(path))}) > 1:
        return _refuse(name, "no file is named after the split train, and they have several formats", found)
    return found


def _refuse(name: str, why: str, paths: Sequence[str]) -> list[str]:
    raise ConfigError(f"{name}: {why}; it has {_listed(sorted(paths))}; name files as hf://datasets/OWNER/NAME/FILE")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "") or "nothing"

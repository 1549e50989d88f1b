# SPDX-License-Identifier: Apache-2.0
"""Models and data sets of the Hugging Face hub, by huggingface_hub: its cache, token, offline mode and progress bars.

    hub.model("Qwen/Qwen2.5-0.5B@main", "model.checkpoint", patterns)  # the folder of a model, in the cache
    hub.dataset("openai/gsm8k:test")                                   # files of a data set's split, in the cache

A name is of the hub if it begins with hf://, or is OWNER/NAME, maybe with @REVISION, and neither it nor a folder OWNER
is here. Several processes of a machine share the cache: one downloads, under a lock, while the others wait. Files that
are whole stay when a download is cut. Variables of the library: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT.
Deliberately not here: which of a data set's files a split is (splits.py), uploading (upload.py).
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t1jax.config import ConfigError
from t1jax.host import splits
from t1jax.host.bucket import Unreachable

if TYPE_CHECKING:
    from huggingface_hub import HfUri

SCHEME = "hf://"
ID = r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*?)"
MODEL = re.compile(rf"{ID}(?:@([\w./-]+))?")
DATASET = re.compile(rf"({ID})(?:@([\w./-]+))?(?::((?:[\w.-]+/)?[\w.-]+))?")
OURS = ("models", "datasets", "spaces", "data", "workdirs")  # folders of a checkout; nobody on the hub has these names
PROBLEMS = re.compile(r"\.(jsonl?|ndjson|parquet|csv|arrow|gz|bz2|xz|zip|zst)$", re.IGNORECASE)
PACKAGE = "in the folder of t1jax, pip install '.[hub]'"
LONGEST = 200  # characters of a reason


def is_model(name: str) -> bool:
    """Whether the hub's model of this name is meant, not a folder here."""
    match = MODEL.fullmatch(name)
    return name.startswith(SCHEME) or bool(match and _not_here(name, match[1]))


def is_dataset(name: str) -> bool:
    """Whether the hub's data set of this name is meant, not a file here."""
    match = DATASET.fullmatch(name)
    return name.startswith(SCHEME) or bool(match and _not_here(name, match[2]) and not PROBLEMS.search(match[1]))


def _not_here(name: str, owner: str) -> bool:
    return owner not in OURS and not os.path.exists(name) and not os.path.isdir(owner)


def with_split(name: str, split: str) -> str:
    """The name of a data set with a split: the one that it has, else `split`."""
    match = None if name.startswith(SCHEME) else DATASET.fullmatch(name)
    return f"{name}:{split}" if match and not match[5] else name


@functools.cache
def model(name: str, what: str, patterns: tuple[str, ...]) -> Path:
    """The folder with a model's files, downloaded if need be.

    Args:
      name: OWNER/NAME, OWNER/NAME@REVISION, or hf:// before that.
      what: the flag or knob that names it.
      patterns: of the names of the files to download, outside of folders.

    Raises:
      ConfigError: there is no such model, access is not granted, or it is not in the cache and there is no network.
      Unreachable: the connection was cut, or a file arrived damaged.
    """
    uri = _uri(name.removeprefix(SCHEME), what)
    if uri.type != "model" or uri.path_in_repo:
        raise ConfigError(f"{what}={name}; expected a model of the hub: {SCHEME}OWNER/NAME@REVISION")
    folder = f"models/{uri.id.partition('/')[2]}"
    flags = ["--local-dir", folder, *(f"--include={pattern}" for pattern in patterns)]
    flag = what if what.startswith("-") else f"--config.{what}" if "." in what else ""  # else a key of a file
    then = f"then put that folder here and {f'give {flag}={folder}' if flag else f'name {folder} there'}"
    with _told(uri, f"{what}={name}", f"{_command(uri, *flags)}, {then}"):
        return _download(uri, patterns, ignore=("*/*", "consolidated*"))  # another form of the same weights
    raise AssertionError


@functools.cache
def dataset(name: str) -> tuple[Path, ...]:
    """The files of a data set that a name means, in order, downloaded if need be.

    Args:
      name: OWNER/NAME[@REVISION]:[CONFIG/]SPLIT, or hf://datasets/OWNER/NAME[@REVISION]/FILE, which may hold * and ?.

    Raises:
      ConfigError: see `model`; or no file, or none that is sure, is meant.
      Unreachable: see `model`.
    """
    match = None if name.startswith(SCHEME) else DATASET.fullmatch(name)
    short_form = f"datasets/{name.rpartition(':')[0] if match and match[5] else name}"
    uri = _uri(short_form if match else name.removeprefix(SCHEME), name, name)
    if uri.type != "dataset" or not (match or uri.path_in_repo):
        raise ConfigError(
            f"{name}; expected files of a data set: {SCHEME}datasets/OWNER/NAME/FILE, or OWNER/NAME:SPLIT"
        )
    where = f"data/{uri.id.partition('/')[2]}"
    command = f"{_command(uri, '--local-dir', where)}, then put that folder here and name its file"
    with _told(uri, name, command):
        from huggingface_hub import get_cached_repo_tree

        folder = _download(uri, ("README.md", ".gitattributes"))
        paths = [file.path for file in get_cached_repo_tree(uri.id, repo_type="dataset", revision=folder.name)]
        card = folder / "README.md"
        configs = splits.configs(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else {}
        wanted = splits.choose(name, paths, configs, uri.path_in_repo or (match[5] if match else ""), bool(match))
        _download(uri, tuple(wanted), revision=folder.name)
        return tuple(folder / path for path in wanted)
    raise AssertionError


def _uri(name: str, what: str, shown: str = "") -> HfUri:
    """`name` as the library reads hf://NAME."""
    try:
        from huggingface_hub import parse_hf_uri
        from huggingface_hub.errors import HfUriError
    except ImportError as error:
        raise ConfigError(f"{what}: models and data of the hub need huggingface_hub: {PACKAGE}") from error
    try:
        return parse_hf_uri(SCHEME + name)
    except HfUriError as error:
        raise ConfigError(
            f"{shown or f'{what}={name}'}: {short(error)}; expected OWNER/NAME or OWNER/NAME@REVISION"
        ) from error


def _download(uri: HfUri, patterns: Sequence[str], ignore: Sequence[str] = (), revision: str = "") -> Path:
    """The snapshot's folder, with the files of these patterns; new files are held to their checksums."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    repo = cache / repo_folder_name(repo_id=uri.id, repo_type=uri.type)
    with _alone(cache, repo.name):
        before = _blobs(repo)
        folder = Path(
            snapshot_download(
                uri.id,
                repo_type=uri.type,
                revision=revision or uri.revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(ignore),
                library_name="t1jax",
            )
        )
        if not _blobs(repo) - before:
            return folder
        print(f"checking the files of {uri.id} at {folder.name[:12]}", file=sys.stderr, flush=True)
        found = HfApi().verify_repo_checksums(uri.id, repo_type=uri.type, revision=folder.name)
        for bad in found.mismatches:
            path = folder / bad["path"]
            blob = path.parent / path.readlink() if path.is_symlink() else path  # may be a link in its turn
            for each in (path.resolve(), blob, path):
                each.unlink(missing_ok=True)
        if found.mismatches:
            bad = found.mismatches[0]
            what = f"{bad['path']} arrived damaged: its {bad['algorithm']} is {bad['actual']}, not {bad['expected']}"
            raise Unreachable(uri.id, f"{what}; it was removed")
        return folder


def _blobs(repo: Path) -> set[str]:
    return {path.name for path in (repo / "blobs").glob("*") if path.suffix != ".incomplete"}


def _alone(cache: Path, name: str) -> AbstractContextManager[Any]:
    """One process of this machine at a time; all of them where the cache cannot be written, as nothing is then."""
    from huggingface_hub.utils import WeakFileLock

    locks = cache / ".locks" / name
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        return nullcontext()
    return WeakFileLock(locks / "t1jax.lock") if os.access(locks, os.W_OK) else nullcontext()


def _command(uri: HfUri, *flags: str) -> str:
    """What downloads the files elsewhere."""
    kind = [] if uri.type == "model" else ["--repo-type", uri.type]
    revision = ["--revision", uri.revision] if uri.revision else []
    return shlex.join(["hf", "download", uri.id, *kind, *revision, *flags])


@contextmanager
def _told(uri: HfUri, name: str, command: str) -> Iterator[None]:
    """Errors of the library as lines.

    Args:
      command: what to do where there is network.
    """
    from huggingface_hub import constants, errors

    kind, endpoint = "data set" if uri.type == "dataset" else uri.type, constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError as error:
        page = f"{endpoint}/{'datasets/' if uri.type == 'dataset' else ''}{uri.id}"
        raise ConfigError(
            f"{name}: it is gated; accept its terms on {page}, then run hf auth login or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{name}: nothing of that name is here, and {endpoint} has no such {kind}; expected OWNER/NAME; if it is "
            "private, run hf auth login or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(
            f"{name}: {endpoint} has no revision {uri.revision}; expected a branch, tag or commit"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{endpoint} does not answer ({_reason(error)})"
        raise ConfigError(
            f"{name}: nothing of that name is here, nor whole in the cache {constants.HF_HUB_CACHE}, and {why}; "
            f"on a machine with network run: {command}"
        ) from error
    except errors.HFValidationError as error:
        raise ConfigError(f"{name}: {short(error)}") from error
    except errors.HfHubHTTPError as error:
        raise Unreachable(name, f"{endpoint}: {short(error)}") from error
    except errors.HTTPError as error:  # of its HTTP client
        raise Unreachable(name, f"{endpoint}: {type(error).__name__}: {short(error)}") from error
    except OSError as error:
        if error.errno is None:  # fewer bytes than announced
            raise Unreachable(name, f"{endpoint}: {short(error)}") from error
        raise OSError(error.errno, error.strerror, error.filename or constants.HF_HUB_CACHE) from error


def _reason(error: BaseException) -> str:
    """What the first error of a chain says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {short(error)}"


def short(error: BaseException) -> str:
    """What an error says, on one line, at most LONGEST characters."""
    return " ".join(str(error).split())[:LONGEST]

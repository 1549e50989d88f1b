# SPDX-License-Identifier: Apache-2.0
"""Where files are: on the local file system, or in a bucket of Google Cloud Storage (gs://).

Every path that a user names becomes a Place here, or is refused in one line.
Deliberately not here: what is done in a bucket (bucket.py).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from t1jax.config import ConfigError
from t1jax.host import hub
from t1jax.host.bucket import SCHEME, Bucket, raise_not_served, storage

LONGEST = 255  # bytes of a file's name
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


Place: TypeAlias = Path | Bucket


def of(name: str | os.PathLike[str], what: str) -> Place:
    """The place that a user means by `name`.

    Args:
      what: the flag or knob that names it, for errors.

    Raises:
      ConfigError: a URL that is none of a bucket, or has characters of a pattern; or gcsfs is not installed.
    """
    if isinstance(name, Bucket):
        return name
    text = os.fspath(name)
    _refuse_odd(text, what)
    match = URL.match(text)
    if match is None:
        if re.match(r"(gs|gcs|s3):/(?!/)", text):
            raise ConfigError(f"{what}={text}; expected a path, or {SCHEME}BUCKET/...: two slashes after the colon")
        return Path(text)
    if match[1] != "gs":
        raise ConfigError(f"{what}={text}: {_refusal(match[1])}")
    bucket, *parts = text.removeprefix(SCHEME).rstrip("/").split("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket) or any(p in ("", ".", "..") for p in parts):
        raise ConfigError(f"{what}={text}; expected {SCHEME}BUCKET/FOLDER, without empty or dotted parts")
    if odd := re.search(r"[*?#\[\]]", text):  # gcsfs takes these for patterns, also where it deletes
        raise ConfigError(f"{what}={text} has {odd[0]!r}; expected a name without any of * ? # [ ]")
    try:
        storage()
    except ImportError as error:
        raise ConfigError(f"{what}={text}: {needed(text, error)}") from error
    return Bucket(text)


def same(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two names, of URLs or paths, are of the same file."""
    names = [os.fspath(name) for name in (one, other)]
    return len({name if URL.match(name) else os.path.abspath(name) for name in names}) == 1


def local(name: str | os.PathLike[str], what: str) -> Path:
    """The local path that a user means by `name`.

    Raises:
      ConfigError: it is a URL.
    """
    _refuse_odd(os.fspath(name), what)
    if match := URL.match(os.fspath(name)):
        raise ConfigError(f"{what}={os.fspath(name)}: {match[0]} is not supported here; expected a local path")
    return Path(name)


def _refuse_odd(text: str, what: str) -> None:
    """ConfigError: no file can have this name, on any file system or in a bucket."""
    shown = text[:60].encode("ascii", "backslashreplace").decode()
    try:
        longest = max(len(part.encode()) for part in text.split("/"))
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what}={shown}: it is not UTF-8; expected a name in UTF-8") from error
    if "\0" in text:
        raise ConfigError(f"{what}={shown}: it has a NUL character; expected a name without")
    if longest > LONGEST:
        raise ConfigError(f"{what}={shown}...: a part has {longest} bytes; expected at most {LONGEST}")


def remove(folder: Place) -> None:
    """Deletes a folder with all that is in it, as far as that is possible."""
    if isinstance(folder, Bucket):
        folder.rmtree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def data(name: str, what: str, split: str = "train") -> str:
    """The file of problems that a user means by `name`: local, gs://, or another URL that fsspec can open here; or a
    data set of the Hugging Face hub, of which `split` is meant if the name has none.

    Raises:
      ConfigError: a URL of another kind, or one that needs a package.
    """
    if hub.is_dataset(name):
        return hub.with_split(name, split)
    scheme = match[1] if (match := URL.match(name)) else ""
    if scheme == "gs":
        return os.fspath(of(name, what))
    if scheme:
        import fsspec

        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            raise ConfigError(f"{what}={name}: {needed(name, error)}") from error
        except ValueError as error:
            raise ConfigError(f"{what}={name}: {_refusal(scheme)}") from error
    return name


def needed(url: str, error: ImportError) -> str:
    """What fsspec lacks to read a URL."""
    scheme = url.partition("://")[0]
    package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(scheme, f"what fsspec names: {error}")
    return f"reading {scheme}:// needs a package; expected it: run: pip install {package}"


def data_files(name: str) -> list[str]:
    """The files that a name of `data` means: several where a data set of the hub is in parts. Downloads them.

    Raises:
      ConfigError: from hub.dataset.
      Unreachable: from hub.dataset.
    """
    return [str(path) for path in hub.dataset(name)] if hub.is_dataset(name) else [name]


@contextmanager
def open_data(path: str, compression: str | None = None) -> Iterator[Any]:
    """One of the `data_files`, to be read: local, gs://, or another URL that fsspec knows.

    Raises:
      Unreachable: its bucket did not serve, here or in the body. All else that fsspec and its file systems raise stays.
    """
    import fsspec

    if path.startswith(SCHEME):
        storage()
    try:
        with fsspec.open(path, "rb", compression=compression) as file:
            yield file
    except (ConfigError, FileNotFoundError):
        raise
    except Exception as error:
        raise_not_served(Bucket(path) if path.startswith(SCHEME) else Path(path), error)
        raise


def _refusal(scheme: str) -> str:
    """Why URLs of a scheme are not supported."""
    if scheme == "s3":
        return f"s3:// is not supported for this; expected a local path or {SCHEME}: mount the bucket (mountpoint-s3)"
    return f"{scheme}:// is not supported; expected a local path or {SCHEME}BUCKET/..."

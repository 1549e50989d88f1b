# SPDX-License-Identifier: Apache-2.0
"""Uploads a folder to the Hugging Face hub, by huggingface_hub with its token.

Deliberately not here: what is in the folder (weights/), downloading (hub.py).
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from t1jax.config import ConfigError
from t1jax.host import hub
from t1jax.host.bucket import Unreachable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

NEW = {".gitattributes"}  # the files of a new model


@contextmanager
def begun(name: str, folder: Path) -> Iterator[Callable[[], str]]:
    """A model OWNER/NAME on the hub that may be written; a new one is private.

    Yields what uploads the files of `folder` as one commit and returns its address. If the body fails, a model that was
    made here, and is still empty, is deleted again.

    Raises:
      ConfigError: no such name can be, nobody is logged in, access is not granted, or there is no network; from the
        upload, the card is refused.
      Unreachable: the upload was cut.
    """
    if not re.fullmatch(hub.ID, name):
        raise ConfigError(f"--push={name}; expected OWNER/NAME, of a model on the Hugging Face hub")
    with _told(name, folder):
        from huggingface_hub import HfApi

        api = HfApi(library_name="t1jax")
        made = not api.repo_exists(name)
        if made:
            api.create_repo(name, private=True)
        else:
            api.auth_check(name, write=True)

    def send() -> str:
        with _told(name, folder):
            done = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload weights from t1jax")
            return str(done.commit_url)
        raise AssertionError

    try:
        yield send
    except BaseException:
        if made:
            _take_back(api, name)
        raise


def _take_back(api: HfApi, name: str) -> None:
    """Deletes a model that holds nothing but what the hub puts into a new one; a line where that is refused."""
    from huggingface_hub import errors

    try:
        if set(api.list_repo_files(name)) <= NEW:
            api.delete_repo(name)
    except (errors.HfHubHTTPError, errors.HTTPError) as error:
        print(f"t1jax.convert: {name} is left on the hub, empty ({hub.short(error)}): delete it there", file=sys.stderr)


@contextmanager
def _told(name: str, folder: Path) -> Iterator[None]:
    """Errors of the library as lines."""
    try:
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise ConfigError(f"--push={name}: uploading needs huggingface_hub: {hub.PACKAGE}") from error
    later = f"leave --push out, and later run: hf upload {shlex.join([name, str(folder)])}"
    try:
        yield
    except (errors.LocalTokenNotFoundError, errors.RepositoryNotFoundError) as error:
        raise ConfigError(
            f"--push={name}: {constants.ENDPOINT} does not let you; run hf auth login or set HF_TOKEN"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise ConfigError(f"--push={name}: HF_HUB_OFFLINE is set; {later}") from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            why = f"{constants.ENDPOINT} does not let you ({hub.short(error)})"
            raise ConfigError(
                f"--push={name}: {why}; expected a token that may write: hf auth login, HF_TOKEN"
            ) from error
        raise Unreachable(name, f"{constants.ENDPOINT}: {hub.short(error)}; {later}") from error
    except errors.HTTPError as error:  # of its HTTP client
        raise ConfigError(
            f"--push={name}: {constants.ENDPOINT} does not answer ({hub.short(error)}); {later}"
        ) from error
    except ValueError as error:  # the card's metadata
        raise ConfigError(f"--push={name}: {hub.short(error)}") from error

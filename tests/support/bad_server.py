# SPDX-License-Identifier: Apache-2.0
"""A real HTTP server on 127.0.0.1 that answers like an OpenAI-compatible endpoint, well or badly, as a test says.

    with BadServer(script) as server: ... server.url, server.bodies, server.highest

`script(number, body)` names what happens to a request: one of the behaviours below. A behaviour that hangs ends with
the server. Deliberately not here: what a client must make of it (test_endpoints.py).
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LONGEST = 120.0  # seconds that anything may hang, should the test forget the server
Behaviour = Callable[["Handler", dict[str, Any]], None]


class BadServer:
    """Counts requests and how many were under way at once."""

    def __init__(self, script: Callable[[int, dict[str, Any]], Behaviour] | Behaviour) -> None:
        one = script if getattr(script, "behaviour", False) else None
        self.script = (lambda number, body: one) if one else script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.active = self.highest = 0
        self.ran_out = False  # a client stayed to the end of what has none
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.gate = threading.Event()  # for `ok_after_gate`
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._http.request_queue_size = 128
        self._http.daemon_threads, self._http.block_on_close = True, False
        self._http.bad = self  # type: ignore[attr-defined]
        self._http.server_bind()
        self._http.server_activate()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> BadServer:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.gate.set()
        self._http.shutdown()
        self._http.server_close()

    def asked(self) -> list[str]:
        """The last message of each request, in order of arrival."""
        with self.lock:
            return [body["messages"][-1]["content"] for body in self.bodies]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_POST(self) -> None:
        bad = self.server.bad
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with bad.lock:
            number = len(bad.bodies)
            bad.bodies.append(body)
            bad.headers.append({name.lower(): value for name, value in self.headers.items()})
            bad.active += 1
            bad.highest = max(bad.highest, bad.active)
        self.left = False
        try:
            bad.script(number, body)(self, body)
        except OSError:
            self.close_connection = True  # the client has left
        finally:
            self.leave()

    def leave(self) -> None:
        """Counts the request as answered: before its last byte, which lets the client send another."""
        if not self.left:
            self.left = True
            with self.server.bad.lock:
                self.server.bad.active -= 1

    def begin(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)

    def begin_stream(self) -> None:
        self.begin(Transfer_Encoding="chunked")
        self.end_headers()

    def event(self, data: Any) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        self.part(f"data: {text}\n\n".encode())

    def part(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def finish_stream(self) -> None:
        self.leave()
        self.event("[DONE]")
        self.part(b"")

    def whole(self, status: int, kind: str, data: bytes, **headers: str) -> None:
        self.begin(status, kind, Content_Length=str(len(data)), **headers)
        self.end_headers()
        self.leave()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def chunk(content: Any = None, finish: Any = None, usage: tuple[int, int] | None = None, **delta: Any) -> dict:
    """A chunk of a stream, as OpenAI's API has it."""
    row: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "a-model-1",
        "choices": [],
    }
    if usage is None:
        row["choices"] = [{"index": 0, "delta": {"content": content, **delta}, "finish_reason": finish}]
    else:
        row["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return row


def behaviour(act: Behaviour) -> Behaviour:
    act.behaviour = True  # type: ignore[attr-defined]
    return act


def events(*rows: Any, done: bool = True) -> Behaviour:
    """A stream of these events, and [DONE]; without it the stream ends in the middle, as HTTP allows."""

    @behaviour
    def act(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        for row in rows:
            handler.event(row)
        if done:
            handler.finish_stream()
        else:
            handler.leave()
            handler.part(b"")

    return act


def ok(*parts: str, finish: str = "stop", usage: tuple[int, int] | None = (7, 5)) -> Behaviour:
    """An answer; without parts it repeats the last message."""

    @behaviour
    def act(handler: Handler, body: dict[str, Any]) -> None:
        said = parts or ("re: ", body["messages"][-1]["content"])
        counts = [chunk(usage=usage)] if usage else []
        events(*(chunk(part) for part in said), chunk(finish=finish), *counts)(handler, body)

    return act


def status(code: int, body: Any = b"", kind: str = "application/json", **headers: str) -> Behaviour:
    """An error; Retry_After="1" becomes a header."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return behaviour(lambda handler, _: handler.whole(code, kind, data, **headers))


def error(code: int, message: str, name: str | None = None, param: str | None = None, **headers: str) -> Behaviour:
    """An error with OpenAI's body."""
    return status(code, {"error": {"message": message, "type": name, "code": name, "param": param}}, **headers)


def quota_spent() -> Behaviour:
    return error(429, "You exceeded your current quota", "insufficient_quota")


def echo_key(code: int, mid_stream: bool = False) -> Behaviour:
    """Sends the Authorization header back: in a header, in the body, whole and in part."""

    @behaviour
    def act(handler: Handler, body: dict[str, Any]) -> None:
        sent = handler.headers["Authorization"] or ""
        said = {
            "error": {"message": f"bad key {sent}; its end is {sent[-12:]}", "type": sent, "code": sent, "you": sent}
        }
        if mid_stream:
            events(chunk("so far"), said)(handler, body)
        else:
            handler.whole(code, "application/json", json.dumps(said).encode(), X_Your_Key=sent)

    return act


@behaviour
def hang_before(handler: Handler, _: dict[str, Any]) -> None:
    """No header ever."""
    handler.server.bad.over.wait(LONGEST)
    handler.close_connection = True


@behaviour
def hang_within(handler: Handler, _: dict[str, Any]) -> None:
    """A beginning, and then nothing."""
    handler.begin_stream()
    handler.event(chunk("and so"))
    handler.server.bad.over.wait(LONGEST)
    handler.close_connection = True


def again_and_again(handler: Handler, send: Callable[[], None]) -> None:
    """Sends something every 20 ms until the client leaves or LONGEST is over, which `ran_out` tells."""
    for _ in range(int(LONGEST / 0.02)):
        send()
        if handler.server.bad.over.wait(0.02):
            return
    handler.server.bad.ran_out = True


@behaviour
def drip_before(handler: Handler, _: dict[str, Any]) -> None:
    """Comments that keep the connection alive, and nothing else."""
    handler.begin_stream()
    again_and_again(handler, lambda: handler.part(b": still there\n\n"))


@behaviour
def drip_within(handler: Handler, _: dict[str, Any]) -> None:
    """The same after a beginning."""
    handler.begin_stream()
    handler.event(chunk("and so"))
    again_and_again(handler, lambda: handler.part(b": still there\n\n"))


@behaviour
def endless(handler: Handler, _: dict[str, Any]) -> None:
    """A chunk again and again, without an end."""
    handler.begin_stream()
    again_and_again(handler, lambda: handler.event(chunk("on ")))


@behaviour
def cut(handler: Handler, _: dict[str, Any]) -> None:
    """The connection closes inside a chunk that was announced."""
    handler.begin_stream()
    handler.event(chunk("and th"))
    handler.wfile.write(b"ffff\r\ndata: {")
    handler.close_connection = True


@behaviour
def reset(handler: Handler, _: dict[str, Any]) -> None:
    """The connection is reset before a header."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


@behaviour
def ok_after_gate(handler: Handler, body: dict[str, Any]) -> None:
    """An answer once the test opens the gate."""
    handler.server.bad.gate.wait(LONGEST)
    ok()(handler, body)


def large(size: int, code: int = 200) -> Behaviour:
    """A body of `size` bytes without a line's end."""

    @behaviour
    def act(handler: Handler, _: dict[str, Any]) -> None:
        handler.begin(code, Transfer_Encoding="chunked")
        handler.end_headers()
        for _ in range(size // 2**16):
            handler.part(b"x" * 2**16)
        handler.leave()
        handler.part(b"")

    return act

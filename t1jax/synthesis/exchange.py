# SPDX-License-Identifier: Apache-2.0
"""Sends one request to an OpenAI-compatible endpoint, once, and classifies what comes back.

problems -> attempts -> notes -> chains: used by endpoints.py. Answers are streamed, so that a server that hangs or
breaks off is noticed. Nothing from a server is trusted: sizes and waits are limited, values of the wrong type are
ignored, and error messages are reduced to one line without the key.

Errors are returned, not raised: openai's exceptions hold the request's headers, and so the key.
Source: OpenAI's API reference, chat completions and their streaming.
Deliberately not here: retries (endpoints.py), rate limits (limits.py), the ledger (ledger.py).
"""

from __future__ import annotations

import asyncio
import enum
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from t1jax.config import EndpointConfig
from t1jax.synthesis import limits
from t1jax.synthesis.keys import Key
from t1jax.synthesis.writers import Request
from t1jax.typed import inert

if TYPE_CHECKING:
    import httpx2
    import openai

LARGEST = 64 * 2**20  # bytes of a stream, at most
LARGEST_ERROR = 64 * 2**10  # bytes of an error's body that are read
SLOWEST = 60  # the time limit of a whole answer, as a multiple of the endpoint's timeout
LONGEST_REASON = 300  # characters of a server's message that are shown
SPENT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance")
TRANSIENT = (408, 409, 425, 429)  # and 500 to 599


class Means(enum.Enum):
    """What an error means for this request and for others."""

    AGAIN = "this request may be sent again"
    GIVE_UP = "this request will never be answered; others may be"
    WRONG = "no request will be answered: the url, the model or the key is wrong"
    SPENT = "no request will be answered: there is no money or quota left"
    OTHER_NAME = "the limit of tokens has another name here, which the next request will use"


@dataclass(frozen=True)
class Trouble:
    """A request that was not answered."""

    reason: str  # one line, without the key
    means: Means
    after: float = 0.0  # seconds that the server asks to wait
    refused: bool = False  # before anything was generated


@dataclass
class Answer:
    """The content of a stream, as far as it was received."""

    parts: list[str] = field(default_factory=list)
    wrote: str = ""
    finish_reason: str = ""
    tool_calls: bool = False
    refusal: bool = False
    choices: bool = False
    usage: tuple[int, int] | None = None  # tokens of prompt and completion

    @property
    def text(self) -> str:
        """The generated text; a lone surrogate, which UTF-8 cannot encode, becomes U+FFFD."""
        return whole("".join(self.parts))

    def failure(self) -> str:
        """Why a complete answer cannot be used; "" if it can."""
        if self.finish_reason == "content_filter":
            return "withheld by the endpoint's content filter"
        if self.tool_calls or self.finish_reason in ("tool_calls", "function_call"):
            return "called a tool, though none was offered"
        if self.finish_reason not in ("stop", "length"):
            return f"ended with {inert(self.finish_reason[:40])!r}; expected stop or length"
        if not self.text:
            if self.refusal:
                return "refused by the model"
            return "wrote nothing" + (" within its limit of tokens" if self.finish_reason == "length" else "")
        return ""


class Exchange:
    """Sends requests to one endpoint. Enter it inside an event loop; leaving it closes its connections."""

    def __init__(self, cfg: EndpointConfig, key: Key) -> None:
        import openai

        self._cfg, self._key = cfg, key
        self._limit_name = "max_tokens"  # known to every server, but not to OpenAI's newest models
        http = openai.DefaultAsyncHttpxClient(
            timeout=cfg.timeout, follow_redirects=False, event_hooks={"response": [_bounded]}
        )
        # Set here so that the client does not read environment variables: an endpoint gets its own key or none.
        self._headers: dict[str, Any] = {
            "Authorization": f"Bearer {key.reveal()}" if key else openai.omit,
            "OpenAI-Organization": openai.omit,
            "OpenAI-Project": openai.omit,
            "Accept-Encoding": "identity",
        }
        self._client = openai.AsyncOpenAI(
            api_key="none", base_url=cfg.url, timeout=cfg.timeout, max_retries=0, http_client=http
        )

    async def __aenter__(self) -> Exchange:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, request: Request) -> Answer | Trouble:
        """Sends a request once and returns the answer, or what went wrong."""
        answer, limit_name = Answer(), self._limit_name
        error: Exception
        try:
            await self._stream(request, limit_name, answer)
        except Exception as caught:  # classified below; raised again there unless the server caused it
            error = caught
        else:
            if answer.finish_reason:
                return answer
            missing = "the stream broke off" if answer.choices else "an answer without choices"
            return Trouble(missing, Means.AGAIN)
        if answer.finish_reason:  # the text is complete; only its token counts may be missing
            return answer
        trouble = self._sort(error, limit_name)
        if trouble.means is Means.OTHER_NAME:
            self._limit_name = "max_completion_tokens"
        return trouble

    async def _stream(self, request: Request, limit_name: str, answer: Answer) -> None:
        """Sends the request and reads the stream into `answer`."""
        loop, timeout = asyncio.get_running_loop(), self._cfg.timeout
        last = loop.time() + timeout * SLOWEST
        messages: Any = [{"role": m["role"], "content": whole(m["content"])} for m in request.messages]
        async with asyncio.timeout(timeout) as silence:
            stream: Any = await self._client.chat.completions.create(
                model=self._cfg.model,
                messages=messages,
                temperature=request.temperature,
                seed=request.seed,
                stream=True,
                stream_options={"include_usage": True},
                extra_headers=self._headers,
                extra_body={limit_name: request.max_tokens},
            )
            kind = stream.response.headers.get("content-type", "")
            try:
                if not kind.startswith("text/event-stream"):
                    raise _NoStreamError(kind)
                async for chunk in stream:
                    silence.reschedule(min(loop.time() + timeout, last))
                    _read(chunk, answer)
            finally:
                await stream.close()

    def _sort(self, error: Exception, limit_name: str) -> Trouble:
        """Classifies an error; raises it again if the server did not cause it."""
        import openai

        if isinstance(error, openai.APIStatusError):
            return self._sort_status(error, limit_name)
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return Trouble(f"nothing came for {self._cfg.timeout:g} s, or the whole took too long", Means.AGAIN)
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            said = f": {cause}" if str(cause) else ""
            return Trouble(self._say(f"no connection: {type(cause).__name__}{said}"), Means.AGAIN)
        if isinstance(error, openai.APIError):  # an error inside a stream
            spent = error.code in SPENT or error.type in SPENT
            return Trouble(self._say(f"in the stream: {error.message}"), Means.SPENT if spent else Means.AGAIN)
        if isinstance(error, _TooLargeError):
            return Trouble(f"the answer has more than {LARGEST} bytes", Means.GIVE_UP)
        if isinstance(error, _NoStreamError):
            return Trouble(self._say(f"an answer of type {error}; expected text/event-stream"), Means.AGAIN)
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
            return Trouble("invalid JSON in the stream", Means.AGAIN)
        raise error

    def _sort_status(self, error: openai.APIStatusError, limit_name: str) -> Trouble:
        status, said = error.status_code, self._say(error.message)
        if status == 402 or error.code in SPENT or error.type in SPENT:
            return Trouble(said, Means.SPENT)
        if status in (401, 403, 404, 405) or status < 400:
            return Trouble(said, Means.WRONG)
        if status in TRANSIENT or status >= 500:
            return Trouble(said, Means.AGAIN, limits.retry_after(error.response.headers, time.time()), refused=True)
        if status == 400 and limit_name == "max_tokens" and error.param == "max_tokens":
            return Trouble(said, Means.OTHER_NAME, refused=True)
        return Trouble(said, Means.GIVE_UP, refused=True)

    def _say(self, text: str) -> str:
        """A server's message as one line, cut to LONGEST_REASON, without the key."""
        line = inert(" ".join(self._key.redact(text[: 10 * LONGEST_REASON]).split()))
        return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + "..."


def whole(text: str) -> str:
    """`text` with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class _TooLargeError(Exception):
    pass


class _NoStreamError(Exception):
    pass


def _read(chunk: Any, answer: Answer) -> None:
    """Adds a chunk to `answer`. Types are checked here, because openai does not check them."""
    usage = getattr(chunk, "usage", None)
    counts = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    if all(type(count) is int and 0 <= count < 2**53 for count in counts):
        answer.usage = counts  # type: ignore[assignment]
    if isinstance(model := getattr(chunk, "model", None), str):
        answer.wrote = answer.wrote or inert(whole(model))[:200]
    choices = getattr(chunk, "choices", None)
    for choice in choices[:1] if isinstance(choices, list) else ():
        answer.choices = True
        delta = getattr(choice, "delta", None)
        if isinstance(content := getattr(delta, "content", None), str):
            answer.parts.append(content)
        answer.tool_calls |= bool(getattr(delta, "tool_calls", None) or getattr(delta, "function_call", None))
        answer.refusal |= bool(getattr(delta, "refusal", None))
        if isinstance(reason := getattr(choice, "finish_reason", None), str) and reason:
            answer.finish_reason = reason


async def _bounded(response: httpx2.Response) -> None:
    """A response hook that limits the body: to LARGEST, or to LARGEST_ERROR for an error."""
    import httpx2

    body, error = response.stream, response.status_code >= 300
    if response.headers.get("content-encoding", "identity") != "identity":
        response.headers["content-encoding"] = "identity"  # compression was not requested, and could unpack to any size

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = LARGEST_ERROR if error else LARGEST
            async for part in body:  # type: ignore[union-attr]
                left -= len(part)
                if left < 0 and not error:
                    raise _TooLargeError
                yield part
                if left < 0:
                    return

        async def aclose(self) -> None:
            await body.aclose()  # type: ignore[union-attr]

    response.stream = Bounded()

# SPDX-License-Identifier: Apache-2.0
"""A Writer that sends requests to an OpenAI-compatible endpoint, concurrently, with retries and a cache.

problems -> attempts -> notes -> chains: writes any of them. Requests in the ledger are answered from it. The others are
sent, at most `concurrency` at once, by an event loop in its own thread; an answer is in the ledger before it is
returned. Leaving `write` early, by close() or Ctrl-C, cancels the requests in flight.

An unusable answer that was paid for (stopped by a content filter, or empty) is kept as a Failure, so that it is not
paid for again. A request that failed without cost is not kept: the next run sends it again.
Deliberately not here: a single request (exchange.py), rate limits (limits.py), keys (keys.py), the file (ledger.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import queue
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from t1jax.config import ConfigError, EndpointConfig
from t1jax.synthesis import limits
from t1jax.synthesis.exchange import Answer, Exchange, Means, Trouble
from t1jax.synthesis.keys import read_key, redacted_logs
from t1jax.synthesis.ledger import Ledger, Paid, Totals, digest
from t1jax.synthesis.limits import Limiter
from t1jax.synthesis.writers import Completion, Failure, Request

IN_A_ROW = 20  # consecutive failed requests after which the run ends
PER = 1e6  # prices are per this many tokens
_Result = tuple[Request, Completion | Failure]


class EndpointWriter:
    """The endpoint called `name` in the config.

    Args:
      name: the endpoint's name, for errors and the ledger.
      cfg: the endpoint's config.
      ledger: the cache of paid answers; endpoints may share one.
      on_usage: called with this process's totals after each paid answer, from the thread of the event loop.
      limiter: replaced by tests, which have their own clock.

    Raises:
      ConfigError: openai is not installed, or the environment variable of the key is not set.
    """

    def __init__(
        self,
        name: str,
        cfg: EndpointConfig,
        ledger: Ledger,
        on_usage: Callable[[Totals], None] | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        if importlib.util.find_spec("openai") is None:
            raise ConfigError(
                f"synthesis.endpoints.{name} needs the package openai; expected pip install '.[synthesis]'"
            )
        self._name, self._cfg, self._ledger, self._on_usage = name, cfg, ledger, on_usage
        self._key = read_key(name, cfg.key_variable)
        self._limiter = limiter or Limiter(cfg.requests_per_minute, cfg.tokens_per_minute)
        self._writing = threading.Lock()
        self._spent = Totals()
        self._unanswered = 0  # failed requests since the last answer
        self._resumed = False  # the ledger had answers, so a run of refused requests between them is normal
        self._stopped = False
        self._cancel: Callable[[], None] | None = None  # ends the current `write`

    @property
    def name(self) -> str:
        """Its name in the config."""
        return self._name

    @property
    def spent(self) -> Totals:
        """Totals of the answers that this writer paid for; retries include those of failed requests."""
        return self._spent

    def write(self, requests: Sequence[Request]) -> Iterator[_Result]:
        """Yields each request once with its outcome: first those in the ledger, then others as answers arrive.

        Raises:
          ConfigError: no request can be answered: wrong URL, model or key, no quota left, or no server.
          Stopped: the ledger cannot be written.
          ValueError: two requests are the same.
          RuntimeError: this writer is already writing.
        """
        if not self._writing.acquire(blocking=False):
            raise RuntimeError(f"{self._name} is writing; expected its last write to be read to the end, or closed")
        try:
            keys = {digest(self._cfg.url, self._cfg.model, request): request for request in requests}
            if len(keys) < len(requests):
                raise ValueError("two requests have one key; expected each request once")
            waiting = []
            for key, request in keys.items():
                if (found := self._ledger.find(key)) is not None:
                    self._resumed = True
                    yield request, found
                else:
                    waiting.append((key, request))
            if waiting:
                yield from self._drive(waiting)
        finally:
            self._writing.release()

    def stop(self) -> None:
        """Ends a `write` that another thread is consuming. After this, only the ledger answers requests.

        The other thread's iteration ends, so the thread can be joined. In the same thread, close the iterator instead.
        """
        self._stopped = True
        self._end_write()

    def _drive(self, waiting: list[tuple[str, Request]]) -> Iterator[_Result]:
        """Runs an event loop in a thread and yields its results. The thread has ended when this returns."""
        results: queue.SimpleQueue[_Result | BaseException | None] = queue.SimpleQueue()
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # the default would also set this thread's loop
        loop, serving = runner.get_loop(), self._serve(waiting, results.put)

        def run() -> None:
            try:
                with runner, redacted_logs(self._key):
                    runner.run(serving)
            except asyncio.CancelledError:  # by `cancel`; nobody waits for results then
                pass
            except BaseException as error:  # raised again where the results are read
                results.put(error)
            finally:
                results.put(None)

        def cancel() -> None:
            self._cancel = None  # a second cancellation would disturb the clean-up
            with suppress(RuntimeError):  # the loop has already ended
                loop.call_soon_threadsafe(
                    lambda: [task.cancel() for task in asyncio.all_tasks(loop) if task.get_coro() is serving]
                )

        thread = threading.Thread(target=run, name=f"endpoint-{self._name}", daemon=True)
        self._cancel = cancel
        try:
            thread.start()
            if self._stopped:
                self._end_write()
            while (result := results.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            self._end_write()
            thread.join()

    def _end_write(self) -> None:
        if (cancel := self._cancel) is not None:
            cancel()

    async def _serve(self, waiting: list[tuple[str, Request]], put: Callable[[_Result], None]) -> None:
        """Answers all requests, at most `concurrency` at once."""
        todo = iter(waiting)
        first: BaseException | None = None

        async def work(exchange: Exchange) -> None:
            for key, request in todo:
                put((request, await self._answer(exchange, key, request)))

        async with Exchange(self._cfg, self._key) as exchange:
            try:
                with redacted_logs(self._key):  # again, for loggers that creating the client added
                    async with asyncio.TaskGroup() as group:
                        for _ in range(min(self._cfg.concurrency, len(waiting))):
                            group.create_task(work(exchange))
            except BaseExceptionGroup as errors:
                first = errors.exceptions[0]
        if first is not None:
            raise first

    async def _answer(self, exchange: Exchange, key: str, request: Request) -> Completion | Failure:
        """The outcome of a request, with as many retries as needed and allowed."""
        retry = 0
        while True:
            ticket = await self._limiter.admit(limits.tokens_asked(request))
            found = await exchange.ask(request)
            if isinstance(found, Answer):
                self._limiter.settle(ticket, sum(found.usage) if found.usage else ticket.tokens)
                return await self._pay(key, request, found, retry)
            if found.refused:
                self._limiter.settle(ticket, 0)
            if found.means in (Means.WRONG, Means.SPENT):
                raise self._end(found)
            if found.means is Means.OTHER_NAME:
                continue  # retry at once, but within the limits: it is another request
            if found.means is not Means.AGAIN:
                reason = f"{self._name}: {found.reason}"
                return Failure(reason) if self._resumed else self._give_up(reason)
            if retry == self._cfg.retries:
                return self._give_up(f"{self._name}: {found.reason}; given up after {retry + 1} tries", passing=True)
            self._spent = dataclasses.replace(self._spent, retries=self._spent.retries + 1)
            if found.after:
                self._limiter.hold(found.after)
            await self._limiter.sleep(limits.wait(retry, found.after, random.random()))
            retry += 1

    async def _pay(self, key: str, request: Request, answer: Answer, retries: int) -> Completion | Failure:
        """Records an answer in the ledger and returns its result."""
        self._unanswered = 0
        prompt, completion = answer.usage or (0, 0)
        failure = answer.failure()
        paid = Paid(
            key=key,
            request=request.key,
            endpoint=self._name,
            model=self._cfg.model,
            wrote=self._key.redact_answer(answer.wrote) or self._cfg.model,
            text=self._key.redact_answer(answer.text),
            failure=self._key.redact(f"{self._name}: {failure}") if failure else "",
            finish_reason=self._key.redact(answer.finish_reason)[:40],
            prompt_tokens=prompt,
            completion_tokens=completion,
            counted=answer.usage is not None,
            cost=(prompt * self._cfg.price_in + completion * self._cfg.price_out) / PER,
            retries=retries,
        )
        await asyncio.to_thread(self._ledger.record, paid)
        self._spent = self._spent.plus(dataclasses.replace(paid, retries=0))  # retries were counted when they were made
        if self._on_usage is not None:
            self._on_usage(self._spent)
        return paid.result()

    def _give_up(self, reason: str, passing: bool = False) -> Failure:
        self._unanswered += 1
        if self._unanswered >= IN_A_ROW:
            raise ConfigError(
                f"synthesis.endpoints.{self._name}: {IN_A_ROW} requests in a row got no answer, the last because of: "
                f"{reason}; fix that, and the same command resumes: paid responses are kept"
            )
        return Failure(reason, passing)

    def _end(self, trouble: Trouble) -> ConfigError:
        """The error that ends the run: why, and what to do."""
        knob, cfg = f"synthesis.endpoints.{self._name}", self._cfg
        key = f"the key in {cfg.key_variable}" if cfg.key_variable else "no key (key_variable is empty)"
        if trouble.means is Means.SPENT:
            hint = f"the account of {key} has no quota or money left: top it up, or name another endpoint"
        else:
            hint = f"expected url, model and key to fit each other; asked with model {cfg.model} and {key}"
        return ConfigError(
            f"{knob}: {cfg.url} says: {trouble.reason}; {hint}; then the same command continues, and "
            "nothing is paid for twice"
        )

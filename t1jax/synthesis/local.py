# SPDX-License-Identifier: Apache-2.0
"""A Writer that samples from a checkpoint on this machine's devices.

problems -> attempts -> notes -> chains. Requests go through the sampler of evaluation in batches that depend only on
the requests. Samples are kept in the ledger, one batch at a time: a kill loses at most one batch, which is then sampled
again as a whole, so that a resumed run writes the same text as an uninterrupted one.
Deliberately not here: which requests there are (training/stages.py), the ledger (ledger.py), endpoints (endpoints.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

import jax

from t1jax.checks import LOCAL
from t1jax.config import Config, ConfigError
from t1jax.devices import sharding
from t1jax.evaluation.opened import open_checkpoint
from t1jax.host.progress import Progress
from t1jax.model.parameters import checksum
from t1jax.rollouts.generate import Generator
from t1jax.synthesis.ledger import Ledger, Paid, digest
from t1jax.synthesis.writers import Completion, Failure, Request
from t1jax.tasks.files.prompts import has_any
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Params

SHORTEST = 32  # least length that prompts are padded to, tokens; one program is compiled per power of two


class LocalWriter:
    """A Writer; single-process only."""

    name = LOCAL

    def __init__(
        self, cfg: Config, mesh: jax.sharding.Mesh, params: Params, tokenizer: Tokenizer, ledger: Ledger,
        progress: Progress, model: str, whole: bool,
    ) -> None:  # fmt: skip
        """`model`: a readable name for the weights. `whole`: a message is a whole prompt, as of the embedded task."""
        self._whole = whole
        self.cfg, self.tokenizer, self.weights = cfg, tokenizer, checksum(params)
        self.model = f"{model}@{self.weights}"
        self._params, self._ledger, self._stopped = params, ledger, False
        self._generate = Generator(cfg, mesh, tokenizer, progress.sampling)
        progress.doing("compiling")

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion | Failure]]:
        """Yields each request once with its outcome, in order within batches; a Failure if the prompt is invalid."""
        prompts: list[tuple[Request, list[int]]] = []
        for request in requests:
            try:
                prompts.append((request, self._prompt(request)))
            except ValueError as error:  # includes ConfigError
                yield request, Failure(str(error))
        kinds: dict[tuple[int, float], list[tuple[Request, list[int]]]] = {}
        for request, prompt in prompts:
            kinds.setdefault((request.max_tokens, request.temperature), []).append((request, prompt))
        size = self.cfg.eval.batch_size
        for same in kinds.values():
            for start in range(0, len(same), size):
                if self._stopped:
                    return
                yield from self._batch(same[start : start + size])

    def stop(self) -> None:
        """Ends a `write` that another thread is consuming, after its current batch."""
        self._stopped = True

    def _batch(self, batch: Sequence[tuple[Request, list[int]]]) -> Iterator[tuple[Request, Completion | Failure]]:
        """A batch from the ledger if it is complete there; otherwise sampled, and what is missing is recorded."""
        keys = [digest(LOCAL, self.model, request) for request, _ in batch]
        found = [self._ledger.find(key) for key in keys]
        if any(outcome is None for outcome in found):
            texts = self._sample(batch)
            for place, ((request, prompt), key, ids) in enumerate(zip(batch, keys, texts, strict=True)):
                stopped = bool(ids) and ids[-1] in self.tokenizer.stop_ids
                if found[place] is None:
                    paid = Paid(
                        key=key, request=request.key, endpoint=LOCAL, model=self.model, wrote=self.model,
                        text=self.tokenizer.decode(ids), failure="", finish_reason="stop" if stopped else "length",
                        prompt_tokens=len(prompt), completion_tokens=len(ids), counted=True, cost=0.0, retries=0,
                    )  # fmt: skip
                    self._ledger.record(paid)
                    found[place] = paid.result()
        for (request, _), outcome in zip(batch, found, strict=True):
            assert outcome is not None
            yield request, outcome

    def _sample(self, batch: Sequence[tuple[Request, list[int]]]) -> list[list[int]]:
        """Token ids of a response to each prompt. All requests have the same max_tokens and temperature."""
        first = batch[0][0]
        longest = max(SHORTEST, *(len(prompt) for _, prompt in batch))
        drawn = self._generate(
            self._params, [prompt for _, prompt in batch], "synthesize", length=1 << (longest - 1).bit_length(),
            new_tokens=first.max_tokens, temperature=first.temperature, truncate=True,
            ids=[zlib.crc32(f"{request.key} {request.seed}".encode()) >> 1 for request, _ in batch],
        )  # fmt: skip
        return [ids for (ids,) in drawn]

    def _prompt(self, request: Request) -> list[int]:
        """The token ids of a request. ValueError: it has a special token's text, or a character that has no token."""
        if self._whole or not isinstance(self.tokenizer, HFTokenizer):
            return self.tokenizer.encode(request.messages[-1]["content"])
        if any(has_any(message["content"], self.tokenizer.special_texts) for message in request.messages):
            raise ValueError("the request holds the text of a special token")
        ids = self.tokenizer.encode(self.tokenizer.chat(request.messages))
        self.tokenizer.refuse_too_long(len(ids) + request.max_tokens, "the request's tokens + those it may write")
        return ids


def open_local(
    cfg: Config, folder: str | None, argv: Sequence[str], embedded: bool
) -> tuple[Config, Tokenizer, Callable[[Ledger, Progress], LocalWriter]]:
    """Opens the checkpoint: (config with its sizes, its tokenizer, a function that loads the weights into a writer).

    Raises:
      ConfigError: there is no checkpoint, or its tokenizer has no chat, or does not fit problems of files.
    """
    opened = open_checkpoint(cfg, folder, argv)
    cfg, tokens = opened.cfg, opened.tokenizer
    if not embedded and not isinstance(tokens, HFTokenizer):
        raise ConfigError(f"{cfg.model.checkpoint}: expected a tokenizer.json, for --problems")
    if isinstance(tokens, HFTokenizer) and not tokens.has_chat:
        where = opened.source.folder
        raise ConfigError(f"{where}: no chat template; expected a model that answers in chats, for synthesis")
    if isinstance(tokens, HFTokenizer):
        for knob in ("attempt_tokens", "chain_tokens"):
            tokens.refuse_too_long(getattr(cfg.synthesis, knob), f"synthesis.{knob}")

    def make(ledger: Ledger, progress: Progress) -> LocalWriter:
        mesh = sharding.make_mesh(cfg.mesh)
        name = opened.name
        return LocalWriter(cfg, mesh, opened.params(mesh), tokens, ledger, progress, name, whole=embedded)

    return cfg, tokens, make

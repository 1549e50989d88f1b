# SPDX-License-Identifier: Apache-2.0
"""Problems as arrays, by grain: batches of prompts for sampling, packed rows of chains for the cold start.

PROMPTS -> rollouts -> ... Both streams are infinite: a file's problems are reshuffled each epoch, and a batch may span
two epochs; of several files with weights each has epochs of its own; the embedded task has 2^30 problems. A thread in
the background prepares batches while the device works. Streams can be resumed: `get_state()` returns a small
JSON-compatible dict, and `set_state` continues with exactly the next batch. Every process builds the whole batch, so a
stream and its state do not depend on the number of processes.
Masks are made here: `valid_PC` marks a prompt's own tokens, `segment_BT` a text's, `target_BT` a response's.

Axes: P prompts, C prompt positions, B rows, T positions of a row.
Deliberately not here: what a problem or a chain is (tasks/), batches as global device arrays (multihost.py).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import grain
import numpy as np

from t1jax.config import Config, ConfigError
from t1jax.prompts import curriculum
from t1jax.tasks.task import Source, Task
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Packed, Prompts

NUM_PROBLEMS = 2**30  # of a task without end; grain shuffles fewer than 2^32, and an index fits int32
NUM_EPOCHS = 2**20  # as good as without end; grain cannot batch what really has none
PREFETCH = 2  # batches made ahead
NO_READERS = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)  # _prefetched's thread does it all


T_co = TypeVar("T_co", covariant=True)


class Stream(Protocol[T_co]):
    """An endless iterator that can say where it is and go back there. Close it when done: it has a thread."""

    def __iter__(self) -> Iterator[T_co]: ...

    def __next__(self) -> T_co: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...

    def close(self) -> None: ...


PromptStream = Stream[Prompts]
SftStream = Stream[Packed]


def tokenise_prompts(tokenizer: Tokenizer, texts: Sequence[str], ids: Iterable[int], prompt_length: int) -> Prompts:
    """`pad_prompts` of the token ids of `texts`.

    Raises:
      ConfigError: a prompt is longer than `prompt_length`.
    """
    rows = [tokenizer.encode(text) for text in texts]
    longest = max(map(len, rows), default=0)
    if longest > prompt_length:
        raise ConfigError(f"data.prompt_length is {prompt_length}; expected at least {longest}, the longest prompt")
    return pad_prompts(rows, ids, prompt_length, tokenizer.pad_id)


def pad_prompts(rows: Sequence[Sequence[int]], ids: Iterable[int], length: int, pad_id: int) -> Prompts:
    """Prompts of NumPy arrays: token ids right-padded to `length` positions; `ids` finds each problem again."""
    tokens_PC: Any = np.full((len(rows), length), pad_id, np.int32)
    for row, tokens in zip(tokens_PC, rows, strict=True):
        row[: len(tokens)] = tokens
    length_P = np.array([len(tokens) for tokens in rows], np.int32)
    valid_PC: Any = np.arange(length, dtype=np.int32)[None, :] < length_P[:, None]
    problem_P: Any = np.fromiter(ids, np.int32, len(rows))
    return Prompts(tokens_PC, valid_PC, problem_P)


def refuse_too_few(task: Task, split: str, batch: int) -> None:
    """ConfigError: a batch is larger than the file, or a file's share of it than that file."""
    size = task.size(split)
    if size is not None and size < batch:
        raise ConfigError(f"a batch is {batch} prompts; expected at most {size}, the {split} problems of the file")
    for source in task.sources if split == "train" else ():
        if source.weight is not None and source.size < (needed := math.ceil(source.weight * batch - 1e-9)):
            raise ConfigError(
                f"data.weights takes {needed} of the {batch} prompts of a batch from {source.name}; expected at most "
                f"{source.size}, its problems"
            )


def prompt_stream(cfg: Config, task: Task, tokenizer: Tokenizer, split: str, batch: int, seed: int) -> PromptStream:
    """Batches of `batch` prompts of different problems, Prompts of NumPy arrays.

    Only a batch with two epochs in it, or of a curriculum, may hold a problem twice.

    Raises:
      ConfigError: a batch is larger than the file, or a file's share of it than that file.
    """
    refuse_too_few(task, split, batch)
    size = task.size(split)
    weights = [source.weight for source in task.sources if source.weight is not None] if split == "train" else []
    order = _mixed(task.sources, weights, seed) if weights else _epochs(size, seed)
    if cfg.task.curriculum and task.difficulties:
        count = NUM_PROBLEMS if size is None else size
        order = order.map_with_index(
            lambda place, index: curriculum.choose(cfg, task, split, place // batch, int(index), count)
        )

    def prompts(indices: np.ndarray) -> Prompts:
        texts = [task.prompt(task.problem(int(index), split)) for index in indices]
        return tokenise_prompts(tokenizer, texts, indices, cfg.data.prompt_length)

    return _prefetched(order.batch(batch).map(prompts).to_iter_dataset(NO_READERS))


def sft_stream(cfg: Config, task: Task, tokenizer: Tokenizer) -> SftStream:
    """Batches of `cfg.sft.batch_size` packed rows of prompt, chain and stop token, Packed of NumPy arrays.

    A text's index and cfg.seed decide it. One that is longer than a row is cut at the end of the row, and then has no
    stop token.

    Raises:
      ConfigError: a file with fewer texts than a batch has rows, or texts beyond the positions that the model was
        trained for.
    """
    size = task.num_demonstrations()
    if size is not None and size < cfg.sft.batch_size:
        raise ConfigError(
            f"sft.batch_size is {cfg.sft.batch_size}; expected at most {size}, the texts of data.sft that are used"
        )
    _refuse_too_long(cfg, task, tokenizer)
    batch, length, seed = cfg.sft.batch_size, cfg.sft.sequence_length, cfg.seed
    stop = tokenizer.stop_ids[0]

    def text(index: int) -> dict[str, np.ndarray]:
        prompt, response = map(tokenizer.encode, task.demonstration(int(index), seed))
        if len(prompt) >= length:
            raise ConfigError(
                f"sft.sequence_length is {length}; expected more than {len(prompt)}, the tokens of a prompt"
            )
        tokens = np.array([*prompt, *response, stop][:length], np.int32)
        return {"tokens": tokens, "target": np.arange(len(tokens), dtype=np.int32) >= len(prompt)}

    def packed(whole: dict[str, Any]) -> Packed:
        return Packed(
            tokens_BT=whole["tokens"],
            segment_BT=whole["tokens_segment_ids"],
            position_BT=whole["tokens_positions"],
            target_BT=whole["target"],
        )

    texts = _epochs(size, seed).map(text)
    packing = grain.experimental.FirstFitPackIterDataset(
        texts.to_iter_dataset(NO_READERS),
        length_struct={"tokens": length, "target": length},
        num_packing_bins=batch,
        shuffle_bins=False,
        meta_features=("target",),  # packed like the tokens, without segments and positions of its own
        padding_struct={"tokens": tokenizer.pad_id, "target": False},
    )
    return _prefetched(packing.batch(batch).map(packed))


def _refuse_too_long(cfg: Config, task: Task, tokenizer: Tokenizer) -> None:
    """ConfigError if a text of the cold start has more positions than the model was trained for.

    A text is cut at the end of its row, so texts are read only where a row is longer than that.
    """
    length, size = cfg.sft.sequence_length, task.num_demonstrations()
    if not isinstance(tokenizer, HFTokenizer) or length <= (tokenizer.trained_length() or length):
        return
    if size is None:  # any length may come
        tokenizer.refuse_too_long(length, "sft.sequence_length, at which texts are cut,")
        return
    texts = (task.demonstration(index, cfg.seed) for index in range(size))
    longest = max(
        (len(tokenizer.encode(prompt)) + len(tokenizer.encode(text)) + 1 for prompt, text in texts), default=0
    )
    what = f"the longest text of data.sft, cut at sft.sequence_length = {length},"
    tokenizer.refuse_too_long(min(longest, length), what, "lower sft.sequence_length, or leave the text out")


def _epochs(size: int | None, seed: int) -> grain.MapDataset:
    """Indices below `size` without end, each once an epoch; every epoch has its own order, from `seed` on."""
    return grain.MapDataset.range(NUM_PROBLEMS if size is None else size).shuffle(seed).repeat(NUM_EPOCHS)


def _mixed(sources: Sequence[Source], weights: Sequence[float], seed: int) -> grain.MapDataset:
    """Indices of the problems of several sources, each source in epochs of its own, `weights` their shares.

    Grain spreads them evenly and without chance: of any number of prompts in a row a source has its share, give or take
    one or two. Shares are multiples of a hundredth of the smallest.
    """
    orders: list[grain.MapDataset] = []
    start = 0
    for number, source in enumerate(sources):
        orders.append(_epochs(source.size, (seed + number) % 2**32).map(functools.partial(operator.add, start)))
        start += source.size
    return grain.MapDataset.mix(orders, weights)


def _prefetched(dataset: grain.IterDataset) -> Any:
    """The dataset's iterator, run ahead by one thread."""
    return iter(grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=PREFETCH))

# SPDX-License-Identifier: Apache-2.0
"""Seconds that the devices wait for the host in a step: scoring all responses, and planning the rows of the update.

    python -m benchmarks.host FILE [--responses=2048 --tokens=16384 --tokenizer=DIR --threads=2]

FILE holds problems, as data.train takes them. A response is problems one after the other, then a boxed answer: in turn
that of its own problem and that of the next one. Of every 16 responses one ends in a loop, and one has every tenth
character in Chinese. DIR is a Hugging Face folder; without it a byte-level BPE tokenizer of at most
32,768 tokens is trained on the problems.

`seconds` is all of scoring, `judging_s` the part that waits for the processes that judge answers. `processor_s` is the
processor time of this process, so without them. `parts_ms` is that of one response on one thread, the mean over 32.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import workload

BODIES, GROUP = 32, 16  # different texts of responses; responses of a prompt
PROMPT = 256  # tokens
LONGEST_TOKEN = 8  # characters, on average at most


def train_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Write a byte-level BPE tokenizer of `texts` into `folder`, as Hugging Face does."""
    import tokenizers

    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=32_768, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(texts, trainer)
    engine.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"eos_token_id": 0}', encoding="utf-8")


def bodies(problems: Sequence[Any], tokens: int) -> Iterator[str]:
    """BODIES texts of at least so many tokens."""
    draw = random.Random(0)
    for number in range(BODIES):
        text = ""
        while len(text) < LONGEST_TOKEN * tokens:
            text += draw.choice(problems).text + "\n\n"
        if number % 16 == 3:
            text = text[:tokens] + text[:100] * (len(text) // 100)
        if number % 16 == 7:
            text = "".join(x if i % 10 else "是" for i, x in enumerate(text))
        yield text


def make_rows(problems: Sequence[Any], tokenizer: Any, responses: int, tokens: int) -> tuple[Any, Any]:
    """(tokens, sampled) of all responses, int32 and bool [responses, tokens]; each ends with its answer."""
    import numpy as np

    begun = [tokenizer.encode(text)[:tokens] for text in bodies(problems, tokens)]
    short = [len(ids) for ids in begun if len(ids) < tokens]
    if short:
        raise SystemExit(f"a text of {LONGEST_TOKEN * tokens} characters has {min(short)} tokens: take another FILE")
    rows = np.zeros((responses, tokens), np.int32)
    for number, (row, body) in enumerate(zip(rows, itertools.cycle(begun), strict=False)):
        end = tokenizer.encode(f"\n\\boxed{{{problems[(number + number % 2) % len(problems)].gold}}}")
        row[:] = [*body[: tokens - len(end)], *end][-tokens:]
    return rows, np.ones(rows.shape, bool)


class Task:
    """What scoring needs of a task, of problems of a file."""

    def __init__(self, problems: Sequence[Any], verifier: Any) -> None:
        self.problems, self.verifier, self.judging = problems, verifier, 0.0

    def problem(self, index: int, split: str) -> Any:
        return self.problems[index % len(self.problems)]

    def score(self, problems: Sequence[Any], responses: Sequence[str]) -> Any:
        from t1jax.tasks.files.problems import judge

        begun = time.perf_counter()
        found = judge([(text, problem.gold) for text, problem in zip(responses, problems, strict=True)], self.verifier)
        self.judging = time.perf_counter() - begun
        return found


def milliseconds(work: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Processor time of `work` on an item, the mean of the better of two rounds."""
    spent = []
    for _ in range(2):
        begun = time.process_time()
        for item in items:
            work(item)
        spent.append(time.process_time() - begun)
    return round(1000 * min(spent) / len(items), 3)


def plan_seconds(responses: int, tokens: int) -> float:
    """Of planning the rows of all responses, of random lengths, on one shard; a row has room for one of the longest."""
    import numpy as np

    from t1jax.update import packing

    length = np.random.default_rng(0).integers(1, tokens + 1, responses)
    grid = packing.Grid(parts=responses, rows=1, length=PROMPT + tokens)
    begun = time.perf_counter()
    packing.plan(np.full(responses, PROMPT), length, np.ones(responses, bool), GROUP, grid)
    return time.perf_counter() - begun


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Make the responses, score them; the line of JSON."""
    if args.responses < 1 or args.responses % GROUP:
        raise SystemExit(f"--responses is {args.responses}; expected a multiple of {GROUP}")
    cores = workload.pin(args.threads)
    import numpy as np

    from configs import base
    from t1jax import config
    from t1jax.rewards import penalties, score
    from t1jax.rewards.verifier import Verifier
    from t1jax.tasks.files.problems import read_problems
    from t1jax.text import tokenizer as tokenizers

    cfg = config.load(base.get_config())
    problems, _ = read_problems(args.file, cfg.data, "train")
    with tempfile.TemporaryDirectory() as folder, Verifier(dataclasses.replace(cfg.verifier, workers=0)) as verifier:
        if not args.tokenizer:
            train_tokenizer((problem.text for problem in problems), Path(folder))
        tokenizer = tokenizers.load(args.tokenizer or folder)
        tokens, sampled = make_rows(problems, tokenizer, args.responses, args.tokens)
        verifier.check([("x+1", "1+x"), ("2y", "y+y")])  # the workers are there
        texts = [tokenizer.decode(row) for row in tokens[:BODIES]]
        length, count, share = cfg.rl.repeat_length, cfg.rl.repeat_count, cfg.rl.garbled_share
        parts = {
            "decoding": milliseconds(tokenizer.decode, tokens[:BODIES]),
            "repetition": milliseconds(lambda text: penalties.repetitive(text, length, count), texts),
            "garbled": milliseconds(lambda text: penalties.garbled(text, share), texts),
        }
        task = Task(problems, verifier)
        scorer = score.make_scorer(task, "train", tokenizer, cfg.rl)
        stopped = np.ones(args.responses, bool)
        meter, begun, processor = workload.Meter(), time.perf_counter(), time.process_time()
        found = scorer(np.arange(args.responses, dtype=np.int32), tokens, sampled, stopped)
        seconds, processor = time.perf_counter() - begun, time.process_time() - processor
    line = {
        "responses": args.responses,
        "tokens": args.tokens,
        "characters": round(sum(map(len, texts)) / len(texts)),
        "seconds": round(seconds, 3),
        "judging_s": round(task.judging, 3),
        "processor_s": round(processor, 3),
        "plan_s": round(plan_seconds(args.responses, args.tokens), 3),
        "parts_ms": parts,
        "right": int((found.outcome == 1).sum()),
        "wrong": int((found.outcome == 0).sum()),
        "repetition": int(found.repetition.sum()),
        "garbled": int(found.garbled.sum()),
        "cores": cores,
        "other_cores_busy": round(meter.others(), 2),
    }
    print(json.dumps(line), flush=True)
    return line


def main(argv: Sequence[str]) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("file", metavar="FILE")
    flags.add_argument("--responses", type=int, default=2048)
    flags.add_argument("--tokens", type=int, default=16_384, help="of each response")
    flags.add_argument("--tokenizer", default="", metavar="DIR", help="a folder with a tokenizer.json")
    flags.add_argument("--threads", type=int, default=2, help="cores to use; 0: all that are allowed")
    measure(flags.parse_args(argv))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""How many answers a second the verifier checks.

    python benchmarks/verifier.py DATA [WORKERS]

DATA is a folder with math_train.json, a JSON array of rows with an `answer`. All pairs are different, so nothing comes
from the cache. Whole numbers and "right" LaTeX are each gold against itself; LaTeX is asked of math-verify even where
equal text would do. "wrong" is each gold against another one that begins alike, where sympy has to look hardest.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from t1jax.config import VerifierConfig
from t1jax.rewards import answers
from t1jax.rewards.verifier import Verifier


def main(argv: list[str]) -> None:
    """Print one line a kind of pairs."""
    folder, workers = Path(argv[0]), int(argv[1]) if len(argv) > 1 else 0
    golds = sorted({str(row["answer"]) for row in json.loads((folder / "math_train.json").read_text(encoding="utf-8"))})
    numbers = [(f"{n}", f"{n + n % 2}") for n in range(20_000)]
    latex = [answers.tidy(gold) for gold in golds if gold.strip() and not gold.lstrip("-").isdigit()]
    wrong = [pair for pair in zip(latex, latex[2:], strict=False) if answers.quick(*pair) is None]
    with Verifier(VerifierConfig(workers=workers, deadline=3.0, memory=1024, recycle=5000)) as verifier:
        verifier.check([("x+1", "1+x"), ("2y", "y+y")])  # the workers are there
        measure("whole numbers", len(numbers), lambda: verifier.check(numbers))
        measure("LaTeX, right", len(set(latex)), lambda: verifier._compare({(gold, gold) for gold in latex}))
        measure("LaTeX, wrong", len(wrong), lambda: verifier.check(wrong))
        print(verifier.counts())
    processor = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"processor time of the workers: {processor.ru_utime + processor.ru_stime:.1f} s; cores: {os.cpu_count()}")


def measure(name: str, count: int, work: Callable[[], object]) -> None:
    """Run `work` once and print its speed."""
    start = time.monotonic()
    work()
    seconds = time.monotonic() - start
    print(f"{name}: {count} pairs in {seconds:.2f} s, {count / seconds:.0f} a second", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

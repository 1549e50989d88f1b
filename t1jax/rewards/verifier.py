# SPDX-License-Identifier: Apache-2.0
"""Compares answers with reference answers: text and numbers here, everything else with math-verify in worker processes.

    with Verifier(cfg.verifier) as verifier:
        outcomes = verifier.check([(answer, gold), ...])

math-verify hangs on hostile LaTeX, uses much memory, and fails outside the main thread. So it runs in the workers of a
pool (pool.py). An answer on which one hangs is unscorable. A gold that math-verify cannot parse is compared as text:
any other text is wrong.

Where: rollouts -> rewards. Host only. Called from several threads at once: those of io_callback.
Deliberately not here: the processes (pool.py), the algebra (worker.py), what text and exact numbers can tell
(answers.py, precheck.py), how answers are written (notation.py, pairing.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from t1jax.rewards import answers, notation, precheck
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG, Outcome
from t1jax.rewards.pool import Pool
from t1jax.rewards.precheck import Pair
from t1jax.rewards.worker import UNREAD

BY_TEXT = "by text, number or choice"  # what a verdict rests on
BY_VALUE = "by value: math-verify"
LOST = "not judged: over verifier.deadline or verifier.memory"
TOO_MUCH = "not judged: too long, too deeply nested, or too large a number"


class Verifier(Pool):
    """A pool of workers that start with the first pair that needs one. `check` may be called from any thread.

    Raises:
      ConfigError: from `check`, if workers cannot be started: math-verify is missing, or the memory is too small.
    """

    def check(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """One outcome a pair (answer, gold), in their order. A pair that occurs twice is compared once.

        Raises:
          ConfigError: no worker can be started.
          RuntimeError: the verifier is closed.
        """
        return [outcome for outcome, _ in self.explain(pairs)]

    def explain(self, pairs: Sequence[Pair]) -> list[tuple[Outcome, str]]:
        """(outcome, what it rests on, in words) of each pair (answer, gold).

        Raises: as `check`.
        """
        outcomes: dict[Pair, tuple[Outcome, str]] = {}
        open_pairs: dict[Pair, Pair] = {}  # pair -> what to ask a worker about
        counts: Counter[str] = Counter(checked=len(pairs))
        for pair in pairs:
            if pair in outcomes or pair in open_pairs:
                counts["cached"] += 1
                continue
            known = answers.quick(*pair)
            if known is None and any(map(precheck.intractable, pair)):
                counts["refused"] += 1
                outcomes[pair] = UNSCORABLE, TOO_MUCH
                continue
            found = precheck.by_text(*pair) if known is None else known
            if isinstance(found, bool):
                counts["quick"] += 1
                outcomes[pair] = RIGHT if found else WRONG, BY_TEXT
            else:
                open_pairs[pair] = found
        counts["cached"] += len(open_pairs) - len(set(open_pairs.values()))
        with self._lock:
            self._counts.update(counts)
        compared = self._compare(set(open_pairs.values())) if open_pairs else {}
        for pair, asked in open_pairs.items():
            found = compared[asked]
            by_value = BY_VALUE if found >= 0 else LOST
            outcomes[pair] = precheck.as_text(*asked) if found == UNREAD else (Outcome(found), by_value)
        return [outcomes[pair] for pair in pairs]

    def comparable(self, golds: Sequence[str]) -> list[bool]:
        """Of each gold, whether answers can be compared with it by value; with the others they are as text.

        Raises: as `check`.
        """
        asked = {}  # gold -> itself as a pair, where numbers and choices cannot tell
        for gold in golds:
            if answers.exact(gold) or precheck.intractable(gold):
                continue
            text = notation.rewrite(gold)
            if not answers.exact(text):
                asked[gold] = text, text
        found = self._compare(set(asked.values())) if asked else {}
        return [found[asked[gold]] != UNREAD if gold in asked else not precheck.intractable(gold) for gold in golds]

# SPDX-License-Identifier: Apache-2.0
"""What T1's authors published as numbers: the lines of Figure 1, and of accuracy over RL by responses per prompt.

... -> evaluate -> **report**: drawn beside ours (curves.py), judged by the same functions (shapes.py), and the effects
that the seeds of a study should be able to tell apart (claims.py). All values are shares, of other problems than ours.
Source: SCALING: inference scaling on AIME 2024, read off the authors' SVG (+-0.1 points) [data]; RESPONSES: accuracy on
Omni-MATH-500, from the authors' CSV in THUDM/TreeRL, by its end points of the 14B model [data].
"""

from __future__ import annotations


def _shares(*percent: float) -> tuple[float, ...]:
    return tuple(value / 100 for value in percent)


BUDGETS = (1024, 2048, 4096, 8192, 16384)  # thinking tokens
SCALING = {  # share of RL -> accuracy at each budget
    0.0: _shares(21.3, 24.3, 23.8, 23.8, 24.1),
    0.3: _shares(30.2, 31.0, 32.6, 32.6, 32.6),
    0.6: _shares(29.4, 37.4, 43.0, 45.3, 45.4),
    0.9: _shares(31.1, 38.4, 44.1, 49.3, 50.3),
    1.0: _shares(30.5, 39.7, 44.3, 50.6, 52.6),
}
STEPS = (0, 100, 200, 260)  # of RL
RESPONSES = {  # per prompt, the paper's K -> accuracy at each step
    4: _shares(28.2, 30.8, 31.0, 31.8),
    16: _shares(28.2, 33.2, 35.0, 35.8),
    64: _shares(28.2, 35.8, 37.0, 39.4),
}

# SPDX-License-Identifier: Apache-2.0
"""Words that show what running text does: lists of English phrases, and of the Chinese that Qwen mixes in.

Source: T1 (arXiv 2501.11651) section 3 counts such words: "wait", "perhaps", "alternate".
Deliberately not here: what a response does (prose.py).
"""

from __future__ import annotations

import re

from t1jax.rewards import answers

# English phrases are regular expressions, found as whole words in any case; Chinese ones are found anywhere.
REFLECTION = (
    "wait", "hmm+", "hold on", "let me (?:re-?think|reconsider|re-?examine|re-?read|think again)",
    "on second thoughts?", "perhaps", "maybe",
)  # fmt: skip
REFLECTION_ZH = ("等等", "等一下", "也许", "或许", "让我想想", "再想想")
BACKTRACK = (
    "alternatively", "(?:another|an alternate|an alternative|a different) (?:way|approach|method|idea|path)",
    "start (?:over|again|from scratch)", "(?:that|this|it)(?:'s| is| was) (?:wrong|incorrect|not right|not correct)",
    "(?:that|this) (?:doesn't|does not|can't|cannot|won't) (?:work|be right)",
    "(?:let me|let's|i(?:'ll| should)) go back",
    "try again", "try (?:something else|another)", "scratch that", "i made (?:a|an) (?:mistake|error)",
)  # fmt: skip
BACKTRACK_ZH = ("换个思路", "换一种", "换种方法", "另一种方法", "重新来", "重新计算", "不对", "错了")
VERIFICATION = (
    "(?:let me|let's|to|i(?:'ll| will)|we can) (?:check|verify|confirm|double[- ]check)", "verifying", "verification",
    "double[- ]check(?:ing)?", "sanity check", "check(?:ing)? (?:the|this|that|my|our) (?:answer|result|work|solution)",
    "(?:substitut(?:e|ing)|plug(?:ging)?) (?:it |this |that |them |these )?back",
)  # fmt: skip
VERIFICATION_ZH = ("验证", "检验", "验算", "检查一下", "代入检")
GIVING_UP = (
    "(?:i|i'll|i'll have to|i have to|let me) give up", "i(?:'m| am) (?:stuck|just guessing)",
    "(?:i(?:'ll| will)|let me|i have to|i'll just) guess", "(?:cannot|can't|unable to) (?:solve|find|determine|figure)",
)  # fmt: skip
GIVING_UP_ZH = ("放弃", "无法确定", "无法求解", "猜一个")
KINDS = {
    "reflection": (REFLECTION, REFLECTION_ZH),
    "backtrack": (BACKTRACK, BACKTRACK_ZH),
    "verification": (VERIFICATION, VERIFICATION_ZH),
    "giving up": (GIVING_UP, GIVING_UP_ZH),
}
WORDS = {
    kind: re.compile(
        rf"(?<!\w)(?:{'|'.join(english)})(?!\w)".replace("'", "['’]") + f"|{'|'.join(chinese)}", re.IGNORECASE
    )
    for kind, (english, chinese) in KINDS.items()
}


def opening(text: str) -> str:
    """How a step begins: the phrase of a list if it begins with one, else its first two words; in lower case."""
    text = text.lstrip(" \n\t*#>-,.")[:200]
    for words in WORDS.values():
        if match := words.match(text):
            return match[0].lower()
    return " ".join(re.findall(r"[\w'’]+", text)[:2]).lower()


def marks(text: str) -> list[tuple[int, int, str]]:
    """(start, end, kind) of each phrase and of each box, in order; of overlapping ones the first."""
    found = [(*match.span(), kind.split()[0]) for kind, words in WORDS.items() for match in words.finditer(text)]
    found += [(start, end, "answer") for start, end, _ in answers.boxes(text)]
    kept, end = list[tuple[int, int, str]](), 0
    for start, stop, kind in sorted(found):
        if start >= end:
            kept.append((start, stop, kind))
            end = stop
    return kept

# SPDX-License-Identifier: Apache-2.0
"""Formulas are drawn by the browser, and no text of a model acts, whatever it makes latex2mathml write."""

from __future__ import annotations

import random
import re

import pytest
from made_up import Reader

from t1jax.reports import formulas
from t1jax.reports.formulas import formula, prose
from t1jax.reports.transcript import question, side_by_side

HALF = "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>"


def test_formulas_and_boxes_are_drawn_and_money_is_not():
    shown = prose(
        "So \\(\\frac{1}{2}\\), then\n\\[x^2 = \\boxed{4}\\]\nfor $y_1$; it costs $5 and $7: \\boxed{\\frac{1}{2}}"
    )
    assert f'<math display="inline"><mrow>{HALF}</mrow></math>, then' in shown
    assert '<math display="block"><mrow><msup><mi>x</mi><mn>2</mn></msup><mo>=</mo><mrow class="mark box">' in shown
    assert "<msub><mi>y</mi><mn>1</mn></msub></mrow></math>; it costs $5 and $7: " in shown
    assert shown.endswith(f'<span class="mark box"><math display="inline"><mrow>{HALF}</mrow></math></span>')


def test_aligned_lines_become_a_table():
    assert formula("\\begin{aligned} x &= 1 \\\\ y &= 2 \\end{aligned}").count("<mtr>") == 2


@pytest.mark.parametrize(
    "text",
    [
        "\\(\\text{<img src=x onerror=alert(1)>}\\)",
        "\\boxed{\\text{<script>alert(1)</script>}}",
        "\\(\\unknown{x}\\)",
        "\\(\\frac{1\\)",
        "\\(" + "{" * 31 + "}" * 31 + "\\)",
        "\\(" + "x" * 601 + "\\)",
        "\\(a\u202eb\\)",
        "put it within \\boxed{}.",
        "a < b & <b>c</b> \\boxed{<i>}",
    ],
)
def test_what_cannot_be_drawn_is_shown_as_it_was_written(text):
    read = Reader(prose(text))
    assert {name for name, _ in read.tags} <= {"span"}
    written = re.sub(r"\\boxed\{(.*)\}$", r"\1", text).replace("\u202e", "⟨U+202E⟩")
    assert read.text == written


@pytest.mark.parametrize(
    "latex", ["\\href{javascript:alert(1)}{x}", "\\style{background:url(//a.b)}{x}", "\\class{answer}{x}"]
)
def test_links_and_styles_are_dropped(latex):
    assert formula(latex).replace('<math display="inline">', "").count("=") == 0


def test_random_commands_give_elements_that_draw_or_nothing():
    rng, drawn = random.Random(0), 0
    pieces = ["\\frac", "{", "}", "^", "_", "\\sqrt", "&", "\\\\", "x", "1", "\\left", "\\right", "(", ")", "<b>",
              "\\text", "\\begin{", "\\end{", "matrix}", "\\limits", "\\color{red}", "\\operatorname", "#"]  # fmt: skip
    for _ in range(500):
        found = formula("".join(rng.choice(pieces) for _ in range(rng.randint(1, 20))))
        drawn += found is not None
        read = Reader(found or "")
        assert {name for name, _ in read.tags} <= formulas.DRAWS
        assert {name for _, a in read.tags for name in a} <= formulas.KEPT | {"class"}
    assert drawn > 20


CHATS = {
    "qwen": "<|im_start|>system\nBe brief.<|im_end|>\n"
    "<|im_start|>user\nWhat is \\(2^3\\)?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "llama": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nWhat is \\(2^3\\)?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<think>\n",
    "glm": "[gMASK]<sop><|system|>\nBe brief.<|user|>\nWhat is \\(2^3\\)?<|assistant|>\n<think>\n",
}  # fmt: skip


@pytest.mark.parametrize("name", CHATS)
def test_a_prompt_is_shown_as_a_chat(name):
    shown = question(CHATS[name])
    assert "&lt;|" not in shown and "header" not in shown
    assert '<div class="ask">What is <math' in shown
    assert '<span class="tag">system</span> Be brief.' in shown and "begun</span> &lt;think&gt;" in shown


def test_attempts_are_counted_only_where_responses_have_them():
    def sample(stage, response):
        return {"stage": stage, "prompt": "What is 1+1?", "response": response, "correct": True, "gold": "2"}

    prose_only = Reader(side_by_side([sample("sft", "It is 2."), sample("rl", "So \\boxed{2}.")])).text
    assert "attempt" not in prose_only and "too small" not in prose_only
    steps = Reader(side_by_side([sample("sft", "It is 2."), sample("rl", "1+1=2, need 2: yes\n\\boxed{2}")])).text
    assert "an attempt, counted" in steps and "0 attempts" in steps and "1 attempt" in steps

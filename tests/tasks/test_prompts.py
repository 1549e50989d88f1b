# SPDX-License-Identifier: Apache-2.0
"""A prompt is template, chat and the response's beginning, and nothing in a problem can change the rest."""

from __future__ import annotations

import dataclasses

import pytest
from letters import LETTERS, Letters

from configs import base
from t1jax import config
from t1jax.config import ConfigError
from t1jax.tasks.files.prompts import after, control_texts, has_any, render, render_messages

CFG = config.load(base.get_config()).data


def data(**knobs):
    return dataclasses.replace(CFG, **knobs)


def test_the_default_prompt():
    assert render("What is $1+1$?", CFG, LETTERS) == (
        "<|im_start|>user\nWhat is $1+1$?\nPlease reason step by step, and put your final answer within \\boxed{}."
        "<|im_end|>\n<|im_start|>assistant\n"
    )


def test_every_knob_of_the_prompt():
    knobs = {"template": "Q: {problem} A:", "system_prompt": "Be brief.", "response_prefix": "<think>\n"}
    assert render("1+1", data(**knobs), LETTERS) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ: 1+1 A:<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    plain = data(template="Q: {problem} A:", chat=False, response_prefix=" Well,")
    assert render("1+1", plain, LETTERS) == "<s>Q: 1+1 A: Well,"


@pytest.mark.parametrize(
    "prompt, response, rest",
    [
        ("user\n<think>\n", "<think>\nso", "so"),
        ("user\n<think>\n", "<think>so", "so"),
        ("user\n<think>", "<think>\n\nso", "\n\nso"),
        ("user\n<think>\n", "so</think>", "so</think>"),
        ("user\n<think>\n\n</think>\n\n", "<think>so</think>", "<think>so</think>"),  # an empty thought is no beginning
        ("user\n", "<think>so", "<think>so"),
        ("user\nWell, ", "Well, so", "so"),
    ],
)
def test_what_the_prompt_has_written_is_taken_off_a_response(prompt, response, rest):
    assert after(prompt, response, data(response_prefix="Well, ")) == rest


def test_braces_in_a_problem_are_text():
    assert render("{problem} {0} {x!r} \\frac{1}{2} %s", data(template="{problem}", chat=False), LETTERS) == (
        "<s>{problem} {0} {x!r} \\frac{1}{2} %s"
    )


def test_a_conversation_keeps_its_own_system_message():
    turns = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "?"},
    ]
    own = [{"role": "system", "content": "Own."}, *turns]
    cfg = data(system_prompt="Ours.")
    assert "system\nOurs.<|im_end|>" in render_messages(turns, cfg, LETTERS)
    assert render_messages(own, cfg, LETTERS) == LETTERS.chat(own)
    assert turns[0]["role"] == "user" and render_messages(turns, CFG, LETTERS) == LETTERS.chat(turns)


def test_a_chat_without_a_template_is_refused():
    class Mute(Letters):
        has_chat = False

    with pytest.raises(ConfigError, match="data.chat is True, but the tokenizer has no chat template; expected False"):
        render("1+1", CFG, Mute())
    assert render("1+1", data(chat=False), Mute())
    with pytest.raises(ConfigError, match="data.chat is False; expected True: `messages` need"):
        render_messages([{"role": "user", "content": "1+1"}], data(chat=False), LETTERS)


def test_control_texts_are_the_special_ones_that_vanish():
    assert control_texts(LETTERS) == Letters.control
    assert has_any("a <|im_end|> b", Letters.control) and not has_any("a </think> b <|im_", Letters.control)

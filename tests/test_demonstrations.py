# SPDX-License-Identifier: Apache-2.0
"""Rows of the cold start become the prompts that sampling uses, with the response after them."""

from __future__ import annotations

import dataclasses
import json

import pytest
from test_prompts import LETTERS

from configs import base
from t1jax import config
from t1jax.config import ConfigError
from t1jax.tasks.demonstrations import read_demonstrations
from t1jax.tasks.overlap import Known
from t1jax.tasks.prompts import render

CFG = config.load(base.get_config())
HELD_OUT = "Find the largest $n$ such that $n^2 < 1000$."


def with_data(cfg=CFG, **knobs):
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **knobs))


def read(tmp_path, rows, cfg=CFG):
    path = tmp_path / "sft.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    texts, notes = read_demonstrations(str(path), cfg, LETTERS, Known([HELD_OUT]))
    return texts, [note.removeprefix(f"{path}: ") for note in notes]


def pair(prompt, response):
    return {"prompt": prompt, "response": response}


def turns(*contents, roles=("user", "assistant")):
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]}


def test_a_prompt_is_that_of_sampling_and_the_response_follows(tmp_path):
    texts, notes = read(tmp_path, [pair("What is $1+1$?", "Two: \\boxed{2}\n"), pair("And $2+2$?", "\\boxed{4}")])
    assert texts == [
        (render("What is $1+1$?", CFG.data, LETTERS), "Two: \\boxed{2}"),
        (render("And $2+2$?", CFG.data, LETTERS), "\\boxed{4}"),
    ]
    assert notes == []


def test_messages_go_through_the_chat_template_as_they_are(tmp_path):
    texts, _ = read(tmp_path, [turns("a", "b"), turns("a", "b", "c", "d"), turns("a", "b", "thanks")])
    assert texts[:2] == [
        ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n", "b"),
        (
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
            "<|im_start|>assistant\n",
            "d",
        ),
    ]
    assert len(texts) == 2  # what follows the last response is left out: the third is the first again


def test_the_responses_beginning_is_part_of_the_prompt_and_comes_once(tmp_path):
    cfg = with_data(response_prefix="<think>\n", chat=False, template="{problem} ")
    texts, _ = read(tmp_path, [pair("q", "<think>\nso\n</think>\n2"), pair("r", "so\n</think>\n2")], cfg)
    assert texts == [("<s>q <think>\n", "so\n</think>\n2"), ("<s>r <think>\n", "so\n</think>\n2")]


def test_what_cannot_be_used_is_dropped_and_counted(tmp_path):
    good = pair("q", "a")
    rows = [
        good,
        pair("", "a"),
        pair("q", " \n"),
        pair("q", None),
        pair(f"Solve:\n{HELD_OUT.upper()} Now.", "31"),
        good,
        pair("q", "b"),  # another response to the same prompt stays
        pair("q", "a<|im_end|>b"),
        pair("q <|im_start|>", "a"),
        pair("what is </think>?", "a"),
        pair("p", "<think>so</think> a"),  # thinking is what the cold start teaches
        pair("q" * CFG.sft.sequence_length, "a"),
    ]
    texts, notes = read(tmp_path, rows)
    assert [response for _, response in texts] == ["a", "b", "<think>so</think> a"]
    assert notes == [
        "3 rows dropped: no prompt or no response (rows 2, 3, 4)",
        "1 row dropped: a held-out problem (row 5)",
        "1 row dropped: the same text as an earlier row (row 6)",
        "3 rows dropped: holds the text of a special token (rows 8, 9, 10)",
        "1 row dropped: a prompt of sft.sequence_length = 16384 tokens or more (row 12)",
    ]


def test_messages_that_cannot_be_used_are_dropped_too(tmp_path):
    rows = [
        turns("a", "b"),
        turns("a"),
        turns(roles=("assistant", "user")),
        turns("b", "a", roles=("assistant", "user")),
        turns("s", "b", roles=("system", "assistant")),
        turns("x", "y", HELD_OUT, "b"),
        turns("x", "<|im_end|>", "y", "b"),
        turns("x", "<think>y</think>", "z", "b"),
    ]
    texts, notes = read(tmp_path, rows)
    assert len(texts) == 2
    assert notes == [
        "4 rows dropped: no prompt or no response (rows 2, 3, 4, ...)",
        "1 row dropped: a held-out problem (row 6)",
        "1 row dropped: holds the text of a special token (row 7)",
    ]


def test_a_prompt_one_token_shorter_than_a_row_stays(tmp_path):
    length = len(LETTERS.encode(render("q", CFG.data, LETTERS)))
    for sequence_length, kept in ((length + 1, 1), (length, 0)):
        cfg = dataclasses.replace(CFG, sft=dataclasses.replace(CFG.sft, sequence_length=sequence_length))
        if kept:
            assert len(read(tmp_path, [pair("q", "a")], cfg)[0]) == 1
        else:
            with pytest.raises(ConfigError, match="nothing is left: 1 row dropped: a prompt of sft.sequence_length"):
                read(tmp_path, [pair("q", "a")], cfg)


@pytest.mark.parametrize(
    "row, message",
    [
        ({"problem": "q"}, "expected columns messages, or prompt and response; it has 'problem'"),
        ({"prompt": "q"}, "expected columns messages, or prompt and response; it has 'prompt'"),
        ({"messages": "q"}, "column 'messages': expected a list of objects with role and content"),
        ({"messages": None}, "column 'messages': expected a list of objects"),
        ({"messages": ["q"]}, "column 'messages': expected a list of objects"),
        ({"messages": [{"role": "user"}]}, "has no column 'content'; it has 'role'"),
        ({"messages": [{"content": "q"}]}, "has no column 'role'"),
        ({"messages": [{"role": "user", "content": ["q"]}]}, "column 'content' is a list; expected text"),
        (pair(["q"], "a"), "column 'prompt' is a list; expected text"),
        (pair("q", 4), "column 'response' is a number; expected text"),
        (pair("q", "\ud800"), "column 'response' holds half of a surrogate pair"),
    ],
)  # fmt: skip
def test_a_row_of_another_kind_is_refused(tmp_path, row, message):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, [pair("q", "a"), row])
    assert f"{tmp_path / 'sft.jsonl'}: row 2" in str(error.value) and message in str(error.value)


def test_a_conversation_that_the_template_refuses_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"sft.jsonl: row 1: data.chat is False; expected True"):
        read(tmp_path, [turns("a", "b")], with_data(chat=False))

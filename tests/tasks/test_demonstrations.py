# SPDX-License-Identifier: Apache-2.0
"""Rows of the cold start become the prompts that sampling uses, with the response after them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import hf_folders
import pytest
from letters import LETTERS

from configs import base
from t1jax import config
from t1jax.config import ConfigError
from t1jax.tasks.files.demonstrations import read_demonstrations
from t1jax.tasks.files.overlap import Known
from t1jax.tasks.files.prompts import render
from t1jax.text.huggingface import HFTokenizer

CFG = config.load(base.get_config())
HELD_OUT = "Find the largest $n$ such that $n^2 < 1000$."


def with_data(cfg=CFG, **knobs):
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **knobs))


def read(tmp_path, rows, cfg=CFG, tokenizer=LETTERS):
    path = tmp_path / "sft.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    texts, notes = read_demonstrations(str(path), cfg, tokenizer, Known([HELD_OUT]))
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


@pytest.mark.parametrize("empty", [None, "", []])
def test_columns_that_a_row_leaves_empty_are_passed_over(tmp_path, empty):
    unused = dict.fromkeys(("messages", "conversations", "prompt", "problem", "response"), empty)
    rows = [
        unused | pair("p", "1"),
        unused | {"question": "q", "output": "2"},
        unused | turns("r", "3"),
        unused | {"conversations": [{"from": "human", "value": "s"}, {"from": "gpt", "value": "4"}]},
        unused,
    ]
    texts, notes = read(tmp_path, rows)
    assert [response for _, response in texts] == ["1", "2", "3", "4"]
    assert [text in prompt for text, (prompt, _) in zip("pqrs", texts, strict=True)] == [True] * 4
    assert notes == ["1 row dropped: no prompt or no response (row 5)"]


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
        ({"messages": [{"role": "user", "content": ["q", "r"]}]}, "column 'content' is a list; expected text"),
        (pair(["q", "r"], "a"), "column 'prompt': expected a list of objects with role and content"),
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


# thinking


def chat_of(tmp_path, template):
    return HFTokenizer(hf_folders.write(tmp_path / "model", hf_folders.byte_level(), chat_template=template))


THOUGHT = "<think>\nadd them\n</think>\n\n\\boxed{5}"


@pytest.mark.parametrize("prefix", ["", "<think>\n", "<think>"])
@pytest.mark.parametrize(
    "row", [turns("2+3?", THOUGHT), pair("2+3?", THOUGHT), pair("2+3?", THOUGHT.replace("<think>\n", "<think> "))]
)
def test_a_thought_begins_once_whoever_writes_its_beginning(tmp_path, row, prefix):
    """The template, data.response_prefix, the response: one of them, two, or all three."""
    for template in (hf_folders.QWEN, hf_folders.THINKING):
        (((prompt, response),), _) = read(
            tmp_path, [row], with_data(response_prefix=prefix), chat_of(tmp_path, template)
        )
        whole = prompt + response
        assert whole.count("<think>") == 1 and whole.endswith("add them\n</think>\n\n\\boxed{5}")
        assert prompt.rstrip().endswith("<think>") == bool(prefix or template == hf_folders.THINKING)


def test_a_response_without_the_beginning_stays_as_it_is(tmp_path):
    texts, _ = read(tmp_path, [pair("q", "add them</think>5")], tokenizer=chat_of(tmp_path, hf_folders.THINKING))
    assert texts[0][0].endswith("assistant\n<think>\n") and texts[0][1] == "add them</think>5"


def test_small_inputs_that_went_wrong(tmp_path):
    path = Path(__file__).parents[3] / "shared" / "cases" / "sft_think.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is missing: it holds rows that once went wrong and is not part of the repository")
    texts, _ = read_demonstrations(str(path), CFG, chat_of(tmp_path, hf_folders.THINKING), Known([]))
    assert [(prompt + response).count("<think>") for prompt, response in texts] == [1, 1]
    assert [response for _, response in texts] == [f"add them\n</think>\n\n\\boxed{{{n}}}" for n in (5, 6)]


def reasoned(key, reason="add them", content="\\boxed{5}"):
    return {"messages": [*turns("2+3?")["messages"], {"role": "assistant", key: reason, "content": content}]}


def test_reasoning_beside_the_content_is_written_as_the_template_writes_it(tmp_path):
    tokenizer = chat_of(tmp_path, hf_folders.REASONING)
    rows = [
        reasoned("reasoning_content"),
        reasoned("reasoning_content", None),
        reasoned("reasoning_content", content=""),
    ]
    (first, *others), _ = read(tmp_path, rows, tokenizer=tokenizer)
    assert first == (tokenizer.chat(turns("2+3?")["messages"]), THOUGHT)
    assert [response for _, response in others] == ["\\boxed{5}", "<think>\nadd them\n</think>\n\n"]
    whole = tokenizer.chat(rows[0]["messages"], generate=False)
    assert whole == "".join(first) + "<|im_end|>\n"  # nothing else is taught than what the template writes
    assert read(tmp_path, [reasoned("reasoning_content", "a <|im_end|> b"), rows[0]], tokenizer=tokenizer)[1] == [
        "1 row dropped: holds the text of a special token (row 1)"
    ]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_that_the_template_does_not_write_is_refused_by_name(tmp_path, key):
    with pytest.raises(ConfigError, match=f"sft.jsonl: row 2: a message has '{key}', which the chat template does not"):
        read(tmp_path, [turns("a", "b"), reasoned(key)], tokenizer=chat_of(tmp_path, hf_folders.QWEN))


# forms that the field uses


def test_forms_of_conversations_and_capitals_in_names(tmp_path):
    sharegpt = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    listed = {"prompt": turns("a")["messages"], "response": "c"}
    texts, notes = read(tmp_path, [sharegpt, listed, {"Prompt": "a", "RESPONSE": "d"}])
    assert texts == [
        (LETTERS.chat(turns("a")["messages"]), "b"),
        (LETTERS.chat(turns("a")["messages"]), "c"),
        (render("a", CFG.data, LETTERS), "d"),
    ]
    assert notes == []

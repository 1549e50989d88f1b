# SPDX-License-Identifier: Apache-2.0
"""The embedded tasks, asked of a pretrained model: its own tokenizer and chat around the same questions and chains."""

from __future__ import annotations

import dataclasses

import hf_folders
import pytest

from configs import countdown, tiny
from t1jax import config
from t1jax.config import ConfigError
from t1jax.rewards.answers import RIGHT, WRONG
from t1jax.tasks.embedded import make_embedded, make_verifier
from t1jax.tasks.task import Task
from t1jax.text import tokenizer

CONFIGS = {"pairs": tiny, "countdown": countdown}


@pytest.fixture(scope="module", params=CONFIGS)
def asked(request, tmp_path_factory):
    """(the task as it is, the same in chat, its tokenizer, the config)."""
    cfg = config.load(CONFIGS[request.param].get_config())
    data = dataclasses.replace(cfg.data, response_prefix="<think>\n", system_prompt="Count well.")
    cfg = dataclasses.replace(cfg, data=data)
    folder = hf_folders.write(
        tmp_path_factory.mktemp("chat") / "hf", hf_folders.byte_level(think=False), chat_template=hf_folders.QWEN
    )
    tokens = tokenizer.load(folder)
    with make_verifier(cfg) as verifier:
        plain, _ = make_embedded(cfg, None, verifier)
        chat, same = make_embedded(cfg, tokens, verifier)
    assert same is tokens
    return plain, chat, tokens, cfg


def test_the_question_is_the_tasks_own_in_template_and_chat(asked):
    plain, chat, tokens, cfg = asked
    problem = chat.problem(3, "held_out")
    assert problem == plain.problem(3, "held_out")
    question = plain.prompt(problem).removesuffix("\n<think>\n")
    assert question.endswith(".") and "<think>" not in question
    said = cfg.data.template.replace("{problem}", question)
    expected = f"<|im_start|>system\nCount well.<|im_end|>\n<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
    assert chat.prompt(problem) == f"{expected}<think>\n"
    assert chat.cut_answer_prefix == cfg.scaling.answer_prefix


def test_a_demonstration_is_the_tasks_chain_and_is_judged_and_read_like_it(asked):
    plain, chat, tokens, cfg = asked
    outcomes = set()
    for index in range(40):
        (_, chain), (prompt, response) = plain.demonstration(index, 7), chat.demonstration(index, 7)
        problem = chat.problem(index, "train")
        assert response == chain and prompt == chat.prompt(problem)
        assert chat.score([problem], [response]) == plain.score([problem], [chain])
        assert chat.analyse(problem, response) == plain.analyse(problem, chain)
        assert chat.analyse(problem, f"<think>\n{response}") == plain.analyse(problem, chain)
        outcomes.update(chat.score([problem], [response]))
        assert tokens.decode(tokens.encode(response)) == response
    assert outcomes == {RIGHT, WRONG}


def test_without_a_prefix_the_response_begins_the_thinking_itself(asked):
    plain, _, tokens, cfg = asked
    bare = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, response_prefix=""))
    with make_verifier(bare) as verifier:
        chat: Task = make_embedded(bare, tokens, verifier)[0]
    prompt, response = chat.demonstration(0, 0)
    assert prompt.endswith("assistant\n") and response == f"<think>\n{plain.demonstration(0, 0)[1]}"


def test_the_end_of_the_thinking_is_found_in_tokens_that_split_it(asked):
    _, chat, tokens, _ = asked
    _, response = chat.demonstration(1, 0)
    ids = tokens.encode(response)
    assert len(tokens.encode("</think>")) > 1
    thought = tokens.decode(ids[: chat.thought_end(ids, tokens)])
    assert thought == response.partition("</think>")[0]
    assert chat.thought_end(tokens.encode("1+2=3"), tokens) is None
    assert chat.forbid_giving_up(tokens) is None


def test_chat_needs_a_template_of_the_tokenizer(asked, tmp_path):
    _, _, _, cfg = asked
    bare = tokenizer.load(hf_folders.write(tmp_path / "hf", hf_folders.byte_level()))
    with make_verifier(cfg) as verifier:
        chat, _ = make_embedded(cfg, bare, verifier)
        with pytest.raises(ConfigError, match=r"data\.chat is True, but the tokenizer has no chat template"):
            chat.prompt(chat.problem(0, "train"))

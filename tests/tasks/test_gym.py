# SPDX-License-Identifier: Apache-2.0
"""Datasets of reasoning-gym by name: the same items everywhere, judged by their own verifiers, which cannot do harm."""

from __future__ import annotations

import dataclasses

import hf_folders
import pytest
import small

from configs import gym as gym_config
from t1jax import config
from t1jax.config import ConfigError
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG
from t1jax.tasks import embedded
from t1jax.tasks.embedded import make_embedded, make_verifier
from t1jax.tasks.files import prompts
from t1jax.tasks.gym import task as gym
from t1jax.text import tokenizer
from t1jax.text.huggingface import HFTokenizer

CFG = small.make_config(
    task__name="gym",
    task__gym_dataset="chain_sum",
    task__gym_options=("max_terms=3", "max_digits=2"),
    model__vocab_size=140,
    data__prompt_length=40,
    tokenizer__corpus_texts=200,
    verifier__workers=1,
    verifier__deadline=5.0,
)


def with_task(cfg, **knobs):
    return dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, **knobs))


@pytest.fixture(scope="module")
def made():
    """(task, tokenizer) of chain_sum."""
    with make_verifier(CFG) as verifier:
        yield make_embedded(CFG, None, verifier)


def test_no_question_is_in_both_splits_and_all_are_usable(made):
    task, tokens = made
    questions = {
        split: [task.problem(i, split).question for i in range(n)] for split, n in (("train", 800), ("held_out", 40))
    }
    assert len(set(questions["train"])) > 600 and not set(questions["train"]) & set(questions["held_out"])
    for split, asked in questions.items():
        for index, question in enumerate(asked[:40]):
            problem = task.problem(index, split)
            assert (problem.index, problem.split, problem.question) == (index, split, question)
            assert len(tokens.encode(task.prompt(problem))) <= CFG.data.prompt_length
    halves = CFG.task.gym_items // 2
    assert task.problem(3, "train").item < halves <= task.problem(3, "held_out").item


def test_a_demonstration_is_a_boxed_answer_and_is_right(made):
    task, tokens = made
    for index in range(20):
        prompt, response = task.demonstration(index, 0)
        problem = task.problem(index, "train")
        assert prompt == f"{problem.question}\n<think>\n" == embedded.ask(problem.question)
        assert response == f"</think>\n\\boxed{{{problem.gold}}}"
        assert task.score([problem], [response]) == [RIGHT]
        assert tokens.decode(tokens.encode(prompt + response)) == prompt + response
    assert task.size("train") is task.num_demonstrations() is task.analyse(problem, response) is None
    assert task.thought_end(tokens.encode("</think>\n"), tokens) == 0


def test_only_the_whole_score_is_right(made):
    task, _ = made
    problem = next(p for p in (task.problem(i, "train") for i in range(100)) if p.gold.isdigit())
    texts = [problem.gold, f"0{problem.gold}.0", f" {problem.gold} ", f"{problem.gold} apples", "", "x", "9" * 5000]
    outcomes = task.score([problem] * 9, [*(f"\\boxed{{{text}}}" for text in texts), problem.gold, "\\boxed{1"])
    assert outcomes == [RIGHT, RIGHT, RIGHT, WRONG, WRONG, WRONG, UNSCORABLE, WRONG, WRONG]
    assert task.score([], []) == []


def test_each_response_is_judged_by_its_own_problem(made):
    task, _ = made
    problems = [task.problem(i, "train") for i in range(30)]
    shifted = [f"\\boxed{{{p.gold}}}" for p in problems[1:] + problems[:1]]
    expected = [
        RIGHT if a.gold == b.gold else WRONG for a, b in zip(problems, problems[1:] + problems[:1], strict=True)
    ]
    assert task.score(problems, shifted) == expected and WRONG in expected


def test_items_do_not_depend_on_the_process():
    """Of a dataset that iterates over sets of texts: under another hash seed its items are others."""
    cfg = with_task(CFG, gym_dataset="ransom_note", gym_options=())
    found = []
    for _ in range(2):
        with make_verifier(cfg) as verifier:
            found.append(verifier.ask([("item", str(i)) for i in range(5)]))
    assert found[0] == found[1] and len({item["question"] for item in found[0]}) == 5


def test_an_answer_that_is_a_program_does_nothing(tmp_path):
    """spiral_matrix gives answers to eval. Whoever tries to write, to start a program, or to compute for ever, is
    unscorable; the next answer is judged as ever."""
    cfg = with_task(CFG, gym_dataset="spiral_matrix", gym_options=())
    cfg = dataclasses.replace(cfg, verifier=dataclasses.replace(cfg.verifier, deadline=1.0))
    mark = tmp_path / "mark"
    hostile = [
        f"[open('{mark}', 'w')]",
        f"[__import__('os').system('touch {mark}')]",
        "[9 ** 9 ** 9]",
    ]
    with make_verifier(cfg) as verifier:
        said = [verifier.ask([("score 3", text)])[0] for text in hostile]
        (item,) = verifier.ask([("item", "3")])
        assert verifier.ask([("score 3", item["answer"]), ("score 3", "1")]) == [1, 0]
        assert verifier.counts()["started"] >= len(hostile)
    assert set(said) == {UNSCORABLE} and not mark.exists()


REFUSED = [
    ({"gym_dataset": "chain_sums"}, "task.gym_dataset is chain_sums; expected a dataset of reasoning-gym; did you"),
    ({"gym_options": ("max_term=3",)}, "task.gym_options sets max_term; expected options of chain_sum: min_terms,"),
    ({"gym_options": ("max_terms=0",)}, "task.gym_dataset is chain_sum, which refuses task.gym_options or task.gym_it"),
    ({"gym_options": ("max_terms",)}, "task.gym_options has 'max_terms'; expected name=value"),
    ({"gym_options": ("seed=3",)}, "task.gym_options has 'seed=3'; expected name=value, of any name but seed and size"),
]  # fmt: skip


@pytest.mark.parametrize(("knobs", "says"), REFUSED, ids=[str(knobs) for knobs, _ in REFUSED])
def test_a_mistake_is_one_line(knobs, says):
    cfg = with_task(CFG, **knobs)
    with pytest.raises(ConfigError) as error:
        with make_verifier(cfg) as verifier:
            make_embedded(cfg, None, verifier)
    assert str(error.value).startswith(says) and "\n" not in str(error.value), error.value


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "reasoning_gym.py").write_text("raise ImportError('No module named reasoning_gym')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^task.name is gym, which needs a package .*; run: pip install '"):
        with make_verifier(CFG) as verifier:
            make_embedded(CFG, None, verifier)


def test_what_cannot_be_asked_is_left_out_and_counted(made):
    """Half of the prompts are too long; a tokenizer without a minus cannot write one."""
    task, tokens = made
    lengths = sorted(len(tokens.encode(task.prompt(task.problem(i, "train")))) for i in range(51))
    assert lengths[0] <= lengths[25] < lengths[-1]
    cfg = dataclasses.replace(CFG, data=dataclasses.replace(CFG.data, prompt_length=lengths[25]))
    short = gym.GymTask(cfg, task._gym, tokens)
    assert all(len(tokens.encode(short.prompt(short.problem(i, "train")))) <= lengths[25] for i in range(50))
    (note,) = short.notes
    assert f"are dropped: a prompt of more than data.prompt_length = {lengths[25]} tokens" in note
    blind = tokenizer.SentencePieceTokenizer(
        tokenizer.train_sentencepiece([t.replace("-", "") for t in task.corpus(50, 0)], 110, task.symbols())
    )
    wide = dataclasses.replace(CFG, data=dataclasses.replace(CFG.data, prompt_length=200))  # it knows fewer pieces
    assert "-" not in "".join(
        p.question for p in (gym.GymTask(wide, task._gym, blind).problem(i, "train") for i in range(30))
    )
    none = dataclasses.replace(CFG, data=dataclasses.replace(CFG.data, prompt_length=3))
    with pytest.raises(ConfigError, match="none of its first 100 items can be used: a prompt of more than"):
        gym.GymTask(none, task._gym, tokens)


def test_too_few_questions_are_an_end_and_not_a_hang(made):
    task, tokens = made
    cfg = with_task(CFG, gym_items=2)
    few = gym.GymTask(cfg, task._gym, tokens)
    with pytest.raises(ConfigError, match="of 2000 items can be used as a held_out problem; expected more distinct"):
        few.problem(0, "held_out")


def test_a_models_tokenizer_asks_in_template_and_chat(made, tmp_path):
    task, _ = made
    folder = hf_folders.write(tmp_path / "hf", hf_folders.byte_level(), chat_template=hf_folders.QWEN)
    tokens = tokenizer.load(folder)
    assert isinstance(tokens, HFTokenizer)
    data = dataclasses.replace(CFG.data, prompt_length=256, response_prefix="<think>\n")
    cfg = dataclasses.replace(CFG, data=data)
    chat, same = make_embedded(cfg, tokens, task._gym)
    problem = chat.problem(0, "train")
    assert same is tokens and chat.prompt(problem) == prompts.render(problem.question, data, tokens)
    prompt, response = chat.demonstration(0, 0)
    assert prompt.endswith("<think>\n") and response == f"</think>\n\\boxed{{{problem.gold}}}"
    assert chat.cut_answer_prefix == cfg.scaling.answer_prefix


def test_the_config_names_a_dataset_that_exists():
    cfg = config.load(gym_config.get_config())
    with make_verifier(cfg) as verifier:
        gym.refuse(cfg, *verifier.ask([("describe", "")]))

# SPDX-License-Identifier: Apache-2.0
"""Every knob of every config has a typed view, and what cannot work is refused by the knob's name."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from pathlib import Path

import pytest

from configs import base, tiny
from t1jax import checks, config, validation
from t1jax.config import ConfigError
from t1jax.studies import paper

CONFIGS = sorted(path.stem for path in Path(base.__file__).parent.glob("*.py") if path.stem != "__init__")


PINNED = {  # what the expected messages below rely on
    "model__vocab_size": 96,
    "model__hidden_size": 128,
    "model__num_heads": 4,
    "model__num_kv_heads": 2,
    "model__mlp_size": 256,
    "task__min_numbers": 4,
    "task__max_numbers": 8,
    "sft__batch_size": 32,
    "sft__micro_batches": 1,
    "rl__prompts_per_step": 32,
    "rl__responses_per_prompt": 8,
    "rl__micro_batches": 1,
    "eval__batch_size": 256,
}


def changed(**knobs: object) -> config.Config:
    """configs/tiny.py with some knobs set: rl__num_steps=5."""
    tree = config.load(tiny.get_config()).to_dict()
    for name, value in (PINNED | knobs).items():
        section, _, knob = name.rpartition("__")
        (tree[section] if section else tree)[knob] = value
    return config.load(tree)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_of_the_repository_loads_and_is_valid_on_its_slice(name):
    module = importlib.import_module(f"configs.{name}")
    tree = module.get_config()
    chips = re.search(r"Slice: \S+, (\d+) chips", module.__doc__)
    assert tree.is_locked
    cfg = config.load(tree)
    validation.validate(cfg, int(chips[1]) if chips else 1)
    assert config.load(cfg.to_dict()) == cfg
    assert config.load(json.loads(json.dumps(cfg.to_dict()))) == cfg
    assert hash(cfg) == hash(config.load(cfg.to_dict()))


def test_base_explains_each_knob_on_its_line_with_a_tag():
    lines = Path(base.__file__).read_text(encoding="utf-8").splitlines()
    for knob in config.knobs():
        (line,) = [line for line in lines if line.strip().startswith(f"cfg.{knob} = ")]
        assert re.search(r"#.*\w.*\[(paper|kin|ours|hw)\b.*\]", line) or re.search(r"#.*\[(paper|kin|ours|hw)", line), (
            line
        )


def test_the_document_defines_the_tags_that_the_configs_have():
    """And that of the published numbers, which studies are compared with."""
    text = (Path(base.__file__).parents[1] / "docs/method.md").read_text(encoding="utf-8")
    tags = re.findall(r"\[(\w+)\] ", base.__doc__.partition("Tags: ")[2])
    assert re.findall(r"^\* `\[(\w+)\]` ", text, re.MULTILINE) == tags
    assert set(tags) == {"paper", "data", "kin", "ours", "hw"} and "[data]" in paper.__doc__


def test_the_views_hold_the_values_of_the_file():
    cfg = config.load(base.get_config())
    assert cfg.rl.responses_per_prompt == 64 and cfg.rl.learning_rate == 1.5e-6
    assert cfg.model.tie_embeddings is False and cfg.model.compute_dtype == "bfloat16"
    assert cfg.scaling.budgets == (256, 512, 1024, 2048, 4096, 8192, 16384)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.rl.num_steps = 3  # type: ignore[misc]


ENDPOINT = {
    "url": "http://localhost/v1", "model": "m", "key_variable": "", "concurrency": 1, "requests_per_minute": 0,
    "tokens_per_minute": 0, "price_in": 0.0, "price_out": 0.0, "timeout": 60.0, "retries": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("rl.num_stpes", "rl.num_steps"),
        ("num_steps", "num_steps"),
        ("model.num_head", "model.num_heads"),
        ("sead", "seed"),
    ],
)
def test_an_unknown_knob_is_named_with_the_nearest(name, near):
    with pytest.raises(ConfigError, match=re.escape(f"unknown knob {name}; did you mean ")) as error:
        raise config.unknown_knob(name)
    assert near in str(error.value).partition("did you mean")[2]


def test_a_knob_like_no_other_points_to_the_list():
    assert str(config.unknown_knob("zzz.qqq")) == "unknown knob zzz.qqq; configs/base.py lists them"


def test_a_misspelt_or_missing_knob_in_a_file_is_named():
    tree = config.load(tiny.get_config()).to_dict()
    tree["rl"]["num_stpes"] = tree["rl"].pop("num_steps")
    with pytest.raises(ConfigError, match=r"unknown knob rl\.num_stpes; did you mean rl\.num_steps"):
        config.load(tree)
    del tree["rl"]["num_stpes"], tree["seed"]
    with pytest.raises(ConfigError, match=r"missing knob rl\.num_steps"):
        config.load(tree | {"seed": 0})
    with pytest.raises(ConfigError, match="missing knob seed"):
        config.load(tree)
    with pytest.raises(ConfigError, match="rl is 3; expected a section"):
        config.load(tree | {"seed": 0, "rl": 3})


@pytest.mark.parametrize(
    ("knob", "value", "says"),
    [
        ("rl__num_steps", 5.0, "rl.num_steps is 5.0; expected a whole number"),
        ("rl__num_steps", True, "rl.num_steps is True; expected a whole number"),
        ("rl__temperature", "hot", "rl.temperature is 'hot'; expected a number"),
        ("rl__temperature", float("nan"), "rl.temperature is nan; expected a finite number"),
        ("model__tie_embeddings", 1, "model.tie_embeddings is 1; expected True or False"),
        ("model__remat", None, "model.remat is None; expected text"),
        ("scaling__budgets", 8, "scaling.budgets is 8; expected whole numbers in brackets, like (1, 2, 4)"),
        ("scaling__budgets", (1, 2.5), "scaling.budgets is 2.5; expected a whole number"),
        ("data__weights", (0.5, float("nan")), "data.weights is nan; expected a finite number"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(knob, value, says):
    with pytest.raises(ConfigError) as error:
        changed(**{knob: value})
    assert str(error.value) == says


def test_a_whole_number_may_stand_for_a_number_and_a_list_for_a_tuple():
    cfg = changed(rl__temperature=1, scaling__budgets=[1, 2])
    assert (cfg.rl.temperature, type(cfg.rl.temperature), cfg.scaling.budgets) == (1.0, float, (1, 2))


REFUSED = [
    ({"model__num_heads": 3}, "model.num_heads is 3; expected a multiple of model.num_kv_heads = 2"),
    ({"model__rope_share": 0.3}, "model.rope_share is 0.3; expected a share of model.head_dim that is an even number"),
    ({"model__rope_share": 0.0}, "model.rope_share is 0.0; expected a share of model.head_dim that is an even number"),
    ({"model__head_dim": 31}, "model.head_dim is 31; expected an even number"),
    ({"model__hidden_size": 0}, "model.hidden_size is 0; expected at least 1"),
    ({"model__num_layers": -1}, "model.num_layers is -1; expected at least 1"),
    ({"model__rope_theta": 0.5}, "model.rope_theta is 0.5; expected more than 1"),
    ({"model__norm_eps": 0.0}, "model.norm_eps is 0.0; expected more than 0"),
    ({"model__remat": "ful"}, "model.remat is ful; expected one of none, dots, full; did you mean full?"),
    (
        {"model__attention": "splas"},
        "model.attention is splas; expected one of auto, xla, splash, cudnn, triton; did you mean",
    ),
    ({"model__compute_dtype": "int8"}, "model.compute_dtype is int8; expected one of float32, bfloat16"),
    ({"task__min_numbers": 2}, "task.min_numbers is 2; expected at least 3"),
    ({"task__max_numbers": 3}, "task.max_numbers is 3; expected at least task.min_numbers = 4"),
    ({"reward__function": "x.py"}, "reward.function is 'x.py'; expected correct, or a local FILE.py:NAME"),
    ({"data__weights": (1.0,)}, "data.weights has 1 numbers; expected one for each of the files of data.train, which"),
    (
        {"data__train": "a,b", "data__weights": (1.0,)},
        "data.weights has 1 numbers; expected one for each of the 2 files of data.train, or ()",
    ),
    ({"data__train": "a,b", "data__weights": (1.0, -0.5)}, "data.weights is (1.0, -0.5); expected numbers above 0"),
    ({"data__train": "a,b", "data__weights": (0.0, 0.0)}, "data.weights is (0.0, 0.0); expected numbers above 0"),
    ({"data__train": "a,b", "data__weights": (1e-9, 1.0)}, "data.weights is (1e-09, 1.0); expected numbers above 0, "),
    ({"data__train": "a,b", "data__weights": (1e308, 1e308)}, "data.weights is (1e+308, 1e+308); expected numbers"),
    ({"data__train": "a,,b"}, "data.train is 'a,,b'; expected each file once, with commas between them"),
    ({"data__train": "a, a"}, "data.train is 'a, a'; expected each file once, with commas between them"),
    ({"rl__overdraw": 0.5}, "rl.overdraw is 0.5; expected 1 (off) to 8"),
    ({"rl__overdraw": 8.5}, "rl.overdraw is 8.5; expected 1 (off) to 8"),
    (
        {"rl__overdraw": 1.01},
        "rl.overdraw is 1.01; expected a whole number of prompts in rl.overdraw * rl.prompts_per_step, which is 32.32",
    ),
    (
        {"rl__filter_pass_rate": 0.3, "rl__filter_problems": 63, "rl__overdraw": 2.0},
        "rl.filter_problems is 63; expected at least rl.overdraw * rl.prompts_per_step = 64",
    ),
    ({"reward__weights": (1.0, 2.0)}, "reward.weights has 2 numbers; expected one for each of the 1 functions"),
    ({"task__max_value": 7}, "task.max_value is 7; expected at least task.max_numbers = 8"),
    ({"task__held_out_percent": 100}, "task.held_out_percent is 100; expected 1 to 99"),
    ({"task__give_up": 1.5}, "task.give_up is 1.5; expected 0 to 1"),
    ({"task__name": "pair"}, "task.name is pair; expected one of pairs, countdown, gym; did you mean pairs?"),
    ({"task__curriculum": 1.5}, "task.curriculum is 1.5; expected 0 to 1"),
    ({"task__name": "countdown"}, "task.max_numbers is 8; expected 3 or 4 with task.name = countdown"),
    (
        {"task__name": "countdown", "task__max_numbers": 4, "task__max_target": 5},
        "task.max_target is 5; expected at least 6",
    ),
    ({"task__name": "gym"}, "task.gym_dataset is ; expected a dataset's name, because task.name is gym"),
    ({"task__gym_dataset": "gcd"}, "task.gym_dataset is gcd; expected an empty string, or task.name = gym"),
    (
        {
            "task__name": "countdown",
            "task__max_numbers": 4,
            "task__min_numbers": 3,
            "task__max_value": 50,
            "task__max_target": 40,
        },
        "task.max_target is 40; expected at least task.max_value = 50: otherwise large numbers are useless",
    ),
    (
        {"task__name": "gym", "task__gym_dataset": "gcd", "task__chains": "right_only"},
        "task.chains is right_only; expected trial_and_error: task.name = gym has no chains",
    ),
    ({"task__gym_items": 1}, "task.gym_items is 1; expected at least 2"),
    ({"rl__filter_pass_rate": -0.1}, "rl.filter_pass_rate is -0.1; expected 0 to 1"),
    ({"rl__filter_samples": 0}, "rl.filter_samples is 0; expected at least 1"),
    (
        {"rl__filter_pass_rate": 0.3, "rl__filter_problems": 31},
        "rl.filter_problems is 31; expected at least rl.prompts_per_step = 32",
    ),
    ({"tokenizer__corpus_texts": 0}, "tokenizer.corpus_texts is 0; expected at least 1"),
    ({"data__prompt_length": -4}, "data.prompt_length is -4; expected at least 1"),
    ({"seed": -1}, "seed is -1; expected 0 to 4294967295"),
    ({"sft__batch_size": -32}, "sft.batch_size is -32; expected at least 1"),
    ({"sft__micro_batches": 5}, "sft.batch_size is 32; expected a multiple of sft.micro_batches = 5"),
    ({"sft__warmup_steps": -1}, "sft.warmup_steps is -1; expected at least 0"),
    ({"sft__optimizer": "adam"}, "sft.optimizer is adam; expected one of adamw, muon; did you mean adamw?"),
    ({"sft__b2": 1.0}, "sft.b2 is 1.0; expected 0 or more and below 1"),
    ({"rl__grad_clip": 0.0}, "rl.grad_clip is 0.0; expected more than 0"),
    ({"rl__weight_decay": -0.1}, "rl.weight_decay is -0.1; expected at least 0"),
    ({"rl__responses_per_prompt": 1}, "rl.responses_per_prompt is 1; expected at least 2: the leave-one-out"),
    ({"rl__micro_batches": 3}, "rl.prompts_per_step * rl.responses_per_prompt is 256; expected a multiple of rl.micro"),
    ({"model__experts_per_token": 2}, "model.experts_per_token is 2; expected 0, because model.num_experts is 0"),
    ({"model__norm_topk_prob": True}, "model.norm_topk_prob is True; expected False, because model.num_experts is 0"),
    ({"model__num_experts": -1}, "model.num_experts is -1; expected at least 0"),
    ({"model__num_experts": 8}, "model.experts_per_token is 0; expected 1 to model.num_experts = 8"),
    (
        {"model__num_experts": 8, "model__experts_per_token": 9},
        "model.experts_per_token is 9; expected 1 to model.num_experts = 8",
    ),
    (
        {"model__num_experts": 8, "model__experts_per_token": 2, "model__lora_rank": 2, "model__checkpoint": "m"},
        "model.lora_targets is all; expected attention: experts (model.num_experts) take no adapters",
    ),
    ({"rl__lanes": 3}, "rl.responses_per_prompt is 8; expected a multiple of rl.lanes = 3"),
    ({"rl__lanes": -1}, "rl.lanes is -1; expected at least 0"),
    ({"rl__num_steps": 0}, "rl.num_steps is 0; expected at least 1"),
    ({"rl__temperature": 0.0}, "rl.temperature is 0.0; expected more than 0"),
    ({"rl__top_k": 97}, "rl.top_k is 97; expected 0 (off) to model.vocab_size = 96"),
    ({"rl__top_p": 0.0}, "rl.top_p is 0.0; expected more than 0, at most 1 (off)"),
    ({"rl__min_p": 1.0}, "rl.min_p is 1.0; expected 0 (off) or more and below 1"),
    ({"rl__anchor_decay": 1.01}, "rl.anchor_decay is 1.01; expected 0 to 1"),
    ({"rl__kl_coef": -1e-3}, "rl.kl_coef is -0.001; expected at least 0"),
    (
        {"rl__kl_reduction": "mean", "rl__kl_site": "token"},
        "rl.kl_reduction is mean; expected sum, as it does nothing where rl.kl_site is token",
    ),
    (
        {"rl__kl_reduction": "mean", "rl__kl_site": "loss"},
        "rl.kl_reduction is mean; expected sum, as it does nothing where rl.kl_site is loss",
    ),
    (
        {"rl__entropy_target": 0.5, "rl__entropy_coef": 0.0},
        "rl.entropy_target is 0.5; expected 0 (off), as there is no bonus where rl.entropy_coef is 0",
    ),
    (
        {"rl__anchor_every": 2, "rl__anchor_decay": 1.0},
        "rl.anchor_every is 2; expected 1, as the anchor never moves where rl.anchor_decay is 1",
    ),
    ({"rl__stop_repeats": -1}, "rl.stop_repeats is -1; expected at least 0"),
    ({"rl__repeat_count": 1}, "rl.repeat_count is 1; expected at least 2"),
    ({"rl__kl_site": "rewards"}, "rl.kl_site is rewards; expected one of reward, token, loss; did you mean reward?"),
    ({"rl__penalty_site": "loss"}, "rl.penalty_site is loss; expected one of reward, advantage"),
    (
        {"rl__loss_normalisation": "tokens"},
        "rl.loss_normalisation is tokens; expected one of response, response_mean, token; did",
    ),
    ({"eval__every": -1}, "eval.every is -1; expected at least 0"),
    (
        {"model__rope_scaling": "yarn", "model__rope_high": 1.0},
        "model.rope_high is 1.0; expected more than model.rope_low = 1.0",
    ),
    ({"data__text_golds": "words"}, "data.text_golds is words; expected one of text, drop"),
    ({"data__template": "no place"}, "data.template is no place; expected a text that contains {problem} exactly once"),
    ({"data__train": "a.jsonl"}, "data.eval is ; expected a file if data.train is set, else an empty string"),
    (
        {"data__train": "a.jsonl", "data__eval": "b.jsonl"},
        "data.train is a.jsonl; expected model.checkpoint to be set too, for its tokenizer",
    ),
    (
        {"data__train": "a.jsonl", "data__eval": "b.jsonl", "model__checkpoint": "m"},
        "sft.num_steps is 2800; expected 0 (no cold start), or a file of demonstrations in data.sft",
    ),
    (
        {
            "data__train": "a.jsonl",
            "data__eval": "b.jsonl",
            "data__sft": "c.jsonl",
            "sft__num_steps": 0,
            "model__checkpoint": "m",
        },
        "data.sft is c.jsonl; expected an empty string: sft.num_steps is 0",
    ),
    ({"synthesis__attempts": 0}, "synthesis.attempts is 0; expected at least 1"),
    ({"synthesis__chain_tokens": 0}, "synthesis.chain_tokens is 0; expected at least 1"),
    ({"synthesis__temperature": 0.0}, "synthesis.temperature is 0.0; expected more than 0"),
    ({"synthesis__attempters": ()}, "synthesis.attempters is (); expected at least one name"),
    (
        {"synthesis__attempters": ("local", "local"), "synthesis__attempts": 1},
        "synthesis.attempts is 1; expected at least one for each of synthesis.attempters",
    ),
    (
        {"synthesis__attempters": ("locl",)},
        "synthesis.attempters names 'locl'; expected one of local; did you mean local?",
    ),
    ({"synthesis__attempters": ("rules",)}, "synthesis.attempters names 'rules'; expected one of local"),
    ({"synthesis__critic": "me"}, "synthesis.critic names 'me'; expected one of local, rules"),
    ({"synthesis__merger": "me"}, "synthesis.merger names 'me'; expected one of local, rules"),
    ({"synthesis__rewriter": "rules"}, "synthesis.rewriter names 'rules'; expected one of local"),
    (
        {"data__system_prompt": "Be brief.", "data__chat": False},
        "data.system_prompt is Be brief.; expected an empty string: data.chat is False",
    ),
    ({"verifier__deadline": 0.0}, "verifier.deadline is 0.0; expected more than 0"),
    ({"verifier__memory": 8}, "verifier.memory is 8; expected at least 64"),
    ({"eval__keep_responses": -1}, "eval.keep_responses is -1; expected at least 0"),
    ({"rl__profile": "10"}, "rl.profile is '10'; expected FIRST:END with 1 <= FIRST < END <= rl.num_steps + 1 = 37"),
    ({"rl__profile": "0:2"}, "rl.profile is '0:2'; expected FIRST:END"),
    ({"rl__profile": "3:3"}, "rl.profile is '3:3'; expected FIRST:END"),
    ({"rl__profile": "36:38"}, "rl.profile is '36:38'; expected FIRST:END"),
    ({"rl__profile": "1:2:3"}, "rl.profile is '1:2:3'; expected FIRST:END"),
    ({"metrics__wandb": "a/b/c"}, "metrics.wandb is a/b/c; expected PROJECT or ENTITY/PROJECT"),
    ({"metrics__wandb": "what?"}, "metrics.wandb is what?; expected PROJECT or ENTITY/PROJECT"),
    ({"metrics__mlflow": "http://me:sesame@host"}, "metrics.mlflow is a URL; expected an experiment's name; its"),
    ({"metrics__mlflow": " "}, "metrics.mlflow is  ; expected an experiment's name"),
    ({"metrics__trackio": "me/space"}, "metrics.trackio is me/space; expected PROJECT"),
    ({"benchmarks": {"aime": {"data": "f", "samples": 0}}}, "benchmarks.aime.samples is 0; expected at least 1"),
    ({"scaling__budgets": (8, 8)}, "scaling.budgets is (8, 8); expected increasing positive numbers"),
    ({"scaling__budgets": (0, 8)}, "scaling.budgets is (0, 8); expected increasing"),
    ({"checkpoint__keep": 0}, "checkpoint.keep is 0; expected at least 1"),
]


@pytest.mark.parametrize(("knobs", "says"), REFUSED, ids=[says.partition(" is ")[0] for _, says in REFUSED])
def test_what_cannot_work_is_refused_in_one_line(knobs, says):
    with pytest.raises(ConfigError) as error:
        validation.validate(changed(**knobs), 1)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_the_traced_steps_are_a_range_without_its_end():
    assert [*checks.profiled(changed(rl__profile="10:12").rl)] == [10, 11]
    assert [*checks.profiled(changed(rl__profile="36:37").rl)] == [36]
    assert not checks.profiled(changed().rl)


def test_names_that_loggers_take_are_taken():
    cfg = changed(metrics__wandb="my-team/T1 run.2", metrics__mlflow="/Users/me/T1", metrics__trackio="t1")
    validation.validate(cfg, 1)


def endpoint(**knobs):
    """A config with one endpoint, with some of its knobs set."""
    tree = changed().to_dict()
    tree["synthesis"]["endpoints"] = {"big": ENDPOINT | knobs}
    return config.load(tree)


@pytest.mark.parametrize(
    ("knob", "value", "says"),
    [
        ("url", "ftp://host/v1", "is 'ftp://host/v1'; expected one like https://api.openai.com/v1"),
        ("url", "localhost:8000/v1", "is 'localhost:8000/v1'; expected one like"),
        ("url", "http:///v1", "is 'http:///v1'; expected one like"),
        ("url", "", "is ''; expected one like"),
        ("url", "http://a b/v1", "is 'http://a b/v1'; expected one like"),
        ("url", "http://host/\x1b[2J", "is 'http://host/\\x1b[2J'; expected one like"),
        ("url", "http://host:port/v1", "is not a URL; expected one like"),
        ("url", "https://me:hidden@host/v1", "has a user, query or fragment; expected none: the key comes from key_"),
        ("url", "https://hidden@host/v1", "has a user, query or fragment"),
        ("url", "https://host/v1?key=hidden", "has a user, query or fragment"),
        ("url", "https://host/v1#hidden", "has a user, query or fragment"),
        ("model", " ", "is ' '; expected the name of a model at the endpoint"),
        ("key_variable", "sk-hidden", "is not a variable's name; expected one, not the key itself"),
        ("concurrency", 0, "is 0; expected at least 1"),
        ("requests_per_minute", -1, "is -1; expected at least 0"),
        ("tokens_per_minute", -1, "is -1; expected at least 0"),
        ("price_in", -0.5, "is -0.5; expected at least 0"),
        ("price_out", -0.5, "is -0.5; expected at least 0"),
        ("timeout", 0.0, "is 0.0; expected more than 0"),
        ("retries", -1, "is -1; expected at least 0"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused_and_what_may_be_a_key_is_not_shown(knob, value, says):
    with pytest.raises(ConfigError) as error:
        validation.validate(endpoint(**{knob: value}), 1)
    assert str(error.value).startswith(f"synthesis.endpoints.big.{knob} {says}") and "hidden" not in str(error.value)


def test_endpoints_that_can_work_pass_and_none_is_called_local():
    for url in ("http://127.0.0.1:8000/v1", "https://api.openai.com/v1/", "http://[::1]:80/v1"):
        validation.validate(endpoint(url=url, key_variable="OPENAI_API_KEY"), 1)
    tree = endpoint().to_dict()
    tree["synthesis"]["endpoints"] = {"local": tree["synthesis"]["endpoints"]["big"]}
    with pytest.raises(ConfigError, match="synthesis.endpoints.local has a reserved name; expected another"):
        validation.validate(config.load(tree), 1)


ON_EIGHT = [
    (
        {"mesh__data": 3},
        "mesh.data, mesh.fsdp, mesh.tensor are 3, -1, 1; expected a product of 8, the number of devices",
    ),
    ({"mesh__data": -1}, "mesh.data, mesh.fsdp, mesh.tensor are -1, -1, 1; expected a product of 8"),
    ({"mesh__fsdp": 4}, "mesh.data, mesh.fsdp, mesh.tensor are 1, 4, 1; expected a product of 8"),
    ({"mesh__data": 0}, "mesh.data, mesh.fsdp, mesh.tensor are 0, -1, 1; expected a product of 8"),
    ({"mesh__data": -2, "mesh__tensor": -4, "mesh__fsdp": 1}, "mesh.data, mesh.fsdp, mesh.tensor are -2, 1, -4"),
    ({"mesh__slices": -1}, "mesh.slices is -1; expected at least 0"),
    ({"mesh__tensor": 2, "model__vocab_size": 97}, "model.vocab_size is 97; expected a multiple of mesh.tensor = 2"),
    ({"mesh__tensor": 2, "model__mlp_size": 255}, "model.mlp_size is 255; expected a multiple of mesh.tensor = 2"),
    (
        {"mesh__tensor": 4, "model__num_experts": 6, "model__experts_per_token": 2},
        "model.num_experts is 6; expected a multiple of mesh.tensor = 4",
    ),
    ({"mesh__tensor": 8, "model__num_kv_heads": 4}, "model.num_heads is 4; expected a multiple of mesh.tensor = 8"),
    ({"model__hidden_size": 132}, "model.hidden_size is 132; expected a multiple of mesh.fsdp = 8"),
    ({"rl__prompts_per_step": 12}, "rl.prompts_per_step is 12; expected a multiple of mesh.data * mesh.fsdp = 8"),
    (
        {"rl__overdraw": 1.125},
        "rl.overdraw * rl.prompts_per_step is 36; expected a multiple of mesh.data * mesh.fsdp = 8",
    ),
    (
        {"rl__micro_batches": 64},
        "rl.prompts_per_step * rl.responses_per_prompt / rl.micro_batches is 4; expected a multiple of mesh.data",
    ),
    (
        {"sft__micro_batches": 8},
        "sft.batch_size / sft.micro_batches is 4; expected a multiple of mesh.data * mesh.fsdp",
    ),
    ({"eval__batch_size": 12}, "eval.batch_size is 12; expected a multiple of mesh.data * mesh.fsdp = 8"),
]


@pytest.mark.parametrize(("knobs", "says"), ON_EIGHT, ids=[says.partition(" is ")[0] for _, says in ON_EIGHT])
def test_what_does_not_fit_the_devices_is_refused(knobs, says):
    validation.validate(changed(mesh__tensor=4), 8)  # two kv heads: copied
    with pytest.raises(ConfigError) as error:
        validation.validate(changed(**knobs), 8)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize("knobs", [{"mesh__data": 3}, {"mesh__tensor": 8}, {"mesh__fsdp": 4}, {"mesh__slices": 2}])
def test_a_mesh_that_does_not_fit_is_refused_with_flags_of_one_that_does(knobs):
    wrong = changed(**{"mesh__data": 1, "mesh__tensor": 8, **knobs})
    with pytest.raises(ConfigError, match=r"; this works: ") as error:
        validation.validate(wrong, 8)
    flags = dict(re.findall(r"--config\.mesh\.(\w+)=(\d+)", str(error.value)))
    assert set(flags) == {"data", "fsdp", "tensor"}
    validation.validate(changed(**{**knobs, **{f"mesh__{name}": int(size) for name, size in flags.items()}}), 8)
    assert int(flags["data"]) % max(knobs.get("mesh__slices", 1), 1) == 0


def test_where_no_mesh_fits_that_is_said():
    with pytest.raises(ConfigError, match=r"a multiple of .*; no mesh of 8 devices works with the other knobs"):
        validation.validate(changed(rl__prompts_per_step=9), 8)


def test_the_mesh_takes_what_is_left():
    cfg = changed(mesh__data=2, mesh__tensor=2)
    assert checks.mesh_shape(cfg.mesh, 8) == (2, 2, 2)
    assert checks.mesh_shape(changed(mesh__data=2, mesh__fsdp=4).mesh, 8) == (2, 4, 1)
    validation.validate(cfg, 8)

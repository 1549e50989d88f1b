# SPDX-License-Identifier: Apache-2.0
"""How a knob is held to what it may be: one function a kind of bound, and the words of the error; names in knobs.

Deliberately not here: which bounds a knob has (validation.py), its type (typed.py).
"""

from __future__ import annotations

import difflib
import math
import os
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

from t1jax.config import Config, ConfigError, DataConfig, MeshConfig, RewardConfig, RlConfig, knobs

LOCAL, RULES = "local", "rules"  # writers of synthesis that are no endpoints: our own sampler, a program
LIGHTEST = 1e-6  # the least share of the prompts that a file of problems may have
CORRECT = "correct"  # the reward that is 1 for a right answer and 0 for a wrong one


def get(cfg: Config, knob: str) -> Any:
    """The value of a knob by its dotted name."""
    section, _, name = knob.rpartition(".")
    return getattr(getattr(cfg, section) if section else cfg, name)


def check(cfg: Config, knob: str, holds: bool, expected: str) -> None:
    """ConfigError unless `holds`: the knob, its value, and what was expected."""
    if not holds:
        raise ConfigError(f"{knob} is {get(cfg, knob)}; expected {expected}")


def multiple(what: str, found: int, of: str, divisor: int) -> None:
    """ConfigError unless `found`, which is `what`, is a multiple of `divisor`, which is `of`."""
    if found % divisor:
        raise ConfigError(f"{what} is {found}; expected a multiple of {of} = {divisor}")


MOST = {  # knobs that would take a machine's memory or hours before anything is said, or overflow an int32
    "model.vocab_size": 2**24,
    "model.num_layers": 2**12,
    "model.hidden_size": 2**18,
    "model.mlp_size": 2**20,
    "model.num_experts": 2**12,
    "model.num_heads": 2**12,
    "model.num_kv_heads": 2**12,
    "model.head_dim": 2**12,
    "tokenizer.corpus_texts": 2**24,
    "task.max_numbers": 2**10,
    "rl.prompts_per_step": 2**20,
    "rl.responses_per_prompt": 2**16,
    "rl.filter_problems": 2**24,
    "rl.filter_samples": 2**12,
    "eval.num_problems": 2**24,
    "eval.batch_size": 2**20,
    "eval.quick_problems": 2**24,
    "verifier.workers": 2**12,
    "synthesis.attempts": 1000,
}
LARGEST = 2**31 - 1  # of any other whole number but the seed


def bounded(cfg: Config) -> None:
    """ConfigError unless each whole number of the config is within MOST, or LARGEST."""
    for knob in knobs():
        value, most = get(cfg, knob), MOST.get(knob, LARGEST)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and number > most and knob != "seed":
                shown = number if number < 10**30 else f"a number of {number.bit_length()} bits"
                raise ConfigError(f"{knob} is {shown}; expected at most {most}")
    for name, benchmark in cfg.benchmarks.items():
        if benchmark.samples > LARGEST:
            raise ConfigError(f"benchmarks.{name}.samples is {benchmark.samples}; expected at most {LARGEST}")


def one_of(cfg: Config, knob: str, *choices: str) -> None:
    """ConfigError unless the knob is one of the choices; names the nearest."""
    hint = "".join(f"; did you mean {near}?" for near in difflib.get_close_matches(get(cfg, knob), choices, n=1))
    check(cfg, knob, get(cfg, knob) in choices, f"one of {', '.join(choices)}{hint}")


def at_least(cfg: Config, least: int, section: str, names: str) -> None:
    """ConfigError unless each of the section's knobs, words in `names`, is at least `least`."""
    for knob in (f"{section}.{name}" for name in names.split()):
        check(cfg, knob, get(cfg, knob) >= least, f"at least {least}")


def positive(cfg: Config, section: str, names: str) -> None:
    """ConfigError unless each of the section's knobs, words in `names`, is more than 0."""
    for knob in (f"{section}.{name}" for name in names.split()):
        check(cfg, knob, get(cfg, knob) > 0, "more than 0")


def share(cfg: Config, section: str, names: str) -> None:
    """ConfigError unless each of the section's knobs, words in `names`, is 0 to 1."""
    for knob in (f"{section}.{name}" for name in names.split()):
        check(cfg, knob, 0 <= get(cfg, knob) <= 1, "0 to 1")


def reward_terms(reward: RewardConfig) -> list[tuple[str, float]]:
    """(function, weight) of each term of a response's reward; a function is CORRECT or FILE.py:NAME.

    Raises:
      ConfigError: a function is written in another way or twice, or there are other weights than functions.
    """
    names = [name.strip() for name in reward.function.split(",")]
    for name in names:
        path, _, function = name.rpartition(":")
        known = path.endswith(".py") and "://" not in path and function.isidentifier()
        if name != CORRECT and not known:
            raise ConfigError(
                f"reward.function is {reward.function!r}; expected {CORRECT}, or a local FILE.py:NAME such as "
                "my_reward.py:score, or several with commas between them"
            )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"reward.function names {twice} twice; expected each function once, with a weight")
    weights = reward.weights or (1.0,) * len(names)
    if len(weights) != len(names):
        raise ConfigError(
            f"reward.weights has {len(weights)} numbers; expected one for each of the {len(names)} functions of "
            "reward.function, or () for 1 of each"
        )
    return list(zip(names, weights, strict=True))


def right_and_wrong(reward: RewardConfig) -> bool:
    """Whether responses are right or wrong: CORRECT is among the terms. Else there is only a reward."""
    return any(name == CORRECT for name, _ in reward_terms(reward))


def plain_reward(reward: RewardConfig) -> bool:
    """Whether the reward is 1 for a right answer, 0 for a wrong one, and nothing else."""
    return reward_terms(reward) == [(CORRECT, 1.0)]


def a_step(rl: RlConfig) -> str:
    """How many prompts a step draws, in knobs: `rl.prompts_per_step = 8`."""
    knobs = "rl.overdraw * rl.prompts_per_step" if rl.drawn > rl.prompts_per_step else "rl.prompts_per_step"
    return f"{knobs} = {rl.drawn}"


def train_files(train: str) -> list[str]:
    """The files of data.train: their names have commas between them. A file here whose own name has one is one file."""
    return [train] if os.path.exists(train) else [name.strip() for name in train.split(",")]


def weighed(data: DataConfig) -> list[tuple[str, float | None]]:
    """(file, weight) of each file of data.train; weights add up to 1, and are None where each problem counts the same.

    Raises:
      ConfigError: a name is empty or there twice; there are other weights than files, or they are no shares.
    """
    names, weights = train_files(data.train), data.weights
    if len(names) > 1 and (not all(names) or len(set(names)) < len(names)):
        raise ConfigError(f"data.train is {data.train!r}; expected each file once, with commas between them")
    if not weights:
        return [(name, None) for name in names]
    if not data.train or len(weights) != len(names):
        files = f"the {len(names)} files of data.train" if data.train else "the files of data.train, which is empty"
        raise ConfigError(
            f"data.weights has {len(weights)} numbers; expected one for each of {files}, or () to draw each problem as "
            "often as any other"
        )
    if min(weights) <= 0 or min(weights) < LIGHTEST * sum(weights):
        raise ConfigError(
            f"data.weights is {weights}; expected numbers above 0, each at least {LIGHTEST:g} of their sum: leave out "
            "a file that nothing is to be drawn from"
        )
    return [(name, weight / sum(weights)) for name, weight in zip(names, weights, strict=True)]


def profiled(rl: RlConfig) -> range:
    """The steps of RL that rl.profile = "FIRST:END" has traced: FIRST to END - 1; none where it is empty.

    Raises:
      ConfigError: it is written in another way, or names steps that there are not.
    """
    found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", rl.profile)
    steps = range(int(found[1]), int(found[2])) if found else range(0)
    if rl.profile and not 1 <= steps.start < steps.stop <= rl.num_steps + 1:
        raise ConfigError(
            f"rl.profile is {rl.profile!r}; expected FIRST:END with 1 <= FIRST < END <= rl.num_steps + 1 = "
            f"{rl.num_steps + 1}: 10:12 traces steps 10 and 11"
        )
    return steps


def loggers(cfg: Config) -> None:
    """Where rows go, by name. ConfigError: no project or experiment has such a name."""
    for knob, pattern, example in (
        ("metrics.wandb", r"([\w.-]+/)?[^/\\#?%:]{1,128}", "PROJECT or ENTITY/PROJECT"),
        ("metrics.mlflow", r".{1,500}", "an experiment's name; its server is MLFLOW_TRACKING_URI"),
        ("metrics.trackio", r"[\w .-]{1,128}", "PROJECT"),
    ):
        value = get(cfg, knob)
        if "://" in value:  # not printed: it may hold a password
            raise ConfigError(f"{knob} is a URL; expected {example}")
        fits = value == value.strip() and value.isprintable() and re.fullmatch(pattern, value)
        check(cfg, knob, not value or bool(fits), example)


def mesh_shape(mesh: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """(data, fsdp, tensor) with -1 filled in.

    Raises:
      ConfigError: the sizes cannot multiply to `num_devices`.
    """
    sizes = [mesh.data, mesh.fsdp, mesh.tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and num_devices % known == 0:
        sizes[sizes.index(-1)] = num_devices // known
    if min(sizes) < 1 or math.prod(sizes) != num_devices:
        raise ConfigError(
            f"mesh.data, mesh.fsdp, mesh.tensor are {mesh.data}, {mesh.fsdp}, {mesh.tensor}; expected a product of "
            f"{num_devices}, the number of devices, with at most one -1 for what is left"
        )
    return sizes[0], sizes[1], sizes[2]


def mesh_flags(cfg: Config, num_devices: int, refuse: Callable[[int, int, int], None]) -> str:
    """Flags of a mesh of `num_devices` that works, with mesh.tensor as near the config's as can be; "" if none does.

    Args:
      refuse: raises ConfigError for (data, fsdp, tensor) that do not work.
    """
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    for tensor in sorted(divisors, key=lambda n: (n != cfg.mesh.tensor, n)):
        for data in divisors:
            fsdp, rest = divmod(num_devices, data * tensor)
            if rest or data % max(cfg.mesh.slices, 1):
                continue
            try:
                refuse(data, fsdp, tensor)
            except ConfigError:
                continue
            return f"--config.mesh.data={data} --config.mesh.fsdp={fsdp} --config.mesh.tensor={tensor}"
    return ""


def synthesis(cfg: Config) -> None:
    """Who writes which part of a chain. ConfigError: a name is unknown or reserved."""
    writing = cfg.synthesis
    at_least(cfg, 1, "synthesis", "attempts attempt_tokens chain_tokens")
    positive(cfg, "synthesis", "temperature")
    check(cfg, "synthesis.attempters", bool(writing.attempters), "at least one name")
    enough = writing.attempts >= len(writing.attempters)
    check(cfg, "synthesis.attempts", enough, "at least one for each of synthesis.attempters")
    models = (LOCAL, *writing.endpoints)
    if RULES in writing.endpoints:
        raise ConfigError(f"synthesis.endpoints.{RULES} has a reserved name; expected another: it is a program")
    for name in writing.attempters:
        _known_writer("synthesis.attempters", name, models)
    for knob in ("synthesis.critic", "synthesis.merger"):
        _known_writer(knob, get(cfg, knob), (*models, RULES))
    if writing.rewriter:
        _known_writer("synthesis.rewriter", writing.rewriter, models)


def _known_writer(knob: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{knob} names {name!r}; expected one of {', '.join(known)}{hint}")


def endpoints(cfg: Config) -> None:
    """Each model behind an endpoint. ConfigError: a field cannot be."""
    for name, endpoint in cfg.synthesis.endpoints.items():
        knob = f"synthesis.endpoints.{name}"
        if name == LOCAL:
            raise ConfigError(f"{knob} has a reserved name; expected another: local stands for t1jax's sampler")
        _url(f"{knob}.url", endpoint.url)
        if not endpoint.model.strip():
            raise ConfigError(f"{knob}.model is {endpoint.model!r}; expected the name of a model at the endpoint")
        if not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", endpoint.key_variable):  # not printed: it may be a key
            raise ConfigError(f"{knob}.key_variable is not a variable's name; expected one, not the key itself")
        least = {"concurrency": 1, "requests_per_minute": 0, "tokens_per_minute": 0, "price_in": 0, "price_out": 0}
        for field, lowest in (least | {"retries": 0}).items():
            if (found := getattr(endpoint, field)) < lowest:
                raise ConfigError(f"{knob}.{field} is {found}; expected at least {lowest}")
        if endpoint.timeout <= 0:
            raise ConfigError(f"{knob}.timeout is {endpoint.timeout}; expected more than 0")


def _url(knob: str, url: str) -> None:
    """Rejects a URL that is not http or https, or may contain a secret; the latter is not printed."""
    try:
        parts = urllib.parse.urlsplit(url)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{knob} is not a URL; expected one like https://api.openai.com/v1") from error
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise ConfigError(f"{knob} has a user, query or fragment; expected none: the key comes from key_variable")
    if scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise ConfigError(f"{knob} is {url!r}; expected one like https://api.openai.com/v1")

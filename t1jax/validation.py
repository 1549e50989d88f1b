# SPDX-License-Identifier: Apache-2.0
"""Rejects configs that cannot work, by themselves or on these devices, before anything is compiled.

Every error names the knob, its value, and what was expected.
Deliberately not here: types of knobs (sections.py); bounds, and the words of an error (checks.py); contents of files.
"""

from __future__ import annotations

import itertools
import os
import sys

from t1jax import checks
from t1jax.checks import mesh_shape
from t1jax.config import Config, ConfigError

LONGEST_SCORING = 48 * 3600  # seconds that the scoring of a step may take (devices/waiting.py)
MOST_DRAWN = 8  # times rl.prompts_per_step that a step may sample: it is one round, and its memory and time grow alike
WALL = 20  # the deadline of an answer is processor time; on the clock it may take this many times as long


def validate(cfg: Config, num_devices: int, elsewhere: bool = False) -> None:
    """Rejects a config that cannot work on `num_devices` devices; `elsewhere`: of other machines, with their own cores.

    Raises:
      ConfigError: names the knob, its value, and what was expected.
    """
    for check in CHECKS:
        check(cfg)
    if cfg.verifier.workers or not elsewhere:
        _validate_scoring(cfg)
    try:
        _validate_mesh(cfg, *mesh_shape(cfg.mesh, num_devices))
    except ConfigError as error:
        flags = checks.mesh_flags(cfg, num_devices, lambda *shape: _validate_mesh(cfg, *shape))
        hint = f"this works: {flags}" if flags else f"no mesh of {num_devices} devices works with the other knobs"
        raise ConfigError(f"{error}; {hint}") from error


def wall_limit(deadline: float) -> float:
    """Seconds on the clock after which an answer is given up, for a deadline in seconds of processor time."""
    return deadline * WALL if sys.platform == "linux" else deadline  # elsewhere the deadline is on the clock


def cores() -> int:
    """Cores that this process may use: as many threads and processes judge responses, unless a knob says otherwise."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _validate_model(cfg: Config) -> None:
    checks.at_least(cfg, 1, "model", "vocab_size num_layers hidden_size num_heads num_kv_heads head_dim mlp_size")
    checks.multiple("model.num_heads", cfg.model.num_heads, "model.num_kv_heads", cfg.model.num_kv_heads)
    checks.at_least(cfg, 0, "model", "num_experts")
    experts, k = cfg.model.num_experts, cfg.model.experts_per_token
    chosen = f"1 to model.num_experts = {experts}" if experts else "0, because model.num_experts is 0"
    checks.check(cfg, "model.experts_per_token", min(experts, 1) <= k <= experts, chosen)
    scaled = "False, because model.num_experts is 0"
    checks.check(cfg, "model.norm_topk_prob", experts > 0 or not cfg.model.norm_topk_prob, scaled)
    checks.check(cfg, "model.head_dim", cfg.model.head_dim % 2 == 0, "an even number: rotary embeddings rotate pairs")
    turning = int(cfg.model.head_dim * cfg.model.rope_share) if 0 < cfg.model.rope_share <= 1 else 0
    even = turning >= 2 and turning % 2 == 0
    checks.check(cfg, "model.rope_share", even, "a share of model.head_dim that is an even number of values")
    checks.check(cfg, "model.rope_theta", cfg.model.rope_theta > 1, "more than 1")
    checks.one_of(cfg, "model.rope_scaling", "none", "linear", "yarn", "llama3")
    checks.check(cfg, "model.rope_factor", cfg.model.rope_factor >= 1, "at least 1")
    checks.at_least(cfg, 1, "model", "rope_original_length")
    checks.positive(cfg, "model", "rope_low rope_high")
    if cfg.model.rope_scaling in ("yarn", "llama3"):
        low = cfg.model.rope_low
        checks.check(cfg, "model.rope_high", cfg.model.rope_high > low, f"more than model.rope_low = {low}")
    checks.at_least(cfg, 0, "model", "rope_attention_factor")
    checks.check(cfg, "model.norm_eps", cfg.model.norm_eps > 0, "more than 0")
    checks.one_of(cfg, "model.compute_dtype", "float32", "bfloat16", "float16")
    checks.one_of(cfg, "model.remat", "none", "dots", "full")
    checks.one_of(cfg, "model.attention", "auto", "xla", "splash", "cudnn", "triton")


def _validate_lora(cfg: Config) -> None:
    model, rank = cfg.model, cfg.model.lora_rank
    checks.at_least(cfg, 0, "model", "lora_rank")
    checks.positive(cfg, "model", "lora_alpha")
    checks.one_of(cfg, "model.lora_targets", "attention", "mlp", "all")
    whole = not rank or not model.num_experts or model.lora_targets == "attention"
    checks.check(cfg, "model.lora_targets", whole, "attention: experts (model.num_experts) take no adapters")
    heads = [("num_heads * head_dim", model.num_heads), ("num_kv_heads * head_dim", model.num_kv_heads)]
    sizes = {name: number * model.head_dim for name, number in heads if model.lora_targets != "mlp"}
    sizes |= {"mlp_size": model.mlp_size} if model.lora_targets != "attention" else {}
    least, name = min((size, name) for name, size in {"hidden_size": model.hidden_size, **sizes}.items())
    checks.check(cfg, "model.lora_rank", rank <= least, f"at most {least}, the rank of a matrix: {name}")
    checks.check(cfg, "model.lora_rank", not rank or model.checkpoint != "", "0, or weights in model.checkpoint")
    adam = not rank or not cfg.sft.num_steps or cfg.sft.optimizer == "adamw"
    checks.check(cfg, "sft.optimizer", adam, f"adamw, because model.lora_rank is {rank}")


def _validate_task(cfg: Config) -> None:
    task, low, high = cfg.task, cfg.task.min_numbers, cfg.task.max_numbers
    checks.one_of(cfg, "task.name", "pairs", "countdown", "gym")
    checks.at_least(cfg, 3, "task", "min_numbers")
    checks.check(cfg, "task.max_numbers", high >= low, f"at least task.min_numbers = {low}")
    checks.check(
        cfg, "task.max_value", task.max_value >= high, f"at least task.max_numbers = {high}: all numbers differ"
    )
    checks.check(cfg, "task.held_out_percent", 0 < task.held_out_percent < 100, "1 to 99")
    checks.share(cfg, "task", "impatient_share give_up row_order_share curriculum")
    checks.one_of(cfg, "task.chains", "trial_and_error", "right_only")
    lacks = task.name == "gym" and task.chains != "trial_and_error"
    checks.check(cfg, "task.chains", not lacks, "trial_and_error: task.name = gym has no chains")
    if task.name == "countdown":
        checks.check(cfg, "task.max_numbers", high <= 4, "3 or 4 with task.name = countdown")
        checks.at_least(cfg, 1 + 2 + 3, "task", "max_target")
        fits = f"at least task.max_value = {task.max_value}: otherwise large numbers are useless"
        checks.check(cfg, "task.max_target", task.max_target >= task.max_value, fits)
    graded = not cfg.data.train and task.name != "gym"
    checks.check(cfg, "task.curriculum", graded or not task.curriculum, "0: only pairs and countdown have difficulties")
    checks.check(
        cfg, "task.gym_dataset", task.name == "gym" or not task.gym_dataset, "an empty string, or task.name = gym"
    )
    named = task.name != "gym" or bool(task.gym_dataset)
    checks.check(cfg, "task.gym_dataset", named, "a dataset's name, because task.name is gym")
    checks.at_least(cfg, 2, "task", "gym_items")
    checks.at_least(cfg, 1, "tokenizer", "corpus_texts")


def _validate_data(cfg: Config) -> None:
    data = cfg.data
    checks.weighed(data)
    checks.at_least(cfg, 1, "data", "prompt_length")
    checks.one_of(cfg, "data.text_golds", "text", "drop")
    checks.check(
        cfg, "data.template", data.template.count("{problem}") == 1, "a text that contains {problem} exactly once"
    )
    checks.check(
        cfg, "data.eval", bool(data.eval) == bool(data.train), "a file if data.train is set, else an empty string"
    )
    if data.train and not cfg.model.checkpoint:
        raise ConfigError(f"data.train is {data.train}; expected model.checkpoint to be set too, for its tokenizer")
    checks.check(cfg, "data.system_prompt", data.chat or not data.system_prompt, "an empty string: data.chat is False")
    checks.check(cfg, "data.sft", bool(cfg.sft.num_steps) or not data.sft, "an empty string: sft.num_steps is 0")
    if data.train and cfg.sft.num_steps and not data.sft:
        raise ConfigError(
            f"sft.num_steps is {cfg.sft.num_steps}; expected 0 (no cold start), or a file of demonstrations in data.sft"
        )


def _validate_training(cfg: Config) -> None:
    checks.at_least(cfg, 0, "mesh", "slices")
    checks.check(cfg, "seed", 0 <= cfg.seed < 2**32, "0 to 4294967295")
    checks.at_least(cfg, 0, "sft", "num_steps")
    checks.at_least(cfg, 1, "sft", "batch_size sequence_length micro_batches vocab_chunks")
    checks.at_least(cfg, 0, "sft", "warmup_steps")
    checks.multiple("sft.batch_size", cfg.sft.batch_size, "sft.micro_batches", cfg.sft.micro_batches)
    checks.one_of(cfg, "sft.optimizer", "adamw", "muon")
    for section in ("sft", "rl"):
        checks.positive(cfg, section, "learning_rate grad_clip")
        checks.at_least(cfg, 0, section, "weight_decay max_skipped")
        for knob in (f"{section}.b1", f"{section}.b2"):
            checks.check(cfg, knob, 0 <= checks.get(cfg, knob) < 1, "0 or more and below 1")


def _validate_rl(cfg: Config) -> None:
    rl, vocab_size = cfg.rl, cfg.model.vocab_size
    checks.at_least(
        cfg, 1, "rl", "num_steps prompts_per_step max_new_tokens window micro_batches vocab_chunks repeat_length"
    )
    baseline = "at least 2: the leave-one-out baseline is the mean of a prompt's other responses"
    checks.check(cfg, "rl.responses_per_prompt", rl.responses_per_prompt >= 2, baseline)
    checks.at_least(cfg, 0, "rl", "lanes stop_repeats")
    if rl.lanes:
        checks.multiple("rl.responses_per_prompt", rl.responses_per_prompt, "rl.lanes", rl.lanes)
    rows = rl.prompts_per_step * rl.responses_per_prompt
    checks.multiple("rl.prompts_per_step * rl.responses_per_prompt", rows, "rl.micro_batches", rl.micro_batches)
    checks.check(cfg, "rl.overdraw", 1 <= rl.overdraw <= MOST_DRAWN, f"1 (off) to {MOST_DRAWN}")
    drawn = rl.overdraw * rl.prompts_per_step
    whole = f"a whole number of prompts in rl.overdraw * rl.prompts_per_step, which is {drawn:g}"
    checks.check(cfg, "rl.overdraw", abs(drawn - rl.drawn) < 1e-6, whole)
    longest = cfg.data.prompt_length + rl.max_new_tokens
    fits = f"0, or at least data.prompt_length + rl.max_new_tokens = {longest}"
    checks.check(cfg, "rl.pack_length", rl.pack_length == 0 or rl.pack_length >= longest, fits)
    checks.share(cfg, "rl", "filter_pass_rate")
    checks.at_least(cfg, 1, "rl", "filter_samples")
    enough = rl.filter_pass_rate == 1 or rl.filter_problems >= rl.drawn
    checks.check(cfg, "rl.filter_problems", enough, f"at least {checks.a_step(rl)}")
    checks.positive(cfg, "rl", "temperature kl_clip")
    checks.at_least(cfg, 0, "rl", "logprob_temperature")
    checks.check(cfg, "rl.top_k", 0 <= rl.top_k <= vocab_size, f"0 (off) to model.vocab_size = {vocab_size}")
    checks.check(cfg, "rl.top_p", 0 < rl.top_p <= 1, "more than 0, at most 1 (off)")
    checks.check(cfg, "rl.min_p", 0 <= rl.min_p < 1, "0 (off) or more and below 1")
    checks.share(cfg, "rl", "warmup_fraction anchor_decay garbled_share")
    checks.at_least(cfg, 0, "rl", "entropy_coef entropy_target kl_coef ratio_cap")
    checks.at_least(cfg, 1, "rl", "anchor_every")
    checks.check(cfg, "rl.max_perplexity", rl.max_perplexity == 0 or rl.max_perplexity > 1, "0 (off), or more than 1")
    checks.at_least(cfg, 2, "rl", "repeat_count")
    checks.one_of(cfg, "rl.baseline", "leave_one_out", "group_mean", "group_mean_std")
    checks.one_of(cfg, "rl.kl_site", "reward", "token", "loss")
    checks.one_of(cfg, "rl.kl_reduction", "sum", "mean")
    checks.one_of(cfg, "rl.kl_logprobs", "learner", "sampler")
    reduced = rl.kl_reduction == "sum" or rl.kl_site == "reward"
    checks.check(cfg, "rl.kl_reduction", reduced, f"sum, as it does nothing where rl.kl_site is {rl.kl_site}")
    aimed, moved = rl.entropy_target == 0 or rl.entropy_coef > 0, rl.anchor_every == 1 or rl.anchor_decay < 1
    checks.check(cfg, "rl.entropy_target", aimed, "0 (off), as there is no bonus where rl.entropy_coef is 0")
    checks.check(cfg, "rl.anchor_every", moved, "1, as the anchor never moves where rl.anchor_decay is 1")
    checks.one_of(cfg, "rl.penalty_site", "reward", "advantage", "wrong")
    checks.one_of(cfg, "rl.loss_normalisation", "response", "response_mean", "token")


def _validate_measuring(cfg: Config) -> None:
    checks.at_least(cfg, 1, "eval", "num_problems batch_size quick_problems")
    checks.at_least(cfg, 0, "eval", "every keep_responses samples")
    increasing = all(low < high for low, high in itertools.pairwise((0, *cfg.scaling.budgets)))
    checks.check(cfg, "scaling.budgets", increasing, "increasing positive numbers")
    checks.at_least(cfg, 1, "scaling", "answer_tokens")
    temperature = cfg.scaling.answer_temperature
    fits = "0 (greedy) or more, or -1 (that of the thinking)"
    checks.check(cfg, "scaling.answer_temperature", temperature >= 0 or temperature == -1, fits)
    based = cfg.scaling.answerer != "base" or bool(cfg.model.checkpoint) or not cfg.scaling.budgets
    checks.check(cfg, "scaling.answerer", based, "self or a folder: without model.checkpoint there is no base model")
    checks.check(cfg, "scaling.answerer", bool(cfg.scaling.answerer), "self, base, or a folder of weights")
    checks.positive(cfg, "verifier", "deadline")
    checks.at_least(cfg, 0, "verifier", "workers")
    checks.at_least(cfg, 64, "verifier", "memory")
    checks.at_least(cfg, 1, "verifier", "recycle")
    for name, benchmark in cfg.benchmarks.items():
        if benchmark.samples < 1:
            raise ConfigError(f"benchmarks.{name}.samples is {benchmark.samples}; expected at least 1")
    checks.at_least(cfg, 1, "checkpoint", "sft_every every keep keep_damaged")
    for knob in ("compilation_cache_mib", "tensorboard_mib"):
        checks.check(cfg, knob, checks.get(cfg, knob) >= 0, "at least 0")
    checks.at_least(cfg, 0, "checkpoint", "grace_seconds")


def _validate_scoring(cfg: Config) -> None:
    """Holds a step's scoring to LONGEST_SCORING: all answers in one process, each to its limit on the clock.

    Starting workers again is not counted: hung answers shorten the next deadlines by more (rewards/verifier.py).
    """
    deadline, answers = cfg.verifier.deadline, cfg.rl.drawn * cfg.rl.responses_per_prompt
    workers = cfg.verifier.workers or cores()
    longest = wall_limit(deadline) * -(-answers // workers) * len(checks.reward_terms(cfg.reward))
    if longest > LONGEST_SCORING:
        raise ConfigError(
            f"verifier.deadline is {deadline}, up to {wall_limit(deadline):g} s on the clock: scoring the {answers} "
            f"answers of a step may take {longest:.0f} s with {workers} workers; expected at most {LONGEST_SCORING} s, "
            "as long as devices wait: lower it, raise verifier.workers, or lower rl.prompts_per_step"
        )


def _validate_mesh(cfg: Config, data: int, fsdp: int, tensor: int) -> None:
    mlp = "model.num_experts" if cfg.model.num_experts else "model.mlp_size"
    for knob in ("model.vocab_size", "model.num_heads", mlp):  # kv heads: model/heads.py
        checks.multiple(knob, checks.get(cfg, knob), "mesh.tensor", tensor)
    checks.multiple("model.hidden_size", cfg.model.hidden_size, "mesh.fsdp", fsdp)
    rl, sft, shards = cfg.rl, cfg.sft, "mesh.data * mesh.fsdp"
    rows = rl.prompts_per_step * rl.responses_per_prompt // rl.micro_batches
    checks.multiple("rl.prompts_per_step", rl.prompts_per_step, shards, data * fsdp)
    checks.multiple("rl.overdraw * rl.prompts_per_step", rl.drawn, shards, data * fsdp)
    checks.multiple("rl.prompts_per_step * rl.responses_per_prompt / rl.micro_batches", rows, shards, data * fsdp)
    if sft.num_steps:
        checks.multiple("sft.batch_size / sft.micro_batches", sft.batch_size // sft.micro_batches, shards, data * fsdp)
    checks.multiple("eval.batch_size", cfg.eval.batch_size, shards, data * fsdp)


CHECKS = (
    checks.bounded,
    lambda cfg: checks.reward_terms(cfg.reward),
    lambda cfg: checks.profiled(cfg.rl),
    checks.loggers,
    _validate_model,
    _validate_lora,
    _validate_task,
    _validate_data,
    _validate_training,
    _validate_rl,
    _validate_measuring,
    checks.synthesis,
    checks.endpoints,
)

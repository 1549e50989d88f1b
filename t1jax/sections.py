# SPDX-License-Identifier: Apache-2.0
"""The sections of the configuration, a dataclass each. configs/base.py documents each knob.

Deliberately not here: the whole of them (config.py), what may not be (validation.py), how they are read (typed.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelConfig:
    checkpoint: str
    vocab_size: int
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    num_experts: int
    experts_per_token: int
    norm_topk_prob: bool
    qkv_bias: bool
    qk_norm: bool
    post_norms: bool
    rope_share: float
    rope_interleaved: bool
    rope_theta: float
    rope_scaling: str
    rope_factor: float
    rope_original_length: int
    rope_low: float
    rope_high: float
    rope_attention_factor: float
    norm_eps: float
    tie_embeddings: bool
    compute_dtype: str
    remat: str
    attention: str
    lora_rank: int
    lora_alpha: float
    lora_targets: str


@dataclass(frozen=True)
class TokenizerConfig:
    corpus_texts: int


@dataclass(frozen=True)
class TaskConfig:
    name: str
    held_out_percent: int
    curriculum: float
    min_numbers: int
    max_numbers: int
    max_value: int
    max_target: int
    impatient_share: float
    give_up: float
    row_order_share: float
    chains: str
    gym_dataset: str
    gym_options: tuple[str, ...]
    gym_items: int


@dataclass(frozen=True)
class DataConfig:
    train: str
    weights: tuple[float, ...]
    eval: str
    sft: str
    problem_column: str
    answer_column: str
    choice_seed: int
    text_golds: str
    system_prompt: str
    template: str
    chat: bool
    response_prefix: str
    prompt_length: int


@dataclass(frozen=True)
class MeshConfig:
    data: int
    fsdp: int
    tensor: int
    slices: int = 0


@dataclass(frozen=True)
class SftConfig:
    num_steps: int
    batch_size: int
    sequence_length: int
    micro_batches: int
    vocab_chunks: int
    optimizer: str
    learning_rate: float
    warmup_steps: int
    b1: float
    b2: float
    weight_decay: float
    grad_clip: float
    max_skipped: int


@dataclass(frozen=True)
class RlConfig:
    num_steps: int
    prompts_per_step: int
    overdraw: float
    responses_per_prompt: int
    filter_pass_rate: float
    filter_samples: int
    filter_problems: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    max_new_tokens: int
    lanes: int
    window: int
    pack_length: int
    micro_batches: int
    vocab_chunks: int
    learning_rate: float
    warmup_fraction: float
    b1: float
    b2: float
    weight_decay: float
    grad_clip: float
    baseline: str
    entropy_coef: float
    entropy_target: float
    kl_coef: float
    kl_clip: float
    kl_site: str
    kl_reduction: str
    kl_logprobs: str
    anchor_decay: float
    anchor_every: int
    penalty: float
    penalty_site: str
    advantage_floor: bool
    repeat_length: int
    repeat_count: int
    stop_repeats: int
    garbled_share: float
    max_perplexity: float
    loss_normalisation: str
    ratio_cap: float
    max_skipped: int
    logprob_temperature: float
    profile: str

    @property
    def drawn(self) -> int:
        """Prompts of a step whose responses are sampled and scored; prompts_per_step of them stay for the update."""
        return round(self.overdraw * self.prompts_per_step)

    @property
    def learner_temperature(self) -> float:
        """Temperature of the learner's log-probabilities: the sampler's, unless an ablation sets another."""
        return self.logprob_temperature or self.temperature


@dataclass(frozen=True)
class RewardConfig:
    function: str
    weights: tuple[float, ...]


@dataclass(frozen=True)
class EvalConfig:
    before: bool
    num_problems: int
    batch_size: int
    every: int
    quick_problems: int
    keep_responses: int
    samples: int


@dataclass(frozen=True)
class ScalingConfig:
    budgets: tuple[int, ...]
    answer_prefix: str
    answer_tokens: int
    answerer: str
    answer_temperature: float


@dataclass(frozen=True)
class VerifierConfig:
    workers: int
    deadline: float
    memory: int
    recycle: int


@dataclass(frozen=True)
class BenchmarkConfig:
    """One file of problems that `t1jax.evaluate` samples."""

    data: str
    samples: int


@dataclass(frozen=True)
class EndpointConfig:
    """A model behind an OpenAI-compatible endpoint that `t1jax.synthesize` may ask."""

    url: str  # of the API, without user, key or query: https://api.openai.com/v1
    model: str  # as the endpoint calls it
    key_variable: str  # environment variable that holds the key; "": the endpoint needs none
    concurrency: int  # most requests under way at once
    requests_per_minute: int  # 0: no limit
    tokens_per_minute: int  # of prompts and answers; 0: no limit
    price_in: float  # of a million tokens of prompts, in any currency; 0: not counted
    price_out: float  # of a million tokens of answers
    timeout: float  # silence after which a request is given up, seconds; a whole answer may take 60 times that
    retries: int  # times that a request is sent again after a passing error


@dataclass(frozen=True)
class SynthesisConfig:
    attempts: int
    attempters: tuple[str, ...]
    critic: str
    merger: str
    rewriter: str
    temperature: float
    attempt_tokens: int
    chain_tokens: int
    endpoints: Mapping[str, EndpointConfig] = field(hash=False)


@dataclass(frozen=True)
class CheckpointConfig:
    sft_every: int
    every: int
    keep: int
    keep_damaged: int
    grace_seconds: float


@dataclass(frozen=True)
class MetricsConfig:
    wandb: str
    mlflow: str
    trackio: str

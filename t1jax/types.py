# SPDX-License-Identifier: Apache-2.0
"""The types of t1jax: frozen pytrees that stages hand to each other.

prompts -> rollouts -> rewards -> advantages -> update -> checkpoint -> evaluate -> report.
Every stage takes and returns these. Masks are made in prompts/ and rollouts/ and carried here, never guessed from
token values. The legend of all axis letters is in docs/architecture.md.

Axes: P prompts, R responses per prompt, B = P*R rows, C prompt positions, T response positions,
L layers, K kv heads, H head dim; of the cache: J blocks, S columns of a block, X shards, M lanes of a shard.
Deliberately not here: anything that computes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import struct

Array = Any  # a jax.Array, or what stands for one in the same place: NumPy on the host, its shape, its sharding
Params = Any  # nested dict of float32 arrays, as Flax Linen returns it (unboxed)


@struct.dataclass
class Prompts:
    """A batch of tokenised prompts, right-padded."""

    tokens_PC: Array  # int32[P, C] token ids; what stands where valid_PC is False is never read
    valid_PC: Array  # bool[P, C] True for the prompt's own tokens, a prefix of each row
    problem_P: Array  # int32[P] index of the problem in its source: what the scorer looks up


@struct.dataclass
class KVCache:
    """Keys and values: one copy of each prompt's, and each lane's own in a ring of columns (model/ring.py).

    Lane b reads prompt b // (B // P). All lanes write the same column at the same time.
    """

    prompt_k_LPKCH: Array  # [L, P, K, C, H] compute dtype, keys of the prompt, rope applied
    prompt_v_LPKCH: Array  # [L, P, K, C, H]
    prompt_valid_PC: Array  # bool[P, C]
    k_LJXMKHS: Array  # [L, J, X, M, K, H, S] own keys: J blocks of S columns, X shards of M lanes
    v_LJXMKsh: Array  # [L, J, X, M, K, s, h] own values; s is S and h is H, or as `ragged.folded` says
    length_B: Array  # int32[B] the last columns that are a lane's own; B may be fewer than X * M
    column: Array  # int32[] columns written so far, by all lanes


@struct.dataclass
class Rollouts:
    """Sampled responses. `x_BT[b, t]` speaks about `tokens_BT[b, t]` itself."""

    tokens_BT: Array  # int32[B, T] response tokens, the stop token included; 0 where not sampled
    sampled_BT: Array  # bool[B, T] True where the sampler drew a token (a prefix of each row)
    logprob_BT: Array  # float32[B, T] log-probability under softmax(logits / temperature); 0 where not sampled
    entropy_BT: Array  # float32[B, T] nats, of the same distribution; 0 where not sampled
    stopped_B: Array  # bool[B] True: ended with a stop token; False: cut (overlong, or rl.stop_repeats)
    route_BT: Array | None = None  # uint32[B, T] of the state that predicted it (experts.py); None: no experts


@struct.dataclass
class Scores:
    """What the host says about each response, and whether it puzzles the policy itself."""

    outcome_B: Array  # int8[B] rewards/answers.py: 1 right, 0 wrong, 2 neither, -1 unscorable; -2: step_report.FAILED
    overlong_B: Array  # bool[B] no stop token within the limit
    repetition_B: Array  # bool[B] degenerate repetition
    garbled_B: Array  # bool[B] broken characters or mixed scripts
    perplexed_B: Array  # bool[B] a perplexity above rl.max_perplexity; told by the sampler, not by the host
    reward_B: Array | None = None  # float32[B] before penalties, 0 where unscorable; None: 1 if right, else 0


@struct.dataclass
class Plan:
    """Where each response stands in the rows of the update, which every shard numbers for itself (packing.py)."""

    row_B: Array  # int32[B] row of its shard; -1: in none, nothing is learnt from it
    start_B: Array  # int32[B] position in that row of its first token
    prompt_start_B: Array  # int32[B] position in that row of its prompt's first token
    kept_B: Array | None = None  # bool[B] its group stays for the update; None: all do, as without rl.overdraw


@struct.dataclass
class Packed:
    """Rows of packed text for supervised training; segment 0 is padding."""

    tokens_BT: Array  # int32[B, T]
    segment_BT: Array  # int32[B, T] 1, 2, ... per text; 0 padding
    position_BT: Array  # int32[B, T] position within the text
    target_BT: Array  # bool[B, T] True where the token is part of a response: what the loss counts


@struct.dataclass
class LossScale:
    """What the loss is multiplied by before its gradient is taken in float16 (optim.py)."""

    scale: Array  # float32[]
    steps: Array  # int32[] finite gradients since it last changed


@struct.dataclass
class Adapted:
    """Weights that stay, and what LoRA adds to some of their matrices (model/lora.py)."""

    base: Params  # matrices and tables in compute dtype, norms and biases float32
    adapters: Params  # float32: {"layers": {"q": {"lora_a", "lora_b"}, ...}}


@struct.dataclass
class TrainState:
    """All that an update changes, and with LoRA what stays. `anchor_offset` is None during the cold start."""

    step: Array  # int32[] optimiser updates done
    params: Params  # float32 master weights: of all parameters, or with LoRA of the adapters
    opt_state: Any  # optax state, sharded like params
    anchor_offset: Params | None  # float32, anchor minus params: the KL's moving reference policy (optim.py says why)
    rng: Array  # uint32[2] key data: root of every random number of the sampler; with `step` it names each draw
    loss_scale: LossScale | None = None  # in float16 only
    base: Params | None = None  # with LoRA only: what the adapters are beside; as in Adapted; in no checkpoint

    @property
    def policy(self) -> Params | Adapted:
        """The weights of the policy."""
        return self.params if self.base is None else Adapted(self.base, self.params)

    def kept(self) -> dict[str, Any]:
        """What a checkpoint holds: all but the base, which checkpoints from before LoRA have no place for."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "base"}


# A report of one step: name -> float32[] or int32[] scalar, ready to be written by metrics.py.
Report = dict[str, Array]

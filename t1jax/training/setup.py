# SPDX-License-Identifier: Apache-2.0
"""What a step is made of, built once: the model under each layout, the optimiser, and for RL its rows and lanes.

    setup = rl_setup(cfg, mesh)          # or sft_setup
    state = setup.init_state(params)     # or restore a checkpoint into setup.state_shapes()
    train_step = step.make_train_step(setup, scorer, stop_tokens=...)

Sampling, scoring, the update, the planner, replay, studies and benchmarks take a setup and derive nothing again.
Deliberately not here: what a step does (step.py, sft.py), how bytes are counted (memory.py), how rows are packed
(packing.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

from t1jax.config import Config
from t1jax.devices.sharding import Layout, decode_layout, like_params, train_layout
from t1jax.model import lora, qwen
from t1jax.training import memory
from t1jax.training.memory import MemoryPlan
from t1jax.types import Adapted, Params, TrainState
from t1jax.update import optim, packing


@dataclass(frozen=True)
class Setup:
    """What the updates of a stage are made of. `sft_setup` and `rl_setup` build it."""

    cfg: Config
    learner: qwen.Transformer  # the model under the training layout
    schedule: optax.Schedule  # updates done -> learning rate
    optimizer: optax.GradientTransformation
    anchored: bool  # whether the state has an anchor

    @property
    def layout(self) -> Layout:
        """The training layout."""
        return self.learner.layout

    @property
    def mesh(self) -> Mesh:
        return self.learner.layout.mesh

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained, and the other weights stay."""
        return self.cfg.model.lora_rank > 0

    def read(self, policy: Params | Adapted) -> Params:
        """What the model reads of the policy, or of the anchor: made once a step, and split as weights are. Traceable.

        Else XLA might keep the copy for decoding, which each of `fsdp` has whole, for the update too.
        """
        read = lora.merged(self.cfg.model, policy)
        return jax.lax.with_sharding_constraint(read, qwen.shardings(self.learner)) if self.adapted else read

    def differentiated(self, trained: Params, read: Params) -> tuple[Params, Params | None]:
        """(params, adapters) as qwen.forward takes them, so that the gradient is that of `trained`, TrainState.params.

        This is where what is trained and what is read part: with LoRA they are two things, else one.
        """
        return (read, trained) if self.adapted else (trained, None)

    def state_shapes(self) -> TrainState:
        """The train state as jax.ShapeDtypeStruct with shardings: what a checkpoint is restored into."""
        of = lora if self.adapted else qwen
        lies = of.shardings(self.learner)
        params = nn.unbox(of.boxed_shapes(self.learner))
        opt_state = jax.eval_shape(self.optimizer.init, params)
        scale = jax.eval_shape(lambda: optim.start_loss_scale(self.cfg.model.compute_dtype))
        whole = self.layout.sharding()

        def place(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        placed = jax.tree.map(place, params, lies)
        return TrainState(
            step=jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
            params=placed,
            opt_state=jax.tree.map(place, opt_state, like_params(opt_state, lies, whole)),
            anchor_offset=placed if self.anchored else None,
            rng=jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=whole),
            loss_scale=jax.tree.map(lambda x: place(x, whole), scale),
            base=lora.base_shapes(self.learner) if self.adapted else None,
        )

    def state_shardings(self) -> TrainState:
        """The NamedSharding of every array of the train state; all that mirrors the parameters lies like them."""
        return jax.tree.map(lambda x: x.sharding, self.state_shapes())

    def init_state(self, policy: Params | Adapted) -> TrainState:
        """A train state at step 0 from sharded parameters, which it takes over; the anchor starts as the policy.

        With LoRA the policy is Adapted.
        """
        base, params = (policy.base, policy.adapters) if isinstance(policy, Adapted) else (None, policy)

        def make(params: Params) -> TrainState:
            return TrainState(
                step=jnp.int32(0),
                params=params,
                opt_state=self.optimizer.init(params),
                anchor_offset=optim.start_anchor(params) if self.anchored else None,
                rng=jax.random.key_data(jax.random.key(self.cfg.seed)),
                loss_scale=optim.start_loss_scale(self.cfg.model.compute_dtype),
            )

        shardings = replace(self.state_shardings(), base=None)
        return replace(jax.jit(make, donate_argnums=0, out_shardings=shardings)(params), base=base)


@dataclass(frozen=True)
class RlSetup(Setup):
    """What a step of RL is made of beside its update."""

    sampler: qwen.Transformer  # the model under the decode layout
    grid: packing.Grid  # the rows of the update
    device_bytes: int | None = None  # what a device has; None: asked of the devices
    on_host: bool | None = None  # whether devices share the host's memory; None: asked of the devices

    @cached_property
    def memory(self) -> MemoryPlan:
        """What the step takes on each device. All processes get the same, and ask together.

        Raises:
          ConfigError: rl.lanes is 0 and not even one lane per prompt fits.
        """
        return memory.plan(self.cfg, self.learner, self.sampler, self.grid, self.device_bytes, self.on_host)

    @property
    def lanes(self) -> int:
        """m, how many of a prompt's responses are sampled at a time: rl.lanes, or where that is 0 what fits."""
        return self.cfg.rl.lanes or self.memory.lanes


def sft_setup(cfg: Config, mesh: Mesh) -> Setup:
    """The cold start: AdamW or Muon with a cosine schedule over the whole of it; no anchor."""
    schedule = optim.make_schedule(cfg.sft, cfg.sft.num_steps, "cosine")
    learner = qwen.Transformer(cfg.model, train_layout(mesh))
    return Setup(cfg, learner, schedule, optim.make_optimizer(cfg.sft, schedule), anchored=False)


def rl_setup(cfg: Config, mesh: Mesh, device_bytes: int | None = None, on_host: bool | None = None) -> RlSetup:
    """RL: AdamW with warm-up and a constant rate, and as many lanes as `rl.lanes` says or the memory holds.

    Args:
      cfg: the whole config.
      mesh: the devices; only its shape matters if the other two are given.
      device_bytes: what a device has; None: asked of the devices, the least of all processes.
      on_host: whether the devices share the host's memory; None: asked of the devices.
    """
    schedule = optim.make_schedule(cfg.rl, cfg.rl.num_steps, "constant")
    learner = qwen.Transformer(cfg.model, train_layout(mesh))
    sampler = qwen.Transformer(cfg.model, decode_layout(mesh))
    return RlSetup(
        cfg,
        learner,
        schedule,
        optim.make_optimizer(cfg.rl, schedule),
        anchored=True,
        sampler=sampler,
        grid=packing.make_grid(cfg, learner.layout),
        device_bytes=device_bytes,
        on_host=on_host,
    )

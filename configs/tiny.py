# SPDX-License-Identifier: Apache-2.0
"""All of T1 on a laptop CPU in ten minutes: the embedded task, a model of 0.45 M parameters, no download.

Only what differs from configs/base.py; every knob is explained there. All of it is [ours]: chosen so that two CPU
cores are enough, and so that the cold start is skilled but impatient, which leaves RL something to find.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    cfg = base.get_config()
    cfg.unlock()
    cfg.model.vocab_size = 64
    cfg.model.num_layers = 3
    cfg.model.hidden_size = 128
    cfg.model.num_heads = 4
    cfg.model.num_kv_heads = 2
    cfg.model.head_dim = 32
    cfg.model.mlp_size = 256
    cfg.model.rope_theta = 10_000.0
    cfg.model.norm_eps = 1e-6
    cfg.model.tie_embeddings = True
    cfg.model.compute_dtype = "float32"

    cfg.data.prompt_length = 24

    cfg.sft.num_steps = 2800
    cfg.sft.batch_size = 12
    cfg.sft.sequence_length = 160  # a prompt and the longest response: later positions would never be trained
    cfg.sft.vocab_chunks = 1
    cfg.sft.optimizer = "muon"
    cfg.sft.learning_rate = 3e-3
    cfg.sft.weight_decay = 0.01

    cfg.rl.num_steps = 36
    cfg.rl.responses_per_prompt = 16
    cfg.rl.max_new_tokens = 128
    cfg.rl.window = 32
    cfg.rl.micro_batches = 32  # parts that stay in the caches of a CPU
    cfg.rl.vocab_chunks = 1
    cfg.rl.learning_rate = 1.5e-4
    cfg.rl.kl_coef = 1e-3
    cfg.rl.anchor_decay = 0.98

    cfg.eval.batch_size = 512
    cfg.eval.every = 9
    cfg.eval.keep_responses = 1024  # all: they are short

    cfg.scaling.budgets = (4, 8, 16, 24, 32, 48, 64, 96, 128)
    cfg.scaling.answer_tokens = 8

    cfg.synthesis.critic = "rules"
    cfg.synthesis.merger = "rules"
    cfg.synthesis.rewriter = ""
    cfg.synthesis.attempt_tokens = 128
    cfg.synthesis.chain_tokens = 128

    cfg.checkpoint.every = 6
    return cfg.lock()

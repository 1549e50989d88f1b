# SPDX-License-Identifier: Apache-2.0
"""All of T1 on a real language model and a CPU: SmolLM2-135M-Instruct (Hugging Face:
HuggingFaceTB/SmolLM2-135M-Instruct) learns to search. The task is the demo's (docs/tasks.md), asked in the model's own
tokenizer and chat; docs/real_model.md has the story and its figures. Two CPU cores are enough.

Only what differs from configs/base.py; every knob is explained in configs/base.py. All of it is [ours].
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    cfg = base.get_config()
    cfg.unlock()
    cfg.model.checkpoint = "models/SmolLM2-135M-Instruct"
    cfg.model.vocab_size = 49152
    cfg.model.num_layers = 30
    cfg.model.hidden_size = 576
    cfg.model.num_heads = 9
    cfg.model.num_kv_heads = 3
    cfg.model.head_dim = 64
    cfg.model.mlp_size = 1536
    cfg.model.qkv_bias = False
    cfg.model.rope_theta = 100_000.0
    cfg.model.norm_eps = 1e-5
    cfg.model.tie_embeddings = True
    cfg.model.compute_dtype = "float32"

    cfg.model.remat = "none"  # parts are small: what a layer computes is kept

    cfg.task.name = "pairs"
    cfg.task.min_numbers = 4
    cfg.task.max_numbers = 4  # six pairs
    cfg.task.max_value = 16
    cfg.task.impatient_share = 0.85

    cfg.data.prompt_length = 104  # the chat's system message and the longest question
    cfg.data.response_prefix = "<think>\n"

    cfg.sft.num_steps = 72
    cfg.sft.batch_size = 8
    cfg.sft.sequence_length = 224  # a prompt and the longest chain
    cfg.sft.micro_batches = 2
    cfg.sft.vocab_chunks = 2
    cfg.sft.learning_rate = 2e-4
    cfg.sft.warmup_steps = 6

    cfg.rl.num_steps = 8
    cfg.rl.prompts_per_step = 8
    cfg.rl.responses_per_prompt = 16
    cfg.rl.temperature = 1.0  # a model of this size loses the thread at 1.2
    cfg.rl.max_new_tokens = 192  # a patient chain needs 76 on average: room to be overlong in
    cfg.rl.window = 32
    cfg.rl.micro_batches = 32  # small parts: responses are a third of the limit, and what is empty is not computed
    cfg.rl.vocab_chunks = 2
    cfg.rl.learning_rate = 2e-5
    cfg.rl.anchor_decay = 0.98

    cfg.eval.num_problems = 256
    cfg.eval.batch_size = 64
    cfg.eval.every = 8
    cfg.eval.quick_problems = 64

    cfg.scaling.budgets = (14, 28, 56, 84, 112)  # attempts of 14 tokens: one, two, four, six and eight
    cfg.scaling.answer_prefix = "\n</think>\n\\boxed{"
    cfg.scaling.answer_tokens = 12

    cfg.checkpoint.sft_every = 36
    cfg.checkpoint.every = 4
    cfg.checkpoint.keep = 10  # for the inference scaling of every stage
    return cfg.lock()

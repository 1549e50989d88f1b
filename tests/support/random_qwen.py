# SPDX-License-Identifier: Apache-2.0
"""A random Qwen2 that transformers made, a few problems, and the knobs with which a command asks them."""

from __future__ import annotations

import json
from pathlib import Path

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
KNOBS = (
    "--config.rl.max_new_tokens=12",
    "--config.rl.window=12",
    "--config.data.prompt_length=64",
    "--config.data.template={problem}",
    "--config.eval.batch_size=8",
    "--config.model.compute_dtype=float32",
    "--config.scaling.answer_tokens=4",
    "--config.verifier.workers=1",
)
PROBLEMS = [
    {"problem": "one and one", "answer": "2", "level": 1, "subject": "sums"},
    {"problem": "one and two", "answer": "3", "level": 2, "subject": "sums"},
    {"problem": "one less one", "answer": "0", "level": 1, "subject": "differences"},
    {"problem": "one", "answer": "1", "level": 1, "subject": "sums"},
    {"problem": "two", "answer": "2", "level": 2, "subject": "sums"},
]


def make_folder(folder: Path, seed: int = 0, layers: int = 1, width: int = 32, tied: bool = True) -> Path:
    """A Hugging Face folder of a random model whose tokens are often a boxed digit, sometimes a stop.

    If tied, its likeliest token is the one before.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    engine.train_from_iterator([p["problem"] for p in PROBLEMS] * 5, trainer)
    boxes = ["\\boxed{" + "0" * zeros + str(digit) + "}" for digit in range(4) for zeros in range(10)]
    engine.add_tokens([AddedToken(text, normalized=False) for text in [*boxes, "</think>"]])
    stops = [f"<stop{i}>" for i in range(15)]
    engine.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in stops])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=engine, eos_token=stops[0], pad_token=stops[0])
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 8) * 8, hidden_size=width, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied, max_position_embeddings=256,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(stops)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return folder


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]

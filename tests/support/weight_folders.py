# SPDX-License-Identifier: Apache-2.0
"""Tiny Hugging Face folders of each family with random weights, written by the safetensors library."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
import small
from safetensors.numpy import load_file, save_file

from configs import tiny
from t1jax import config
from t1jax.training.checkpoint import Checkpoints
from t1jax.weights import families, tensor_table

LIKE = config.load(tiny.get_config()).model
SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "torch_dtype": "float32",
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "tie_word_embeddings": False},
    "qwen2 tied": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16},
    "qwen3moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
    },
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "glm": {"architectures": ["GlmForCausalLM"], "model_type": "glm", "head_dim": 16},
    "glm4": {"architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "head_dim": 16, "attention_bias": False},
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Tensors = dict[str, np.ndarray]


def write(folder: Path, name: str = "qwen2", dtype: Any = np.float32, shards: int = 1, seed: int = 0) -> Tensors:
    """Makes the folder: config.json, generation_config.json and the weights, in shards with an index if several."""
    folder.mkdir(parents=True)
    hf = SIZES | MODELS[name] | {"torch_dtype": np.dtype(dtype).name}
    (folder / "config.json").write_text(json.dumps(hf))
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 1]}')
    random = np.random.default_rng(seed)
    cfg = families.model_config(hf, LIKE, "config.json")
    tensors = {t.name: random.normal(0, 0.5, t.shape).astype(dtype) for t in tensor_table.tensors(cfg)}
    save(folder, tensors, shards)
    return tensors


def save(folder: Path, tensors: Tensors, shards: int = 1) -> None:
    """The weights' files, in place of those that are there."""
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    if shards == 1:
        save_file(tensors, folder / SINGLE)
        return
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[i::shards]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def read(folder: Path) -> Tensors:
    """All tensors of a folder, by the safetensors library."""
    return {name: x for path in sorted(folder.glob("*.safetensors")) for name, x in load_file(path).items()}


def raw(path: Path, header: Any, data: bytes = b"") -> None:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def same(a: Tensors, b: Tensors) -> None:
    """Asserts equal names, dtypes, shapes and bits."""
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


class Beside:
    """Stands for a tokenizer: puts some files beside the checkpoints."""

    def __init__(self, **files):
        self.files = {"tokenizer.model": "pieces"} | files

    def save(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (directory / name).write_text(text)


def make_run(workdir, mesh=(1, 1, 1), stages=("rl",), steps=(1,), **files):
    """A workdir whose last checkpoint is of the state that is returned."""
    cfg = small.make_config()
    for stage in stages:
        state = small.start(cfg, small.make_mesh(mesh))
        if stage == "sft":
            state = state.replace(anchor_offset=None)
        with Checkpoints(workdir / "checkpoints" / stage, cfg, Beside(**files)) as checkpoints:
            for step in steps:
                params = jax.tree.map(lambda x, step=step: x + step / 8, state.params)
                checkpoints.save(step, state.replace(params=params))
    return state.replace(params=params)

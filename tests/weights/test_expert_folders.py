# SPDX-License-Identifier: Apache-2.0
"""Folders of a mixture of experts: stacked by layer and expert, read by slices, refused in a line if they are bad."""

from __future__ import annotations

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small
import weight_folders as folders
from converting import refused, run

from t1jax.config import ConfigError
from t1jax.devices import sharding
from t1jax.model import qwen
from t1jax.weights import load as weights
from t1jax.weights import orbax_arrays, peft

EXPERT = "model.layers.{}.mlp.experts.{}.{}_proj.weight"


def test_experts_are_stacked_by_layer_and_expert_and_read_by_slices(tmp_path):
    tensors = folders.write(tmp_path / "hf", "qwen3moe", shards=3)
    source = weights.find(tmp_path / "hf")
    cfg = weights.model_config(source, folders.LIKE)
    arrays = weights.arrays(source, cfg)
    for part in ("gate", "up", "down"):
        array = arrays["layers", f"expert_{part}"]
        whole = np.stack([[tensors[EXPERT.format(i, e, part)].T for e in range(4)] for i in range(3)])
        assert array.shape == whole.shape
        for index in (np.s_[:, :, :, :], np.s_[1:3, 2:4, 4:7, :], np.s_[2:3, 0:1, :, 3:5]):
            np.testing.assert_array_equal(array.read(index), whole[index])
        assert array.where((2, 1)).endswith(f"tensor {EXPERT.format(2, 1, part)}")
    router = np.stack([tensors[f"model.layers.{i}.mlp.gate.weight"].T for i in range(3)])
    np.testing.assert_array_equal(arrays["layers", "router"].read(np.s_[:, :, :]), router)


def test_plain_orbax_restores_experts_stacked_and_a_chunk_has_one(tmp_path):
    tensors = folders.write(tmp_path / "hf", "qwen3moe")
    assert run("hf-to-orbax", "--src", tmp_path / "hf", "--dst", tmp_path / "orbax") == 0
    with ocp.StandardCheckpointer() as checkpointer:
        params = checkpointer.restore(tmp_path / "orbax" / "params")
    up = np.stack([[tensors[EXPERT.format(i, e, "up")].T for e in range(4)] for i in range(3)])
    assert params["layers"]["expert_up"].tobytes() == up.tobytes()
    stored = orbax_arrays.open_arrays(tmp_path / "orbax" / "params")["layers", "expert_up"]
    assert stored.store.chunk_layout.read_chunk.shape == (1, 1, 32, 24)
    assert stored.where((1, 3)).endswith("layers.expert_up, layer 1, expert 3")


@pytest.mark.parametrize("form", ["hf", "orbax"])
@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 1, 4)])
def test_each_device_loads_its_own_experts(tmp_path, form, shape):
    tensors = folders.write(tmp_path / "hf", "qwen3moe")
    assert run("hf-to-orbax", "--src", tmp_path / "hf", "--dst", tmp_path / "orbax") == 0
    source = weights.find(tmp_path / form)
    cfg = weights.model_config(source, folders.LIKE)
    params = weights.load(source, qwen.Transformer(cfg, sharding.train_layout(small.make_mesh(shape))))
    down = np.stack([[tensors[EXPERT.format(i, e, "down")].T for e in range(4)] for i in range(3)])
    np.testing.assert_array_equal(params["layers"]["expert_down"], down)
    for shard in params["layers"]["expert_down"].addressable_shards:
        assert shard.data.shape == (3, 4 // shape[2], 24, 32 // shape[1])


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(*names):
    return lambda folder: folders.save(folder, {n: x for n, x in folders.read(folder).items() if n not in names})


def reshaped(name, shape):
    return lambda folder: folders.save(folder, folders.read(folder) | {name: np.zeros(shape, np.float32)})


def not_finite(name):
    def apply(folder):
        tensors = folders.read(folder)
        tensors[name] = tensors[name] * np.float32(np.nan)
        folders.save(folder, tensors)

    return apply


ROUTER = "model.layers.1.mlp.gate.weight"
BAD = {
    "an expert is missing": (
        without(*(EXPERT.format(1, 3, part) for part in ("gate", "up", "down"))),
        "hf lacks 'model.layers.1.mlp.experts.3.down_proj.weight (32, 24)'",
        "which the model needs; found 63 tensors, expected 66",
    ),
    "a matrix is missing": (without(EXPERT.format(0, 0, "up")), "lacks 'model.layers.0.mlp.experts.0.up_proj.weight"),
    "the router is missing": (without(ROUTER), "hf lacks 'model.layers.1.mlp.gate.weight (4, 32)'"),
    "more experts than config.json says": (
        lambda folder: change(folder, num_experts=3),
        "hf has 'model.layers.0.mlp.experts.3.down_proj.weight (32, 24)'",
        "which the model does not have; found 66 tensors, expected 57",
    ),
    "fewer experts than config.json says": (
        lambda folder: change(folder, num_experts=5),
        "hf lacks 'model.layers.0.mlp.experts.4.down_proj.weight (32, 24)'",
        "found 66 tensors, expected 75",
    ),
    "a router for others": (
        reshaped(ROUTER, (5, 32)),
        "shapes that differ from those of config.json: 'model.layers.1.mlp.gate.weight (5, 32), not (4, 32)'",
    ),
    "experts of another width": (
        lambda folder: change(folder, moe_intermediate_size=40),
        "shapes that differ from those of config.json: 'model.layers.0.mlp.experts.0.down_proj.weight (32, 24), not",
    ),
    "a dense model's layers": (
        lambda folder: change(folder, architectures=["Qwen3ForCausalLM"], model_type="qwen3"),
        "hf lacks 'model.layers.0.mlp.down_proj.weight (32, 40)'",
    ),
    "not a number": (
        not_finite(EXPERT.format(2, 1, "up")),
        "tensor model.layers.2.mlp.experts.1.up_proj.weight is NaN or infinite as float32; expected finite numbers",
    ),
    "every second layer": (
        lambda folder: change(folder, decoder_sparse_step=2),
        "decoder_sparse_step is 2; expected 1",
    ),
    "quantised": (lambda folder: change(folder, quantization_config={"bits": 4}), "quantization_config is {'bits': 4}"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_one_line_and_the_destination_is_untouched(tmp_path, capsys, case):
    damage, *words = BAD[case]
    folders.write(tmp_path / "hf", "qwen3moe")
    damage(tmp_path / "hf")
    refused(tmp_path, capsys, words, "hf-to-orbax", f"--src={tmp_path / 'hf'}", f"--dst={tmp_path / 'out'}")


def test_what_is_not_finite_is_named_by_layer_and_expert_when_it_is_loaded(tmp_path):
    folders.write(tmp_path / "hf", "qwen3moe")
    not_finite(EXPERT.format(2, 1, "up"))(tmp_path / "hf")
    source = weights.find(tmp_path / "hf")
    cfg = weights.model_config(source, folders.LIKE)
    with pytest.raises(ConfigError, match=r"tensor model.layers.2.mlp.experts.1.up_proj.weight: NaN or infinite"):
        weights.load(source, qwen.Transformer(cfg, sharding.train_layout(small.make_mesh())))


def test_a_run_with_experts_is_found_and_exported(tmp_path, monkeypatch):
    experts = {"model__num_experts": 4, "model__experts_per_token": 2, "model__mlp_size": 24}
    cfg = small.make_config(**experts, model__qkv_bias=False, model__qk_norm=True)
    monkeypatch.setattr(small, "make_config", lambda: cfg)
    state = folders.make_run(tmp_path / "run", (1, 2, 2))
    assert run("orbax-to-hf", "--src", tmp_path / "run", "--dst", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (found["architectures"], found["num_experts"], found["num_experts_per_tok"], found["norm_topk_prob"]) == (
        ["Qwen3MoeForCausalLM"], 4, 2, False
    )  # fmt: skip
    source = weights.find(tmp_path / "out")
    weights.refuse_mismatch(source, cfg.model)
    loaded = weights.load(source, qwen.Transformer(cfg.model, sharding.train_layout(small.make_mesh())))
    jax.tree.map(np.testing.assert_array_equal, small.to_numpy(loaded), small.to_numpy(state.params))


def test_an_adapter_of_experts_is_refused(tmp_path):
    base = tmp_path / "base"
    folders.write(base, "qwen3moe")
    cfg = weights.model_config(weights.find(base), folders.LIKE)
    (tmp_path / "adapter").mkdir()
    for modules, names in ((["q_proj", "up_proj"], "up_proj"), ("all-linear", "gate_proj, up_proj, down_proj")):
        said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": modules}
        (tmp_path / "adapter" / peft.CONFIG).write_text(json.dumps(said | {peft.BASE: str(base)}))
        with pytest.raises(ConfigError, match=f"target_modules has {names}; expected matrices of attention alone"):
            peft.factors(peft.read_config(tmp_path / "adapter"), cfg)

# SPDX-License-Identifier: Apache-2.0
"""Weights of every kind of folder: found, checked, equal on any mesh, and read no further than a device needs."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small
import weight_folders as folders
from weight_folders import Beside, make_run

from t1jax.config import ConfigError
from t1jax.devices import sharding
from t1jax.host.progress import Progress
from t1jax.model import qwen
from t1jax.training.checkpoint import Checkpoints
from t1jax.update import optim
from t1jax.weights import conversion
from t1jax.weights import load as weights
from t1jax.weights.safetensors_files import StoredTensor

MESHES = [(1, 1, 1), (2, 2, 2)]


def model(source, mesh=(1, 1, 1)):
    cfg = weights.model_config(source, folders.LIKE)
    return qwen.Transformer(cfg, sharding.train_layout(small.make_mesh(mesh)))


def load(path, mesh=(1, 1, 1), dtype="float32", which="policy"):
    source = weights.find(path)
    return weights.load(source, model(source, mesh), dtype, which)


def same(a, b):
    """Asserts equal trees, bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape), path
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def in_float32(params, *words, like=None):
    """`params`, but those whose name ends so are float32: as they are, or as in `like`."""

    def one(path, x, whole):
        return np.asarray(whole, np.float32) if path[-1].key.endswith(words) else x

    return jax.tree_util.tree_map_with_path(one, params, params if like is None else like)


def by_hand(tensors, name):
    """What the parameters are, written without the table."""
    heads, kv, width = 4, 2, 32
    layers = [
        {key.removeprefix(f"model.layers.{i}."): x for key, x in tensors.items() if f"layers.{i}." in key}
        for i in range(3)
    ]

    def stack(key, change=lambda x: x):
        return np.stack([change(layer[key]) for layer in layers])

    def heads_first(n):
        return lambda x: x.T.reshape(width, n, -1)

    params = {"embedding": tensors["model.embed_tokens.weight"], "final_norm": tensors["model.norm.weight"]}
    if "lm_head.weight" in tensors:
        params["head"] = tensors["lm_head.weight"].T
    params["layers"] = {
        "attention_norm": stack("input_layernorm.weight"),
        "mlp_norm": stack("post_attention_layernorm.weight"),
        "q": stack("self_attn.q_proj.weight", heads_first(heads)),
        "k": stack("self_attn.k_proj.weight", heads_first(kv)),
        "v": stack("self_attn.v_proj.weight", heads_first(kv)),
        "o": stack("self_attn.o_proj.weight", lambda x: x.T.reshape(heads, -1, width)),
    }
    if name.startswith("glm"):  # in one tensor, the gate first
        for half, part in enumerate(("gate", "up")):
            params["layers"][part] = stack("mlp.gate_up_proj.weight", lambda x, half=half: np.split(x, 2)[half].T)
        params["layers"]["down"] = stack("mlp.down_proj.weight", np.transpose)
    elif name == "qwen3moe":
        params["layers"]["router"] = stack("mlp.gate.weight", np.transpose)
        for part in ("gate", "up", "down"):
            each = [stack(f"mlp.experts.{e}.{part}_proj.weight", np.transpose) for e in range(4)]
            params["layers"][f"expert_{part}"] = np.stack(each, axis=1)
    else:
        for part in ("gate", "up", "down"):
            params["layers"][part] = stack(f"mlp.{part}_proj.weight", np.transpose)
    if name == "glm4":
        for part, key in (("attention_out_norm", "post_self_attn"), ("mlp_out_norm", "post_mlp")):
            params["layers"][part] = stack(f"{key}_layernorm.weight")
    if "self_attn.q_proj.bias" in layers[0]:
        for letter, n in (("q", heads), ("k", kv), ("v", kv)):
            biases = stack(f"self_attn.{letter}_proj.bias", lambda x, n=n: x.reshape(n, -1))
            params["layers"][f"{letter}_bias"] = biases
    if name in ("qwen3", "qwen3moe"):
        for letter in "qk":
            params["layers"][f"{letter}_norm"] = stack(f"self_attn.{letter}_norm.weight")
    return params


@pytest.mark.parametrize("name", folders.MODELS)
def test_both_forms_give_the_same_parameters_on_any_mesh(tmp_path, name):
    tensors = folders.write(tmp_path / "hf", name, ml_dtypes.bfloat16, shards=2)
    conversion.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    expected = by_hand({key: x.astype(np.float32) for key, x in tensors.items()}, name)
    for mesh in MESHES:
        for form in ("hf", "orbax"):
            params = load(tmp_path / form, mesh)
            same(params, expected)
            source = weights.find(tmp_path / form)
            assert jax.tree.map(lambda x: x.sharding, params) == qwen.shardings(model(source, mesh))
    half = load(tmp_path / "hf", (2, 2, 2), "bfloat16")
    same(half, in_float32(by_hand(tensors, name), "norm", "bias"))


class Spy(np.ndarray):
    """An array whose parts are counted when they are taken."""

    taken: list[int] = []

    def __getitem__(self, index):
        part = super().__getitem__(index)
        Spy.taken.append(part.nbytes)
        return part


@pytest.mark.parametrize("name", ["model.rotary_emb.inv_freq", "model.layers.{}.self_attn.rotary_emb.inv_freq"])
def test_the_rotary_frequencies_of_older_folders_are_no_weights(tmp_path, name):
    tensors = folders.write(tmp_path / "hf", "llama")
    before = load(tmp_path / "hf")
    more = {name.format(layer): np.ones(4, np.float32) for layer in range(3)}
    folders.save(tmp_path / "hf", tensors | more, shards=2)
    same(load(tmp_path / "hf"), before)
    conversion.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    same(load(tmp_path / "orbax"), before)
    folders.save(tmp_path / "hf", tensors | {"model.layers.0.self_attn.inv_freq": np.ones(4, np.float32)})
    with pytest.raises(ConfigError, match=r"inv_freq \(4,\)', which the model does not have"):
        load(tmp_path / "hf")


def test_a_shard_is_read_without_its_neighbours(tmp_path, monkeypatch):
    """What each device's callback takes of the files is the device's shard, byte for byte."""
    folders.write(tmp_path / "hf", "qwen3")
    monkeypatch.setattr(StoredTensor, "view", lambda self, view=StoredTensor.view: view(self).view(Spy))
    source = weights.find(tmp_path / "hf")
    sharded = model(source, (2, 2, 2))
    arrays = weights.arrays(source, sharded.cfg)
    smaller = 0
    for keys, lies in jax.tree_util.tree_leaves_with_path(qwen.shardings(sharded)):
        array = arrays[tuple(key.key for key in keys)]
        whole = array.read((slice(None),) * len(array.shape))
        for index in lies.devices_indices_map(array.shape).values():
            Spy.taken.clear()
            part = array.read(index)
            assert np.array_equal(part, whole[index])
            assert sum(Spy.taken) == part.nbytes
            smaller += part.nbytes < whole.nbytes
    assert smaller > 20


def test_a_runs_policy_and_anchor_are_what_it_trained(tmp_path):
    state = make_run(tmp_path / "run", (2, 2, 2))
    anchor = jax.jit(optim.anchor_params)(state.anchor_offset, state.params)
    for mesh in MESHES:
        same(load(tmp_path / "run", mesh), state.params)
        same(load(tmp_path / "run", mesh, which="anchor"), anchor)
    half = load(tmp_path / "run", dtype="bfloat16", which="anchor")  # added in float32, rounded once
    same(half, in_float32(jax.tree.map(lambda x: x.astype("bfloat16"), anchor), "norm", "bias", like=anchor))


def test_the_newest_step_of_the_last_stage_is_found(tmp_path):
    make_run(tmp_path / "run", stages=("sft", "rl"), steps=(2, 9, 10))
    rl, sft = tmp_path / "run/checkpoints/rl", tmp_path / "run/checkpoints/sft"
    for path in (tmp_path / "run", rl, rl / "10"):
        assert weights.find(path) == weights.Source(rl, "run", rl / "10")
    assert weights.find(rl / "2") == weights.Source(rl, "run", rl / "2")
    assert weights.find(str(sft)) == weights.Source(sft, "run", sft / "10")
    (rl / "11.orbax-checkpoint-tmp" / "state").mkdir(parents=True)  # what a killed run leaves
    assert weights.find(rl).step == rl / "10"
    shutil.rmtree(rl)
    rl.mkdir()
    assert weights.find(tmp_path / "run") == weights.Source(sft, "run", sft / "10")
    with pytest.raises(ConfigError, match="holds no anchor_offset"):
        load(tmp_path / "run", which="anchor")


def test_what_holds_no_weights_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "config.json").write_text("{}")
    for path, words in (("none", "no such folder"), ("file", "is a file"), (".", "holds no weights; expected config")):
        with pytest.raises(ConfigError, match=words):
            weights.find(tmp_path / path)
    folders.write(tmp_path / "hf")
    with pytest.raises(ConfigError, match="hf is not a run; only the checkpoints of a run have an anchor"):
        load(tmp_path / "hf", which="anchor")


def test_a_model_that_differs_from_the_config_is_told_by_its_knobs(tmp_path):
    folders.write(tmp_path / "hf", "qwen3")
    source = weights.find(tmp_path / "hf")
    cfg = dataclasses.replace(weights.model_config(source, folders.LIKE), remat="none", checkpoint="here")
    weights.refuse_mismatch(source, cfg)
    with pytest.raises(ConfigError) as caught:
        weights.refuse_mismatch(source, dataclasses.replace(cfg, num_layers=28, qk_norm=False))
    message = str(caught.value)
    assert f"{tmp_path}/hf/config.json" in message
    assert "model.num_layers is 28, not 3; model.qk_norm is False, not True; leave" in message

    make_run(tmp_path / "run")
    source, cfg = weights.find(tmp_path / "run"), small.make_config().model
    weights.refuse_mismatch(source, dataclasses.replace(cfg, compute_dtype="bfloat16", attention="xla"))
    with pytest.raises(ConfigError, match="1/config/metadata describes.*model.mlp_size is 49, not 48; leave"):
        weights.refuse_mismatch(source, dataclasses.replace(cfg, mlp_size=49))


@pytest.mark.parametrize(
    "knob, value, words",
    [
        ("mlp_size", "48", "model.mlp_size is '48'; expected int"),
        ("num_layers", -1, "model.num_layers is -1; expected int"),
        ("num_layers", 2**40, "model.num_layers is 1099511627776; expected int"),
        ("vocab_size", True, "model.vocab_size is True; expected int"),
        ("tie_embeddings", 0, "model.tie_embeddings is 0; expected bool"),
        ("qk_norm", None, "model.qk_norm is missing; expected bool; is the run older?"),
        ("num_layers", 3, "lacks|has shapes that differ"),
    ],
)
def test_what_a_run_says_of_its_model_is_checked(tmp_path, knob, value, words):
    make_run(tmp_path / "run")
    file = tmp_path / "run/checkpoints/rl/1/config/metadata"
    saved = json.loads(file.read_text())
    saved["model"][knob] = value
    if value is None:
        del saved["model"][knob]
    file.write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match=words):
        load(tmp_path / "run")


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused_by_name(tmp_path, mesh, bad):
    tensors = folders.write(tmp_path / "hf")
    tensors["model.layers.1.mlp.up_proj.weight"][39, 31] = bad
    tensors["model.norm.weight"][5] = bad
    folders.save(tmp_path / "hf", tensors, 2)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "hf", mesh)
    message = str(caught.value)
    assert "tensor model.norm.weight; " in message and "tensor model.layers.1.mlp.up_proj.weight: NaN" in message
    assert message.count("tensor ") == 2 and f"{tmp_path}/hf/model-0000" in message

    state = make_run(tmp_path / "run")
    params = state.params | {"layers": state.params["layers"] | {"q": state.params["layers"]["q"].at[1, 0].set(bad)}}
    with Checkpoints(tmp_path / "run/checkpoints/rl", small.make_config(), Beside()) as checkpoints:
        checkpoints.save(2, state.replace(params=params))
    with pytest.raises(ConfigError, match=r"rl/2/state: params.layers.q, layer 1: NaN or infinite"):
        load(tmp_path / "run", mesh)


def test_a_tied_model_may_have_its_embedding_twice_but_not_another_head(tmp_path):
    tensors = folders.write(tmp_path / "hf", "qwen2 tied")
    before = load(tmp_path / "hf", (2, 2, 2))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    folders.save(tmp_path / "hf", tensors, 2)
    same(load(tmp_path / "hf", (2, 2, 2)), before)
    tensors["lm_head.weight"][47, 31] += 1
    folders.save(tmp_path / "hf", tensors)
    with pytest.raises(ConfigError, match="tensor lm_head.weight differs from model.embed_tokens.weight; expected the"):
        load(tmp_path / "hf")
    folders.save(tmp_path / "hf", tensors | {"lm_head.weight": np.zeros((3, 32), np.float32)})
    with pytest.raises(ConfigError, match=r"tensor lm_head.weight has shape \(3, 32\); expected \(48, 32\)"):
        load(tmp_path / "hf")


def rewrite(folder, change):
    """The arrays of folder/params, changed, by plain Orbax."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder / "params")
        shutil.rmtree(folder / "params")
        change(tree)
        checkpointer.save(folder / "params", tree)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda tree: tree.pop("final_norm"), r"params lacks 'final_norm \(32,\)', which the model needs; found 11 t"),
        (lambda tree: tree.update(extra=np.zeros(3)), r"params has 'extra \(3,\)', which the model does not have"),
        (lambda tree: tree["layers"].update(q=np.zeros((3, 32, 4, 9), np.float32)), r"layers.q \(3, 32, 4, 9\), not"),
        (lambda tree: tree.update(final_norm=np.zeros(32, np.int8)), "final_norm is int8; expected one of float32"),
    ],
)
def test_an_orbax_folder_is_used_exactly_or_refused(tmp_path, change, words):
    folders.write(tmp_path / "hf", "llama")
    conversion.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    rewrite(tmp_path / "orbax", change)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path / "orbax")

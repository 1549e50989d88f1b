# SPDX-License-Identifier: Apache-2.0
"""PEFT's folders: logits and gradients against peft itself, names, both directions, and what is refused."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import weight_folders
from safetensors.numpy import load_file, save_file

from t1jax import convert
from t1jax.config import ConfigError
from t1jax.devices import sharding
from t1jax.model import lora, qwen
from t1jax.weights import adapters, peft
from t1jax.weights import load as weights

FAMILIES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}
RANK, ALPHA = 3, 5.0
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_base(folder, family):
    """A random model that transformers made, float32, saved in `folder`."""
    import torch
    import transformers

    torch.manual_seed(0)
    more = {"head_dim": 16} if family == "qwen3" else {}
    config = getattr(transformers, f"{FAMILIES[family]}Config")(
        vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, **more,
    )  # fmt: skip
    model = getattr(transformers, f"{FAMILIES[family]}ForCausalLM")(config).float()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(torch.randn_like(x) * 0.15)
    model.save_pretrained(folder)
    return model


def make_adapter(model, folder, base, modules=MODULES):
    """peft's model with random factors, saved in `folder`."""
    import torch
    from peft import LoraConfig, get_peft_model

    made = get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules, task_type="CAUSAL_LM", lora_dropout=0.0)
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, x in made.named_parameters():
            if "lora_" in name:
                x.copy_(torch.randn_like(x) * 0.2)
    made.peft_config["default"].base_model_name_or_path = str(base)
    made.save_pretrained(folder)
    return made


def opened(folder):
    """(source, config with the adapter's knobs, adapters as arrays) of PEFT's folder."""
    source = weights.find(folder)
    cfg = small.dataclasses.replace(
        weights.model_config(source, small.make_config().model),
        lora_rank=RANK, lora_alpha=ALPHA, attention="xla", compute_dtype="float32",
    )  # fmt: skip
    adapter = peft.read_config(source.adapter)
    of = peft.factors(adapter, cfg)
    layers = {}
    for name in adapter.names:
        each = [of(name)(layer) for layer in range(cfg.num_layers)]
        layers[name] = {lora.A: np.stack([a for a, _ in each]), lora.B: np.stack([b for _, b in each])}
    return source, cfg, {"layers": layers}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_peft(family, tmp_path):
    import torch

    theirs = make_adapter(make_base(tmp_path / "base", family), tmp_path / "adapter", tmp_path / "base")
    source, cfg, adapters = opened(tmp_path / "adapter")
    model = qwen.Transformer(cfg, sharding.train_layout(small.make_mesh()))
    merged = weights.load(source, model)
    tokens_BT = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, 11)).astype(np.int32)
    position_BT = np.broadcast_to(np.arange(11, dtype=np.int32), (2, 11))
    direction = np.random.default_rng(1).normal(0, 1, (2, 11, cfg.vocab_size)).astype(np.float32)

    def total(adapters, merged):
        ones_BT = jnp.ones((2, 11), jnp.int32)
        hidden, _ = qwen.forward(model, merged, tokens_BT, position_BT, segment_BT=ones_BT, adapters=adapters)
        logits = qwen.logits(model, merged, hidden)
        return (logits * direction).sum(), logits

    gradient, logits = jax.jit(jax.grad(total, has_aux=True))(adapters, merged)
    expected = theirs(torch.tensor(tokens_BT, dtype=torch.long)).logits
    (expected * torch.tensor(direction)).sum().backward()
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-5 * float(expected.abs().max()))
    found = {name: x.grad.numpy() for name, x in theirs.named_parameters() if "lora_" in name}
    assert len(found) == 2 * 7 * 2
    for row in peft._rows(cfg, lora.TARGETS["all"]):
        for key, name in zip((lora.A, lora.B), peft.tensor_names(row), strict=True):
            other = found[name.replace(".weight", ".default.weight")]
            ours = np.array(gradient["layers"][row.path[-1]][key][row.at])
            flat = ours.reshape(-1, RANK) if key == lora.A else ours.reshape(RANK, -1)
            np.testing.assert_allclose(flat.T, other, atol=1e-5 * np.abs(other).max() + 1e-5, err_msg=name)


def test_names_are_those_that_peft_and_vllm_read(tmp_path):
    """Each name spelt out: PEFT's own file has them, and vLLM strips base_model.model. and lora_A.weight from them."""
    make_adapter(make_base(tmp_path / "base", "qwen2"), tmp_path / "adapter", tmp_path / "base")
    modules = {f"self_attn.{x}_proj" for x in "qkvo"} | {f"mlp.{x}_proj" for x in ("gate", "up", "down")}
    expected = {
        f"base_model.model.model.layers.{layer}.{module}.lora_{factor}.weight"
        for layer in (0, 1) for module in modules for factor in "AB"
    }  # fmt: skip
    _, cfg, _ = opened(tmp_path / "adapter")
    ours = {name for row in peft._rows(cfg, lora.TARGETS["all"]) for name in peft.tensor_names(row)}
    assert ours == expected == set(load_file(tmp_path / "adapter" / peft.WEIGHTS))


def test_what_is_written_peft_reads_bit_by_bit(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    make_adapter(make_base(tmp_path / "base", "qwen3"), tmp_path / "adapter", tmp_path / "base")
    _, cfg, _ = opened(tmp_path / "adapter")
    (tmp_path / "again").mkdir()
    of = peft.factors(peft.read_config(tmp_path / "adapter"), cfg)
    peft.write(tmp_path / "again", cfg, of, "all", RANK, ALPHA, str(tmp_path / "base"))
    one, other = (load_file(tmp_path / name / peft.WEIGHTS) for name in ("adapter", "again"))
    weight_folders.same(one, other)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    read = dict(PeftModel.from_pretrained(base, tmp_path / "again").named_parameters())
    for name, x in one.items():
        np.testing.assert_array_equal(read[name.replace(".weight", ".default.weight")].detach().numpy(), x)


def test_the_sum_is_what_peft_merges(tmp_path):
    from safetensors.torch import load_file as load_torch

    theirs = make_adapter(
        make_base(tmp_path / "base", "llama"), tmp_path / "adapter", tmp_path / "base", ["q_proj", "down_proj"]
    )
    theirs.merge_and_unload().save_pretrained(tmp_path / "theirs")
    line = ["convert", "orbax-to-hf", f"--src={tmp_path / 'adapter'}", f"--dst={tmp_path / 'ours'}"]
    assert convert.main(line) == 2  # without --merge
    assert convert.main([*line, "--merge"]) == 0
    ours, expected = (load_torch(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_allclose(ours[name].numpy(), x.numpy(), atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """PEFT's folder, beside a base that this package's tests write."""
    here = tmp_path_factory.mktemp("peft")
    weight_folders.write(here / "base", "qwen2")
    cfg = weights.model_config(weights.find(here / "base"), weight_folders.LIKE)
    (here / "adapter").mkdir()
    random = np.random.default_rng(0)
    shapes = qwen_factors(cfg)

    def of(name):
        return lambda layer: tuple(random.normal(0, 0.1, shape[1:]).astype(np.float32) for shape in shapes[name])

    peft.write(here / "adapter", cfg, of, "all", RANK, ALPHA, str(here / "base"))
    return here / "adapter"


def qwen_factors(cfg):
    from t1jax.weights import tensor_table

    whole = tensor_table.shapes(cfg)
    return {name: tuple(lora.factors(whole["layers", name], name, RANK).values()) for name in lora.TARGETS["all"]}


def changed(folder, to, **values):
    """A copy of the folder with other values in adapter_config.json."""
    to.mkdir()
    saved = json.loads((folder / peft.CONFIG).read_text()) | values
    (to / peft.CONFIG).write_text(json.dumps(saved))
    (to / peft.WEIGHTS).write_bytes((folder / peft.WEIGHTS).read_bytes())
    return to


def read(folder):
    source = weights.find(folder)
    return weights.arrays(source, weights.model_config(source, weight_folders.LIKE))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"use_dora": True}, "use_dora is True; expected none"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]; expected none"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is"),
        ({"layers_to_transform": [0]}, r"layers_to_transform is \[0\]"),
        ({"a_key_of_next_year": "yes"}, "a_key_of_next_year is 'yes'"),
        ({"bias": "all"}, "bias is 'all'; expected \"none\""),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; expected \"LORA\""),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules has 'lm_head'; expected some of q_proj"),
        ({"target_modules": [["q_proj"]]}, r"target_modules has \['q_proj'\]; expected some of q_proj"),
        ({"target_modules": [{}]}, r"target_modules has {}; expected some of q_proj"),
        ({"target_modules": "q|k"}, r"target_modules is 'q\|k'; expected a list"),
        ({"target_modules": ["q_proj"]}, "has 'base_model.model.model.layers.0.mlp.down_proj.lora_A.weight'"),
        ({"r": 4}, r"has shape \(3, 32\); expected \(4, 32\)"),
        ({"r": 0}, "r is 0; expected a whole number from 1"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({peft.BASE: ""}, f"{peft.BASE} is ''; expected the folder"),
        ({peft.BASE: "Qwen/Qwen2.5-7B"}, f"{peft.BASE}: Qwen/Qwen2.5-7B: nothing of that name is here"),
    ],
)
def test_what_is_not_honoured_is_refused(folder, tmp_path, values, says):
    with pytest.raises(ConfigError, match=says) as error:
        read(changed(folder, tmp_path / "other", **values))
    assert "\n" not in str(error.value) and str(folder.parent) in str(error.value) or str(tmp_path) in str(error.value)


def test_rslora_is_honoured(folder, tmp_path):
    one, other = read(folder), read(changed(folder, tmp_path / "rs", use_rslora=True))
    base = read(folder.parent / "base")
    index = tuple(slice(0, n) for n in base["layers", "o"].shape)
    plain, rs, w = (arrays["layers", "o"].read(index) for arrays in (one, other, base))
    np.testing.assert_allclose(rs - w, (plain - w) * RANK**0.5, atol=1e-6)


def test_a_rank_above_that_of_a_matrix_is_honoured(folder, tmp_path):
    """k is [32, 16]: what peft adds has a rank of 16 at most, whatever r is."""
    there, random = folder.parent / "base", np.random.default_rng(3)
    base, cfg = read(there), weights.model_config(weights.find(there), weight_folders.LIKE)
    a, b = random.normal(0, 0.1, (32, 40)).astype(np.float32), random.normal(0, 0.1, (40, 4, 8)).astype(np.float32)
    k = (a, b[:, :2])
    factors = {"q": (a, b), "k": k, "v": k, "o": (b.reshape(40, 32).T.reshape(4, 8, 40), a.T)}
    (tmp_path / "adapter").mkdir()
    of = lambda name: lambda _: factors[name]  # noqa: E731
    peft.write(tmp_path / "adapter", cfg, of, "attention", 40, 10.0, str(there))
    found = read(tmp_path / "adapter")
    index = tuple(slice(0, n) for n in base["layers", "k"].shape)
    more = found["layers", "k"].read(index) - base["layers", "k"].read(index)
    np.testing.assert_allclose(more, np.broadcast_to(10 / 40 * np.einsum("dr,rkh->dkh", *k), more.shape), atol=1e-6)


def test_an_adapter_for_another_base_is_refused(folder, tmp_path):
    weight_folders.write(tmp_path / "qwen3", "qwen3")
    with pytest.raises(ConfigError, match=r"shape .* expected .* is it for another base\?"):
        read(changed(folder, tmp_path / "other", **{peft.BASE: str(tmp_path / "qwen3")}))
    to = changed(folder, tmp_path / "less")
    tensors = load_file(to / peft.WEIGHTS)
    save_file({name: x for name, x in tensors.items() if "layers.2." not in name}, to / peft.WEIGHTS)
    with pytest.raises(ConfigError, match="lacks 'base_model.model.model.layers.2.mlp.down_proj.lora_A.weight'"):
        read(to)
    save_file({name: x.astype(np.int8) for name, x in tensors.items()}, to / peft.WEIGHTS)
    with pytest.raises(ConfigError, match="has dtype 'I8'; expected one of"):
        read(to)
    nested = changed(folder, tmp_path / "nested", **{peft.BASE: str(folder)})
    with pytest.raises(ConfigError, match="an adapter; expected whole weights"):
        read(nested)


@pytest.mark.parametrize("others", [["own"], ["second", "own"]])
def test_adapters_that_name_themselves_or_each_other_are_refused(folder, tmp_path, others):
    changed(folder, tmp_path / "own", **{peft.BASE: str(tmp_path / others[0])})
    for name, other in itertools.pairwise(others):
        changed(folder, tmp_path / name, **{peft.BASE: str(tmp_path / other)})
    with pytest.raises(ConfigError) as error:
        read(tmp_path / "own")
    said = f"{peft.BASE}: {tmp_path / others[0]} is an adapter; expected whole weights"
    assert f"{tmp_path / 'own' / peft.CONFIG}: {said}" in str(error.value) and "\n" not in str(error.value)


def test_a_part_of_a_merged_matrix_is_that_part_of_the_whole():
    """To the bit: a base's digest is of parts on one mesh and of other parts on the next."""
    rng = np.random.default_rng(0)
    shape, rank = (2, 96, 80), 16
    base = SimpleNamespace(shape=shape, read=rng.normal(size=shape).astype(np.float32).__getitem__)
    layers = [tuple(rng.normal(size=s).astype(np.float32) for s in ((96, rank), (rank, 80))) for _ in range(2)]
    merged = adapters.Merged(base, np.dtype(np.float32), "down", layers.__getitem__, 0.5)
    whole = merged.read((slice(0, 2), slice(None), slice(None)))
    for rows in (slice(0, 48), slice(5, 17)):
        for columns in (slice(0, 40), slice(79, 80)):
            part = merged.read((slice(1, 2), rows, columns))
            np.testing.assert_array_equal(part, whole[1:2, rows, columns])


def test_a_base_on_the_hub_is_named_with_its_revision(tmp_path):
    def written(base):
        cfg = small.make_config().model
        factors = lambda name: lambda layer: (np.zeros((4, 1)), np.zeros((1, 4)))  # noqa: E731
        (tmp_path / "adapter").mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(peft, "_rows", lambda *_: [])
            patch.setattr(peft.safetensors_writing, "write_shard", lambda *_: None)
            peft.write(tmp_path / "adapter", cfg, factors, "all", 1, 2.0, base)
        values = json.loads((tmp_path / "adapter" / peft.CONFIG).read_text())
        return values[peft.BASE], values["revision"], peft.base_of(tmp_path / "adapter")

    assert written("Qwen/Qwen2.5-7B@abc") == ("Qwen/Qwen2.5-7B", "abc", "Qwen/Qwen2.5-7B@abc")
    assert written("hf://Qwen/Qwen2.5-7B") == ("Qwen/Qwen2.5-7B", None, "Qwen/Qwen2.5-7B")
    assert written(f"{tmp_path}/a@b") == (f"{tmp_path}/a@b", None, f"{tmp_path}/a@b")

# SPDX-License-Identifier: Apache-2.0
"""Weights come back bit for bit, of every family and from runs; bad input is one line, and nothing is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small
import weight_folders as folders
from converting import refused, run
from weight_folders import make_run

from t1jax import convert
from t1jax.host.progress import Progress
from t1jax.weights import conversion, families, tensor_table
from t1jax.weights import load as weights
from t1jax.weights.safetensors_files import StoredTensor

ROOT = Path(__file__).parents[1]
BF16 = np.dtype(ml_dtypes.bfloat16)
TRANSFORMERS = {
    "qwen2": ("Qwen2", {"tie_word_embeddings": False}),
    "qwen2 tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3moe": ("Qwen3Moe", {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}),
    "llama": ("Llama", {"head_dim": 8}),
    "glm": ("Glm", {"head_dim": 16, "pad_token_id": None}),
    "glm4": ("Glm4", {"head_dim": 16, "pad_token_id": None, "attention_bias": False}),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_what_transformers_saved_comes_back_bit_for_bit(tmp_path, name, dtype):
    torch = pytest.importorskip("torch", reason="torch is missing: pip install -r requirements-dev.txt")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is missing: pip install -r requirements-dev.txt"
    )
    family, changes = TRANSFORMERS[name]
    sizes = {key: folders.SIZES[key] for key in folders.SIZES if key not in ("torch_dtype", "rope_theta")}
    torch.manual_seed(0)
    saved = getattr(transformers, f"{family}ForCausalLM")(
        getattr(transformers, f"{family}Config")(**(sizes | changes))
    ).to(getattr(torch, dtype))
    for x in saved.parameters():  # norms and biases too
        torch.nn.init.normal_(x, std=0.5)
    saved.save_pretrained(tmp_path / "hf", max_shard_size="30KB")
    assert (tmp_path / "hf" / folders.INDEX).exists()

    assert run("hf-to-orbax", "--src", tmp_path / "hf", "--dst", tmp_path / "orbax") == 0
    size = "--max-shard-size=30KB" if dtype == "float32" else "--max-shard-size=1GB"
    assert run("orbax-to-hf", f"--src={tmp_path / 'orbax'}", f"--dst={tmp_path / 'back'}", size) == 0
    folders.same(folders.read(tmp_path / "back"), folders.read(tmp_path / "hf"))
    assert (tmp_path / "back" / folders.INDEX).exists() == (dtype == "float32")
    for file in ("config.json", "generation_config.json"):
        assert (tmp_path / "back" / file).read_bytes() == (tmp_path / "hf" / file).read_bytes()

    loaded, told = type(saved).from_pretrained(tmp_path / "back", dtype="auto", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    assert loaded.dtype == saved.dtype
    for (key, x), y in zip(saved.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(x, y), key


def test_all_that_lies_beside_the_weights_goes_with_them(tmp_path):
    folders.write(tmp_path / "hf")
    for number, name in enumerate(families.CARRIED[1:]):
        (tmp_path / "hf" / name).write_bytes(b"\r\n\xff" * number)  # as it came, whatever it is
    (tmp_path / "hf" / "README.md").write_text("stays")
    (tmp_path / "orbax").mkdir()  # an empty folder is as good as none
    assert run("hf-to-orbax", "--src", tmp_path / "hf", "--dst", tmp_path / "orbax") == 0
    assert run("orbax-to-hf", "--src", tmp_path / "orbax", "--dst", tmp_path / "back") == 0
    for form, weights_are in (("orbax", "params"), ("back", "model.safetensors")):
        assert sorted(path.name for path in (tmp_path / form).iterdir()) == sorted([*families.CARRIED, weights_are])
        for name in families.CARRIED:
            assert (tmp_path / form / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "hf", "orbax"]


def test_plain_orbax_restores_the_result(tmp_path):
    tensors = folders.write(tmp_path / "hf", "llama", BF16)
    assert run("hf-to-orbax", "--src", tmp_path / "hf", "--dst", tmp_path / "orbax") == 0
    with ocp.StandardCheckpointer() as checkpointer:
        params = checkpointer.restore(tmp_path / "orbax" / "params")
    up = np.stack([tensors[f"model.layers.{i}.mlp.up_proj.weight"].T for i in range(3)])
    assert params["layers"]["up"].dtype == BF16 and params["layers"]["up"].tobytes() == up.tobytes()


def test_a_dtype_rounds_and_the_config_says_so(tmp_path):
    tensors = folders.write(tmp_path / "hf", "qwen3")
    conversion.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    for dtype in ("bfloat16", "float16", "float32"):
        out = tmp_path / dtype
        assert run("orbax-to-hf", "--src", tmp_path / "orbax", "--dst", out, f"--dtype={dtype}") == 0
        folders.same(folders.read(out), {name: x.astype(dtype) for name, x in tensors.items()})
        config = json.loads((out / "config.json").read_text())
        assert config == json.loads((tmp_path / "hf" / "config.json").read_text()) | {"torch_dtype": dtype}


@pytest.mark.parametrize("which", ["policy", "anchor"])
def test_a_run_without_a_hub_model_is_exported(tmp_path, which):
    """The demo's model: no config.json came with it, and its tokenizer is SentencePiece's."""
    state = make_run(tmp_path / "run", (2, 2, 2))
    params = state.params
    if which == "anchor":
        params = jax.tree.map(lambda x, d: x + d, state.params, state.anchor_offset)
    assert run("orbax-to-hf", "--src", tmp_path / "run", "--dst", tmp_path / "out", f"--which={which}") == 0
    assert (tmp_path / "out" / "tokenizer.model").read_text() == "pieces"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "float32"
    source = weights.find(tmp_path / "out")
    cfg = small.make_config().model
    weights.refuse_mismatch(source, cfg)
    for path, array in weights.arrays(source, cfg).items():
        expected = params[path[0]] if len(path) == 1 else params[path[0]][path[1]]
        assert array.read((slice(None),) * len(array.shape)).tobytes() == np.asarray(expected).tobytes(), path


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_run_goes_back_to_its_hub_models_config_and_dtype(tmp_path, key):
    cfg = small.make_config().model
    hub = families.hf_config(cfg, {}) | {"transformers_version": "4.43.1", "bos_token_id": 7}
    hub = {name: value for name, value in hub.items() if "dtype" not in name} | {"dtype": None, key: "bfloat16"}
    files = {"config.json": json.dumps(hub), "tokenizer.json": "{}"}
    state = make_run(tmp_path / "run", **files)
    assert run("orbax-to-hf", "--src", tmp_path / "run", "--dst", tmp_path / "out") == 0
    for name, text in files.items():
        assert (tmp_path / "out" / name).read_text() == text
    embedding = folders.read(tmp_path / "out")["model.embed_tokens.weight"]
    assert embedding.dtype == BF16
    assert embedding.tobytes() == np.asarray(state.params["embedding"]).astype(BF16).tobytes()

    file = tmp_path / "run/checkpoints/rl/config.json"
    file.write_text(json.dumps(hub | {key: "int8"}))
    assert run("orbax-to-hf", "--src", tmp_path / "run", "--dst", tmp_path / "other") == 2
    assert run("orbax-to-hf", "--src", tmp_path / "run", "--dst", tmp_path / "other", "--dtype=float16") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_conversion_leaves_nothing_behind(tmp_path, capsys, monkeypatch, number):
    folders.write(tmp_path / "hf")
    reads = []

    def view(self, original=StoredTensor.view):
        reads.append(self.name)
        if len(reads) == 20:
            assert any(path.name.startswith(f".out.{os.getpid()}") for path in tmp_path.iterdir())
            os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(StoredTensor, "view", view)
    before = signal.getsignal(signal.SIGTERM)
    assert run("hf-to-orbax", "--src", tmp_path / "hf", "--dst", tmp_path / "out") == 130
    assert capsys.readouterr().err == "t1jax.convert: interrupted; nothing is half written\n"
    assert len(reads) == 20 and [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_command_line_says_what_it_expects(tmp_path, capsys):
    folders.write(tmp_path / "hf")
    conversion.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    capsys.readouterr()
    hf, orbax, out = f"--src={tmp_path / 'hf'}", f"--src={tmp_path / 'orbax'}", f"--dst={tmp_path / 'out'}"
    for args, words in (
        ([], "got no command; expected hf-to-orbax or orbax-to-hf"),
        (["to-torch"], "got to-torch; expected"),
        (["hf-to-orbax", out], "--src is empty; expected a folder"),
        (["hf-to-orbax", hf], "--dst is empty; expected a folder"),
        (["hf-to-orbax", hf, out, "--dtype=bfloat16"], "--dtype and --which are for orbax-to-hf"),
        (["hf-to-orbax", hf, out, "--sauce=x"], "sauce"),
        (["hf-to-orbax", orbax, out], "is a folder of hf-to-orbax; expected a Hugging Face folder"),
        (["orbax-to-hf", hf, out], "is a Hugging Face folder already; expected"),
    ):
        refused(tmp_path, capsys, [words], *args)
    assert run("--help") == 0
    assert capsys.readouterr().out == convert.USAGE
    assert [convert.read_size(size) for size in ("5GB", "500mb", "2GiB", "1.5KB", "77", "5 GB")] == [
        *(5 * 10**9, 5 * 10**8, 2 << 30, 1500, 77, 5 * 10**9)
    ]


def test_parts_of_one_tensor_are_written_in_one_dtype(tmp_path, capsys, monkeypatch):
    """GLM's gate and up, of which an Orbax folder may hold each in its own."""
    folders.write(tmp_path / "hf", "glm")
    assert run("hf-to-orbax", "--src", tmp_path / "hf", "--dst", tmp_path / "orbax") == 0
    real = conversion.weights.arrays

    def mixed(*args):
        found = real(*args)
        up = found["layers", "up"]
        half = SimpleNamespace(shape=up.shape, dtype=BF16, read=lambda index: up.read(index).astype(BF16))
        return found | {("layers", "up"): half}

    monkeypatch.setattr(conversion.weights, "arrays", mixed)
    capsys.readouterr()
    words = ["up is bfloat16 and gate is float32; expected one dtype", "gate_up_proj.weight holds both: give --dtype"]
    refused(tmp_path, capsys, words, "orbax-to-hf", "--src", tmp_path / "orbax", "--dst", tmp_path / "back")


@pytest.mark.parametrize("chunk", [(), (1, 4, 2, 8), (1, 16, 4, 8)])
def test_pieces_cover_a_tensor_once_in_the_files_order(monkeypatch, chunk):
    monkeypatch.setattr(conversion, "PIECE", 3 * 8 * 16 * 4)
    row = tensor_table.Tensor("q", (7 * 8, 16), ("layers", "q"), (5,), (7, 8, 16), (2, 0, 1))
    x = np.arange(7 * 8 * 16).reshape(7 * 8, 16)
    ours = np.stack([np.zeros((16, 7, 8), int)] * 5 + [row.to_ours(x)])
    found = [ours[index] for index in conversion.pieces(row, 4, chunk)]
    assert np.concatenate([part[0].transpose(1, 2, 0).reshape(-1, 16) for part in found]).tolist() == x.tolist()
    assert [part.shape[2] for part in found] == {(): [3, 3, 1], (1, 4, 2, 8): [2, 2, 2, 1]}.get(chunk, [4, 3])


@pytest.mark.slow
def test_memory_stays_below_twice_the_largest_tensor_and_a_gigabyte():
    """A model of several GB, both ways; the benchmark prints the figures and fails above the bound."""
    command = [sys.executable, str(ROOT / "benchmarks" / "convert_memory.py")]
    done = subprocess.run(command, text=True, capture_output=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_real_model_writes_what_transformers_writes(tmp_path):
    """SmolLM2-135M-Instruct through Orbax: 20 problems of GSM8K, 64 greedy tokens each, in float32, token for token."""
    torch = pytest.importorskip("torch", reason="torch is missing: pip install -r requirements-dev.txt")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is missing: pip install -r requirements-dev.txt"
    )
    import real

    from configs import smollm2_135m
    from t1jax import config
    from t1jax.devices import sharding
    from t1jax.model import qwen
    from t1jax.rollouts.generate import Generator
    from t1jax.text.huggingface import HFTokenizer

    folder, file = real.smollm2(), ROOT.parent / "shared" / "data" / "gsm8k_test.jsonl"
    if not file.exists():
        pytest.skip(f"{file} is missing: it is the test split of GSM8K")
    with file.open() as lines:
        problems = [json.loads(next(lines))["question"] for _ in range(20)]
    assert run("hf-to-orbax", "--src", folder, "--dst", tmp_path / "orbax") == 0

    tokenizer = HFTokenizer(tmp_path / "orbax")
    prompts = [tokenizer.encode(tokenizer.chat([{"role": "user", "content": problem}])) for problem in problems]
    cfg = config.load(smollm2_135m.get_config())
    source, mesh = weights.find(tmp_path / "orbax"), small.make_mesh()
    weights.refuse_mismatch(source, cfg.model)
    params = weights.load(source, qwen.Transformer(cfg.model, sharding.decode_layout(mesh)))
    sample = Generator(cfg, mesh, tokenizer)
    length = max(map(len, prompts))
    ours = [rows[0] for rows in sample(params, prompts, "greedy", length=length, new_tokens=64, temperature=0.0)]

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, response in zip(prompts, ours, strict=True):
        with torch.no_grad():
            out = model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=64, do_sample=False
            )
        assert response == out[0, len(prompt) :].tolist()
    assert sum(map(len, ours)) > 1000

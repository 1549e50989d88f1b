# SPDX-License-Identifier: Apache-2.0
"""Weights come back bit for bit, of every family and from runs; bad input is one line, and nothing is written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small
import weight_folders as folders
from test_weights import make_run

from t1jax import convert, weights
from t1jax.hf import families
from t1jax.hf.tensors import StoredTensor
from t1jax.progress import Progress

ROOT = Path(__file__).parents[1]
BF16 = np.dtype(ml_dtypes.bfloat16)
TRANSFORMERS = {
    "qwen2": ("Qwen2", {"tie_word_embeddings": False}),
    "qwen2 tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "llama": ("Llama", {"head_dim": 8}),
}


def run(*args):
    return convert.main(["t1jax.convert", *map(str, args)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_what_transformers_saved_comes_back_bit_for_bit(tmp_path, name, dtype):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
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
    convert.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
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
    hub = {name: value for name, value in hub.items() if "dtype" not in name} | {key: "bfloat16"}
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


# Bad input: what is done to a good folder of three layers, and words of the line that comes of it.


def edit(file, **values):
    def change(folder):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def text(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def tensors(change, shards=1):
    """Changes the dict of tensors."""

    def apply(folder):
        content = folders.read(folder)
        folders.save(folder, change(content) or content, shards)

    return apply


def header(change):
    """Changes the header of the only file."""

    def apply(folder):
        found, data = folders.parts(folder / folders.SINGLE)
        changed = change(found)
        folders.raw(folder / folders.SINGLE, found if changed is None else changed, data)

    return apply


def content(change):
    """Changes the bytes of the only file."""
    return lambda folder: text(folders.SINGLE, change((folder / folders.SINGLE).read_bytes()))(folder)


def index(change):
    """Splits the folder into two shards and changes the index's weight_map."""

    def apply(folder):
        folders.save(folder, folders.read(folder), 2)
        found = json.loads((folder / folders.INDEX).read_text())
        weight_map = change(found["weight_map"], folder)
        (folder / folders.INDEX).write_text(json.dumps(found if weight_map is None else {"weight_map": weight_map}))

    return apply


def sharded_text(content):
    def apply(folder):
        folders.save(folder, folders.read(folder), 2)
        (folder / folders.INDEX).write_bytes(content)

    return apply


def set_item(x, index, value):
    x[index] = value


NORM, UP, Q = "model.norm.weight", "model.layers.1.mlp.up_proj.weight", "model.layers.2.self_attn.q_proj.weight"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SINGLE, CONFIG, INDEX = "hf/model.safetensors", "hf/config.json", "hf/model.safetensors.index.json"


def swap_offsets(found):
    found[NORM]["data_offsets"] = found["model.layers.0.input_layernorm.weight"]["data_offsets"]


def leave_a_gap(found):
    for entry in found.values():
        if "data_offsets" in entry and entry["data_offsets"][0] > 0:
            entry["data_offsets"] = [at + 4 for at in entry["data_offsets"]]


def twice_in_the_header(found):
    first = json.dumps(found)
    return f'{first[:-1]}, "{NORM}": {json.dumps(found[NORM])}}}'.encode()


def in_two_shards(weight_map, folder):
    content = folders.load_file(folder / TWO) | {UP: folders.read(folder)[UP]}
    folders.save_file(content, folder / TWO)
    other = folders.load_file(folder / ONE) | {UP: content[UP]}
    folders.save_file(other, folder / ONE)


def link_out(weight_map, folder):
    (folder / ONE).rename(folder.parent / "elsewhere")
    (folder / ONE).symlink_to("../elsewhere")


BAD = {
    "no source": (shutil.rmtree, "hf: no such folder; expected a folder with weights"),
    "source is a file": (lambda folder: shutil.rmtree(folder) or folder.write_text(""), "hf: is a file; expected"),
    "empty source": (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "hf holds no weights; expected config"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "hf holds no weights; expected config.json"),
    "no tensors": (lambda folder: (folder / folders.SINGLE).unlink(), "hf holds no weights; expected config.json"),
    "config is no JSON": (text("config.json", b"{oops"), f"{CONFIG} is no JSON"),
    "config is a list": (text("config.json", b"[1]"), f"{CONFIG} is [1]; expected a JSON object"),
    "config of 2 MB": (text("config.json", b" " * (2 << 20) + b"{}"), f"{CONFIG} has more than 1048576 bytes"),
    "config is nested": (text("config.json", b"[" * 200_000), f"{CONFIG} is no JSON"),
    "2^40 words": (edit("config.json", vocab_size=2**40), f"{CONFIG}: vocab_size is 1099511627776; expected"),
    "negative layers": (edit("config.json", num_hidden_layers=-2), f"{CONFIG}: num_hidden_layers is -2; expected"),
    "layers are text": (edit("config.json", num_hidden_layers="3"), f"{CONFIG}: num_hidden_layers is '3'; expected"),
    "other family": (edit("config.json", architectures=["GPT2LMHeadModel"]), f"{CONFIG}: architectures is ['GPT2LM"),
    "a layer too many": (
        edit("config.json", num_hidden_layers=4),
        "hf lacks 'model.layers.3.input_layernorm.weight (32,)', 'model.layers.3.mlp.down_proj.weight (32, 40)'",
        "and 7 more, which the model needs; found 39 tensors, expected 51",
    ),
    "a layer too few": (
        edit("config.json", num_hidden_layers=2),
        "hf has 'model.layers.2.input_layernorm.weight (32,)'",
        "and 7 more, which the model has no place for; found 39 tensors, expected 27",
    ),
    "empty file": (text(folders.SINGLE, b""), f"{SINGLE}: the header ends at byte 8, the file at 0; expected"),
    "no header": (text(folders.SINGLE, b"\x10\0\0"), f"{SINGLE}: the header ends at byte 24, the file at 3; expected"),
    "cut in the header": (
        content(lambda x: x[:100]),
        f"{SINGLE}: the header ends at byte",
        "the file at 100; exp",
    ),
    "cut in the data": (content(lambda x: x[:-7]), f"{SINGLE} has ", " bytes; expected ", "by its header"),
    "bytes too many": (content(lambda x: x + b"\0"), f"{SINGLE} has ", " bytes; expected ", "by its header"),
    "header of 2^60": (content(lambda x: b"\0" * 7 + b"\x10" + x[8:]), f"{SINGLE}: the header ends at byte 1152921504"),
    "header of 17 MB": (header(lambda found: b" " * (17 << 20) + b"{}"), "the header has 17825794 bytes; expected at"),
    "header is no JSON": (header(lambda found: b"}" * 50), f"{SINGLE}: the header is no JSON"),
    "header is no text": (header(lambda found: b"\xff\xfe\xff" * 9), f"{SINGLE}: the header is no JSON"),
    "header is nested": (header(lambda found: b"[" * 200_000), f"{SINGLE}: the header is no JSON"),
    "header is a list": (header(lambda found: [1, 2]), f"{SINGLE}: the header is [1, 2]; expected a JSON object"),
    "metadata is a list": (header(lambda found: found | {"__metadata__": [1]}), SINGLE, "expected a safetensors file"),
    "no shape": (
        header(lambda found: found[NORM].pop("shape") and None),
        f"tensor '{NORM}' is",
        "expected dtype, s",
    ),
    "negative shape": (
        header(lambda found: found[NORM].update(shape=[-8, -4])),
        f"tensor '{NORM}' has shape [-8, -4]; expected whole numbers, none negative",
    ),
    "shape is text": (header(lambda found: found[NORM].update(shape=["32"])), f"tensor '{NORM}' has shape ['32']"),
    "unknown dtype": (
        header(lambda found: found[NORM].update(dtype="I32")),
        f"tensor '{NORM}' has dtype 'I32'; exp",
    ),
    "shape of 2^62": (
        header(lambda found: found[NORM].update(shape=[2**62])),
        f"{SINGLE}: tensor '{NORM}' has 128 bytes; expected 18446744073709551616 for shape [461168601842738790",
    ),
    "overlapping": (header(swap_offsets), f"{SINGLE}: tensor '", "begins at data byte", "where the", "they overlap"),
    "with a gap": (header(leave_a_gap), f"{SINGLE}: tensor '", "begins at data byte", "they leave a gap"),
    "twice": (header(twice_in_the_header), f"{SINGLE}: the header names '{NORM}' twice; expected each key once"),
    "missing": (
        tensors(lambda x: x.pop(NORM) is None or x),
        f"hf lacks '{NORM} (32,)', which the model needs; found",
    ),
    "extra": (tensors(lambda x: x | {"a": np.zeros(3, np.float32)}), "hf has 'a (3,)', which the model has no place"),
    "name is a path": (
        tensors(lambda x: x | {"../../etc/passwd": np.zeros(3, np.float32)}),
        "hf has '../../etc/passwd (3,)', which the model has no place",
    ),
    "bias of another family": (edit("config.json", **folders.MODELS["llama"]), "hf has 'model.layers.0.self_attn.k_p"),
    "transposed": (
        tensors(lambda x: x | {UP: x[UP].T.copy()}),
        "hf has another shape",
        f"{UP} (32, 40), not (40, 32)",
    ),
    "one in bfloat16": (
        tensors(lambda x: x | {UP: x[UP].astype(BF16)}),
        f"{SINGLE}: tensor {UP} is bfloat16; expected float32, as model.layers.0.mlp.up_proj.weight is",
    ),
    "NaN": (tensors(lambda x: set_item(x[Q], (3, 5), np.nan)), f"{SINGLE}: tensor {Q} is NaN or infinite as float32"),
    "infinite": (tensors(lambda x: set_item(x[NORM], 31, -np.inf)), f"{SINGLE}: tensor {NORM} is NaN or infinite as"),
    "index points up": (
        index(lambda x, _: x | {NORM: "../model.safetensors"}),
        INDEX,
        "'../model.safetensors'; exp",
    ),
    "index points out": (index(lambda x, _: x | {NORM: "/etc/a.safetensors"}), f"{INDEX}: '{NORM}' is in '/etc/a.safe"),
    "index points at a config": (
        index(lambda x, _: x | {NORM: "config.json"}),
        f"'{NORM}' is in 'config.json'; exp",
    ),
    "shard is a link": (index(link_out), f"hf/{ONE} is a link to", "elsewhere; expected a file inside"),
    "index is no JSON": (sharded_text(b"{"), f"{INDEX} is no JSON"),
    "index is a list": (sharded_text(b"[]"), f"{INDEX} is []; expected a JSON object"),
    "index without a map": (sharded_text(b'{"weight_map": [1]}'), f"{INDEX}: weight_map is [1]; expected an object"),
    "index names nothing": (index(lambda x, _: {}), f"{INDEX}: weight_map is {{}}; expected an object tensor -> file"),
    "index names a number": (index(lambda x, _: x | {NORM: 3}), f"{INDEX}: '{NORM}' is in 3; expected the name"),
    "index names twice": (sharded_text(b'{"weight_map": {"a": "b", "a": "b"}}'), f"{INDEX} names 'a' twice; expected"),
    "index of 17 MB": (sharded_text(b" " * (17 << 20)), f"{INDEX} has more than 16777216 bytes; expected"),
    "no such shard": (index(lambda x, _: x | {NORM: "model-3.safetensors"}), "hf has no 'model-3.safetensors'; expect"),
    "shard too many": (
        index(lambda x, folder: folders.save_file({"a": np.zeros(2)}, folder / "model-3.safetensors")),
        "hf has 'model-3.safetensors' too; expected only what model.safetensors.index.json names",
    ),
    "file too many": (
        lambda folder: shutil.copy(folder / folders.SINGLE, folder / "old.safetensors"),
        "hf has 'old.safetensors' too; expected only what model.safetensors,",
    ),
    "in two shards": (index(in_two_shards), f"both hold '{UP}'; expected each tensor once"),
    "index names more": (index(lambda x, _: x | {"a": ONE}), f"{INDEX} names 'a', which no shard holds"),
    "index names less": (index(lambda x, _: x.pop(NORM) and None), f"{INDEX} lacks '{NORM}', which a shard holds"),
    "index is wrong": (
        index(lambda x, _: x | {NORM: TWO if x[NORM] == ONE else ONE}),
        f"{INDEX} says '{NORM}' is in model-0000",
    ),
    "tokenizer is a link": (
        lambda folder: (folder / "tokenizer.json").symlink_to("/etc/passwd"),
        "hf/tokenizer.json is a link to /etc/passwd; expected a file inside",
    ),
}


def refused(tmp_path, capsys, words, *args):
    """Runs the command line: one line with these words, exit code 2, and the folder as it was."""
    before = sorted(tmp_path.rglob("*"))
    assert run(*args) == 2
    line = capsys.readouterr().err
    assert line.startswith("t1jax.convert: ") and line.count("\n") == 1 and len(line) < 1200, line
    for word in words:
        assert word in line, line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_the_destination_is_untouched(tmp_path, capsys, case):
    damage, *words = BAD[case]
    folders.write(tmp_path / "hf")
    damage(tmp_path / "hf")
    refused(tmp_path, capsys, words, "hf-to-orbax", f"--src={tmp_path / 'hf'}", f"--dst={tmp_path / 'out'}")


DESTINATIONS = {
    "not empty": (
        lambda out: out.mkdir() or (out / "mine").write_text("!"),
        "out is not empty; expected a folder",
    ),
    "a file": (lambda out: out.write_text("mine"), "out is a file; expected a folder that does not exist yet"),
    "nowhere": (lambda out: out / "a" / "b", "out/a is no folder; expected one to write b in; make it"),
    "a name too long": (lambda out: out.with_name("x" * 300), "File name too long; nothing was written"),
    "not a folder's": (lambda out: (out.write_text("mine") and None) or out / "b", "out is no folder; expected one to"),
}


@pytest.mark.parametrize("case", DESTINATIONS)
def test_a_destination_that_is_taken_or_impossible_is_told(tmp_path, capsys, case):
    prepare, words = DESTINATIONS[case]
    folders.write(tmp_path / "hf")
    convert.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    out = tmp_path / "out"
    made = prepare(out)
    out = made if isinstance(made, Path) else out
    capsys.readouterr()
    refused(tmp_path, capsys, [words], "hf-to-orbax", f"--src={tmp_path / 'hf'}", f"--dst={out}")
    refused(tmp_path, capsys, [words], "orbax-to-hf", f"--src={tmp_path / 'orbax'}", f"--dst={out}")


@pytest.mark.parametrize("way, src", [("hf-to-orbax", "hf"), ("orbax-to-hf", "orbax")])
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, capsys, monkeypatch, way, src):
    folders.write(tmp_path / "hf")
    convert.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    capsys.readouterr()
    args = (way, f"--src={tmp_path / src}", f"--dst={tmp_path / 'out'}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # the kernel refuses to write more into a file
    try:
        refused(tmp_path, capsys, ["File too large", f"nothing was written to {tmp_path / 'out'}"], *args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 3000))
    refused(tmp_path, capsys, ["has room for 0 MB; expected"], *args)


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
    assert capsys.readouterr().err == "t1jax.convert: interrupted; nothing was written\n"
    assert len(reads) == 20 and [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert signal.getsignal(signal.SIGTERM) == before


def put(value):
    """Changes one number of an Orbax folder's parameters."""

    def change(folder):
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(folder / "params")
            shutil.rmtree(folder / "params")
            tree["layers"]["up"][1, 3, 5] = value
            checkpointer.save(folder / "params", tree)

    return change


def cut(folder):
    for file in folder.glob("params/**/d/*"):
        file.write_bytes(file.read_bytes()[:10])


@pytest.mark.parametrize(
    "damage, flags, words",
    [
        (None, ["--dtype=float64"], "--dtype is 'float64'; expected one of float32, float16, bfloat16"),
        (None, ["--which=both"], "which is 'both'; expected policy or anchor"),
        (None, ["--which=anchor"], "orbax is no run; expected the checkpoints of one for the anchor"),
        (None, ["--max-shard-size=big"], "--max-shard-size is 'big'; expected a size like 5GB"),
        (None, ["--max-shard-size=0GB"], "--max-shard-size is '0GB'; expected a size like 5GB"),
        (put(np.nan), [], "orbax/params: layers.up, layer 1 is NaN or infinite as float32; expected finite numbers"),
        (put(7e4), ["--dtype=float16"], "orbax/params: layers.up, layer 1 is NaN or infinite as float16; expected"),
        (cut, [], "orbax/params: cannot read"),
        (edit("config.json", num_hidden_layers=4), [], "another shape than config.json asks for: "),
        (edit("config.json", tie_word_embeddings=True), [], "orbax/params has 'head (32, 48)', which the model has no"),
        (edit("config.json", vocab_size=2**40), [], "orbax/config.json: vocab_size is 1099511627776; expected"),
        (
            lambda folder: (folder / "config.json").unlink(),
            [],
            "orbax/config.json: No such file or directory; exp",
        ),
    ],
)
def test_bad_orbax_folders_and_flags_are_one_line_too(tmp_path, capsys, damage, flags, words):
    folders.write(tmp_path / "hf")
    convert.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    if damage is not None:
        damage(tmp_path / "orbax")
    capsys.readouterr()
    args = ("orbax-to-hf", f"--src={tmp_path / 'orbax'}", f"--dst={tmp_path / 'out'}", *flags)
    refused(tmp_path, capsys, [words], *args)


def test_the_command_line_says_what_it_expects(tmp_path, capsys):
    folders.write(tmp_path / "hf")
    convert.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
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


@pytest.mark.parametrize("chunk", [(), (1, 4, 2, 8), (1, 16, 4, 8)])
def test_pieces_cover_a_tensor_once_in_the_files_order(monkeypatch, chunk):
    monkeypatch.setattr(convert, "PIECE", 3 * 8 * 16 * 4)
    row = families.Tensor("q", (7 * 8, 16), ("layers", "q"), 5, (7, 8, 16), (2, 0, 1))
    x = np.arange(7 * 8 * 16).reshape(7 * 8, 16)
    ours = np.stack([np.zeros((16, 7, 8), int)] * 5 + [row.to_ours(x)])
    found = [ours[index] for index in convert.pieces(row, 4, chunk)]
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
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import real

    from configs import smollm2_135m
    from t1jax import config, sharding
    from t1jax.generate import Generator
    from t1jax.hf.tokenizer import HFTokenizer
    from t1jax.model import qwen

    folder, file = real.smollm2(), ROOT.parent / "shared" / "data" / "gsm8k_test.jsonl"
    if not file.exists():
        pytest.skip("the problems of GSM8K are not in ../shared/data")
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

# SPDX-License-Identifier: Apache-2.0
"""Bad weights, flags and destinations print a one-line error and exit with 2; the destination is unchanged."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import weight_folders as folders
from converting import refused

from t1jax.host.progress import Progress
from t1jax.weights import conversion

BF16 = np.dtype(ml_dtypes.bfloat16)


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
    "config is not JSON": (text("config.json", b"{oops"), f"{CONFIG} is not JSON"),
    "config is a list": (text("config.json", b"[1]"), f"{CONFIG} is [1]; expected a JSON object"),
    "config of 2 MB": (text("config.json", b" " * (2 << 20) + b"{}"), f"{CONFIG} has more than 1048576 bytes"),
    "config is nested": (text("config.json", b"[" * 200_000), f"{CONFIG} is not JSON"),
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
        "and 7 more, which the model does not have; found 39 tensors, expected 27",
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
    "header is not JSON": (header(lambda found: b"}" * 50), f"{SINGLE}: the header is not JSON"),
    "header is no text": (header(lambda found: b"\xff\xfe\xff" * 9), f"{SINGLE}: the header is not JSON"),
    "header is nested": (header(lambda found: b"[" * 200_000), f"{SINGLE}: the header is not JSON"),
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
    "extra": (tensors(lambda x: x | {"a": np.zeros(3, np.float32)}), "hf has 'a (3,)', which the model does not have"),
    "name is a path": (
        tensors(lambda x: x | {"../../etc/passwd": np.zeros(3, np.float32)}),
        "hf has '../../etc/passwd (3,)', which the model does not have",
    ),
    "bias of another family": (edit("config.json", **folders.MODELS["llama"]), "hf has 'model.layers.0.self_attn.k_p"),
    "transposed": (
        tensors(lambda x: x | {UP: x[UP].T.copy()}),
        "hf has shapes that differ",
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
    "index is not JSON": (sharded_text(b"{"), f"{INDEX} is not JSON"),
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
    "nowhere": (lambda out: out / "a" / "b", "out/a is not a folder; expected one for b; create it"),
    "a name too long": (lambda out: out.with_name("x" * 300), "a part has 300 bytes; expected at most 255"),
    "not a folder's": (lambda out: (out.write_text("mine") and None) or out / "b", "out is not a folder; expected one"),
}


@pytest.mark.parametrize("case", DESTINATIONS)
def test_a_destination_that_is_taken_or_impossible_is_told(tmp_path, capsys, case):
    prepare, words = DESTINATIONS[case]
    folders.write(tmp_path / "hf")
    conversion.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    out = tmp_path / "out"
    made = prepare(out)
    out = made if isinstance(made, Path) else out
    capsys.readouterr()
    refused(tmp_path, capsys, [words], "hf-to-orbax", f"--src={tmp_path / 'hf'}", f"--dst={out}")
    refused(tmp_path, capsys, [words], "orbax-to-hf", f"--src={tmp_path / 'orbax'}", f"--dst={out}")


@pytest.mark.parametrize("way, src", [("hf-to-orbax", "hf"), ("orbax-to-hf", "orbax")])
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, capsys, monkeypatch, way, src):
    folders.write(tmp_path / "hf")
    conversion.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    capsys.readouterr()
    args = (way, f"--src={tmp_path / src}", f"--dst={tmp_path / 'out'}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # the kernel refuses to write more into a file
    try:
        refused(tmp_path, capsys, ["File too large", f"nothing was written to {tmp_path / 'out'}"], *args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 3000))
    refused(tmp_path, capsys, ["has 0 MB of free space; expected"], *args)


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
        (None, ["--which=anchor"], "orbax is not a run; only the checkpoints of a run have an anchor"),
        (None, ["--max-shard-size=big"], "--max-shard-size is 'big'; expected a size like 5GB"),
        (None, ["--max-shard-size=0GB"], "--max-shard-size is '0GB'; expected a size like 5GB"),
        (put(np.nan), [], "orbax/params: layers.up, layer 1 is NaN or infinite as float32; expected finite numbers"),
        (put(7e4), ["--dtype=float16"], "orbax/params: layers.up, layer 1 is NaN or infinite as float16; expected"),
        (cut, [], "orbax/params: cannot read"),
        (edit("config.json", num_hidden_layers=4), [], "has shapes that differ from those of config.json: "),
        (edit("config.json", tie_word_embeddings=True), [], "orbax/params has 'head (32, 48)', which the model does"),
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
    conversion.hf_to_orbax(tmp_path / "hf", tmp_path / "orbax", Progress())
    if damage is not None:
        damage(tmp_path / "orbax")
    capsys.readouterr()
    args = ("orbax-to-hf", f"--src={tmp_path / 'orbax'}", f"--dst={tmp_path / 'out'}", *flags)
    refused(tmp_path, capsys, [words], *args)

# SPDX-License-Identifier: Apache-2.0
"""A run with LoRA on a Hugging Face folder: cold start, RL, resuming, what a checkpoint holds, and back to folders."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import small
from files_run import KNOBS, write_rows
from random_qwen import make_folder
from safetensors.numpy import load_file, save_file
from tiny_run import rows_of

from t1jax import convert, validation
from t1jax.config import ConfigError
from t1jax.devices import sharding
from t1jax.host import place
from t1jax.host.bucket import Bucket
from t1jax.model import lora, parameters, qwen
from t1jax.training import checkpoint, origin, stages
from t1jax.training.setup import rl_setup
from t1jax.weights import load as weights
from t1jax.weights import orbax_arrays

MORE = {
    "sft__num_steps": 2,
    "sft__learning_rate": 3e-2,
    "rl__num_steps": 2,
    "rl__learning_rate": 3e-2,
    "eval__every": 0,
    "scaling__budgets": (),
    "checkpoint__every": 1,
    "model__lora_rank": 4,
}


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    here = tmp_path_factory.mktemp("files")
    folder = make_folder(here / "hf")
    problems = [{"question": f"{a} and {b}", "answer": f"so #### {a + b}"} for a in range(12) for b in range(5)]
    texts = [{"prompt": row["question"], "response": f"\\boxed{{{i % 7}}}"} for i, row in enumerate(problems[:40])]
    base = small.make_config(
        **KNOBS | MORE,
        model__checkpoint=str(folder),
        data__train=write_rows(here / "train.jsonl", problems[:40]),
        data__eval=write_rows(here / "eval.jsonl", problems[44:]),
        data__sft=write_rows(here / "sft.jsonl", texts),
    )
    model = weights.model_config(weights.find(folder), base.model)
    return dataclasses.replace(base, model=model)


@pytest.fixture(scope="module")
def run(cfg, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    stages.run(cfg, workdir)
    return workdir


def last(cfg, workdir):
    """The last state of RL."""
    mesh = sharding.make_mesh(cfg.mesh)
    tokens = stages.tokenizer.load(workdir / "tokenizer")
    with checkpoint.Checkpoints(workdir / "checkpoints/rl", cfg, tokens) as kept:
        return kept.restore(rl_setup(cfg, mesh).state_shapes(), base=origin.base_of(cfg, mesh))


@pytest.mark.slow
def test_a_run_trains_adapters_and_saves_them_alone(cfg, run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [("sft", 1), ("sft", 2), ("rl", 1), ("rl", 2)]
    assert all(row["logprob_gap"] < 1e-4 for row in rows if row["stage"] == "rl")
    step = run / "checkpoints/rl/2"
    paths = {
        path for path in orbax_arrays.open_arrays(step / "state") if path[0] in ("params", "anchor_offset", "base")
    }
    factors = {(name, key) for name in lora.TARGETS["all"] for key in ("lora_a", "lora_b")}
    assert paths == {(tree, "layers", *factor) for tree in ("params", "anchor_offset") for factor in factors}
    state = last(cfg, run)
    digest = json.loads((step / "base/metadata").read_text())["digest"]
    assert digest == parameters.checksum(state.base)
    assert any(np.abs(x["lora_b"]).max() > 1e-2 for x in state.params["layers"].values())


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_alike(cfg, run, tmp_path):
    """From the first step of RL, and from the cold start."""
    expected = last(cfg, run)
    for gone in ("2", "1"):
        again = tmp_path / gone
        shutil.copytree(run, again)
        for name in ("results.json", "report.html", "measured/rl.json"):
            (again / name).unlink()
        for step in range(int(gone), 3):
            shutil.rmtree(again / f"checkpoints/rl/{step}")
        stages.run(cfg, again)
        jax.tree.map(np.testing.assert_array_equal, last(cfg, again), expected)


class Killed(BaseException):
    """Nothing of the run catches it."""


@pytest.mark.slow
def test_in_a_bucket_killed_before_a_checkpoint_it_ends_as_the_local_one(cfg, run, cloud, monkeypatch):
    workdir = place.of("gs://bkt/lora", "workdir")
    put = Bucket.write_bytes

    def fall(path, content):
        done = put(path, content)
        if path.name.startswith("metrics.jsonl-") and json.loads(content.splitlines()[-1])["stage"] == "rl":
            raise Killed  # after the row of step 1 of RL, before its checkpoint
        return done

    monkeypatch.setattr(Bucket, "write_bytes", fall)
    with pytest.raises(Killed):
        stages.run(cfg, workdir)
    monkeypatch.setattr(Bucket, "write_bytes", put)
    assert [(row["stage"], row["step"]) for row in rows_of(workdir)] == [("sft", 1), ("sft", 2), ("rl", 1)]
    assert not (workdir / "checkpoints/rl/1").exists()
    stages.run(cfg, workdir)
    assert rows_of(workdir) == rows_of(run)
    jax.tree.map(np.testing.assert_array_equal, last(cfg, workdir), last(cfg, run))
    mine, theirs = (json.loads((x / "checkpoints/rl/2/base/metadata").read_bytes()) for x in (workdir, run))
    assert mine == theirs
    assert (workdir / "responses/rl-final.jsonl").read_bytes() == (run / "responses/rl-final.jsonl").read_bytes()


@pytest.mark.slow
def test_its_weights_are_read_exported_and_merged(cfg, run, tmp_path):
    state = last(cfg, run)
    expected = jax.jit(lambda policy: lora.merged(cfg.model, policy))(state.policy)
    model = qwen.Transformer(cfg.model, sharding.train_layout(sharding.make_mesh(cfg.mesh)))
    found = weights.load(weights.find(run), model)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, expected)
    anchor = weights.load(weights.find(run), model, which="anchor")
    assert np.abs(np.array(anchor["layers"]["up"] - found["layers"]["up"])).max() > 1e-5
    for name, more in (("adapter", []), ("merged", ["--merge"])):
        line = ["convert", "orbax-to-hf", f"--src={run}", f"--dst={tmp_path / name}", *more]
        assert convert.main(line) == 0
        there = weights.load(weights.find(tmp_path / name), model)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), there, expected)
    assert (tmp_path / "adapter/adapter_model.safetensors").stat().st_size < 40_000
    assert (tmp_path / "adapter/tokenizer.json").exists() and not (tmp_path / "adapter/config.json").exists()
    line = ["convert", "orbax-to-hf", f"--src={cfg.model.checkpoint}", f"--dst={tmp_path / 'no'}", "--merge"]
    assert convert.main(line) == 2


@pytest.mark.slow
def test_adapters_beside_another_base_are_refused(cfg, run, tmp_path):
    """One number of the base is another: neither resumed nor read."""
    file = weights.find(cfg.model.checkpoint).folder / "model.safetensors"
    before = file.read_bytes()
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += 1e-3
    try:
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(ConfigError, match=r"adapters for weights with the digest .* put the weights back"):
            last(cfg, run)
        model = qwen.Transformer(cfg.model, sharding.train_layout(sharding.make_mesh(cfg.mesh)))
        with pytest.raises(ConfigError, match=r"adapters for weights with the digest .* put the weights back"):
            weights.load(weights.find(run), model)
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"lora_rank": -1}, "model.lora_rank is -1; expected at least 0"),
        (
            {"lora_rank": 17},
            "model.lora_rank is 17; expected at most 16, the rank of a matrix: num_kv_heads",
        ),
        ({"lora_rank": 33, "lora_targets": "mlp"}, "model.lora_rank is 33; expected at most 32, the rank of a matrix"),
        ({"lora_targets": "attn"}, "model.lora_targets is attn; expected one of attention, mlp, all"),
        ({"lora_alpha": 0.0}, "model.lora_alpha is 0.0; expected more than 0"),
        ({"checkpoint": ""}, "model.lora_rank is 4; expected 0, or weights in model.checkpoint"),
    ],
)
def test_knobs_that_cannot_work_are_refused(knobs, says):
    cfg = small.make_config(model__lora_rank=4, model__checkpoint="folder", mesh__data=8, mesh__fsdp=1)
    validation.validate(cfg, 8)
    wrong = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, **knobs))
    with pytest.raises(ConfigError) as error:
        validation.validate(wrong, 8)
    assert says in str(error.value) and "\n" not in str(error.value)
    muon = dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, optimizer="muon"))
    with pytest.raises(ConfigError, match=r"sft\.optimizer is muon; expected adamw, because model\.lora_rank is 4"):
        validation.validate(muon, 8)

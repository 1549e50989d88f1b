# SPDX-License-Identifier: Apache-2.0
"""`convert --push` uploads weights with a card that says what was trained, on what, with which figures: no more."""

from __future__ import annotations

import dataclasses
import json

import hub_server
import huggingface_hub.constants
import pytest
import small
import yaml
from converting import refused, run
from weight_folders import make_run

from t1jax.config import ConfigError
from t1jax.weights import card, conversion
from t1jax.weights import load as weights

FIGURES = {
    "sft": {"accuracy": 0.25, "low": 0.2, "high": 0.3, "n": 64, "response_length": 30.25},
    "rl": {"accuracy": 0.875, "low": 0.8, "high": 0.9, "n": 64, "response_length": 50.5},
    "greedy": {"sft": {"accuracy": 0.125, "low": 0.1, "high": 0.2, "n": 64}, "rl": {"accuracy": None, "n": 0}},
}


@pytest.fixture
def server(monkeypatch):
    with hub_server.running() as found:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield found


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run: its last step, and what it measured."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, steps=(20,))
    (folder / "results.json").write_text(json.dumps(FIGURES))
    return folder


def meta_and_text(readme):
    _, head, text = readme.split("---\n", 2)
    return yaml.safe_load(head), text


def test_a_run_is_uploaded_with_its_card(server, workdir, tmp_path, capsys):
    dst = tmp_path / "hf"
    assert run("orbax-to-hf", "--src", workdir, "--dst", dst, "--push=me/Trained") == 0
    (commit,) = server.commits
    assert {name: (dst / name).read_bytes() for name in commit} == commit
    assert {"README.md", "config.json", "model.safetensors"} <= set(commit)
    assert server.repos["models", "me/Trained"] and server.created == {"me/Trained": "private"}
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == [f"weights: {dst}", f"uploaded: {server.url}/me/Trained/commit/x"]
    meta, text = meta_and_text(commit["README.md"].decode())
    assert meta["tags"] == ["t1jax", "reinforcement-learning", "reasoning"] and "base_model" not in meta
    assert "# Trained" in text and "a cold start of 20 updates, then 20 of 20 steps of reinforcement learning." in text
    assert "| before RL | 25.0% [20.0%, 30.0%] | 12.5% [10.0%, 20.0%] | 30.2 | 64 |" in text
    assert "| after RL | 87.5% [80.0%, 90.0%] | - | 50.5 | 64 |" in text
    assert "| start | random weights |" in text and str(workdir) not in text


def test_who_may_not_write_is_told_before_anything_is_converted(server, workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    flags = ("orbax-to-hf", "--src", workdir, "--dst", tmp_path / "hf")
    refused(tmp_path, capsys, ["--push=me/T: ", server.url, "hf auth login"], *flags, "--push=me/T")
    refused(tmp_path, capsys, ["--push=T; expected OWNER/NAME"], *flags, "--push=T")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    words = ["http://127.0.0.1:9 does not answer", f"later run: hf upload me/T {tmp_path / 'hf'}"]
    refused(tmp_path, capsys, words, *flags, "--push=me/T")
    refused(tmp_path, capsys, ["--push=me/T; expected it with orbax-to-hf"], "hf-to-orbax", *flags[1:], "--push=me/T")
    assert not server.commits


def push(workdir, dst, *more):
    return run("orbax-to-hf", "--src", workdir, "--dst", dst, "--push=me/T", *more)


@pytest.mark.parametrize("why", ["the folder is not empty", "the upload is forbidden", "the card is refused"])
def test_a_push_that_fails_leaves_no_empty_model_on_the_hub(server, workdir, tmp_path, why):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    server.forbidden = {"commit"} if "upload" in why else {"card"} if "card" in why else set()
    assert push(workdir, tmp_path / ("full" if "folder" in why else "hf")) == 2
    assert server.created == {"me/T": "private"} and ("models", "me/T") not in server.repos


def test_a_model_that_was_there_or_is_not_empty_is_never_deleted(server, workdir, tmp_path, monkeypatch):
    server.add("models", "me/T", {".gitattributes": b""})
    server.forbidden = {"commit"}
    assert push(workdir, tmp_path / "one") == 2
    assert ("models", "me/T") in server.repos and not server.created
    del server.repos["models", "me/T"]

    def fill(*_):  # somebody else, meanwhile
        server.add("models", "me/T", {".gitattributes": b"", "model.safetensors": b"x"})
        raise ConfigError("no")

    monkeypatch.setattr(conversion, "orbax_to_hf", fill)
    assert push(workdir, tmp_path / "two") == 2
    assert server.created and ("models", "me/T") in server.repos


def test_who_may_not_write_an_old_model_is_told_before_anything_is_converted(server, workdir, tmp_path, capsys):
    server.add("models", "me/T", {"config.json": b"{}"})
    server.forbidden = {"write"}
    assert push(workdir, tmp_path / "hf") == 2
    assert "expected a token that may write" in capsys.readouterr().err and not (tmp_path / "hf").exists()


def test_an_empty_model_that_cannot_be_deleted_is_told(server, workdir, tmp_path, capsys):
    server.forbidden = {"commit", "delete"}
    assert push(workdir, tmp_path / "hf") == 2
    assert "me/T is left on the hub, empty (" in capsys.readouterr().err


def written(workdir, monkeypatch, stage="rl", step=20, which="policy", **knobs):
    cfg = small.make_config(**knobs)
    monkeypatch.setattr(weights, "run_config", lambda source: cfg)
    folder = workdir / "checkpoints" / stage
    return meta_and_text(card.write(weights.Source(folder, "run", folder / str(step)), "me/T", which))


def test_a_card_names_models_and_data_of_the_hub_and_no_folders_of_this_machine(workdir, monkeypatch):
    data = {
        "data__train": "openai/gsm8k:train",
        "data__eval": "/home/someone/secret/math.jsonl",
        "data__sft": "c/d.jsonl",
    }
    meta, text = written(workdir, monkeypatch, model__checkpoint="Qwen/Qwen2.5-0.5B@main", which="anchor", **data)
    assert (meta["base_model"], meta["datasets"]) == ("Qwen/Qwen2.5-0.5B", ["openai/gsm8k"])
    for part in ("| start | Qwen/Qwen2.5-0.5B@main |", "| problems | openai/gsm8k:train |", "on math.jsonl, with 95 %"):
        assert part in text
    assert "| cold start | d.jsonl, learning rate" in text and "| weights | the anchor" in text and "secret" not in text
    meta, _ = written(
        workdir, monkeypatch, model__checkpoint="/home/someone/models/Mine", data__train="hf://datasets/a/b/c.json"
    )
    assert "base_model" not in meta and meta["datasets"] == ["a/b"]
    meta, text = written(workdir, monkeypatch, data__train="openai/gsm8k:train,/home/someone/more.jsonl,c/d:train")
    assert meta["datasets"] == ["c/d", "openai/gsm8k"]
    assert "| problems | openai/gsm8k:train, more.jsonl, c/d:train |" in text


def test_a_card_says_of_how_many_prompts_a_step_chooses(workdir, monkeypatch):
    assert "| a step | 8 prompts x " in written(workdir, monkeypatch)[1]
    assert "| a step | 8 prompts of 20 that are sampled x " in written(workdir, monkeypatch, rl__overdraw=2.5)[1]


@pytest.mark.parametrize(("stage", "step"), [("rl", 10), ("sft", 20)])
def test_figures_are_only_those_of_the_same_weights(workdir, monkeypatch, stage, step):
    _, text = written(workdir, monkeypatch, stage=stage, step=step)
    assert "Not measured: the run has no results of these weights." in text and "87.5" not in text
    assert ("10 of 20 steps" in text) == (stage == "rl") and ("| problems |" in text) == (stage == "rl")


def test_weights_of_no_run_have_a_short_card(tmp_path):
    source = weights.Source(tmp_path, "orbax", None)
    meta, text = meta_and_text(card.write(source, "me/T", "policy"))
    assert meta["tags"] == ["t1jax"] and "## " not in text and "Converted by t1jax" in text


def test_a_config_of_the_product_reaches_the_card(workdir):
    source = weights.find(workdir)
    assert weights.run_config(source) == dataclasses.replace(small.make_config())

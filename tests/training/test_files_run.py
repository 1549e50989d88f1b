# SPDX-License-Identifier: Apache-2.0
"""A run on a Hugging Face folder and files of problems: cold start, RL, measuring, and back to such a folder."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import small
from files_run import KNOBS, write_rows
from random_qwen import make_folder

from t1jax import config, convert
from t1jax.config import ConfigError
from t1jax.training import stages
from t1jax.weights import load as weights
from t1jax.weights import safetensors_files


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    """The config of a run: the folder, its sizes, problems, and texts for the cold start."""
    here = tmp_path_factory.mktemp("files")
    folder = make_folder(here / "hf")
    numbers = [(a, b) for a in range(12) for b in range(5)]
    problems = [{"question": f"{a} and {b}", "answer": f"so #### {a + b}"} for a, b in numbers]
    texts = [{"prompt": row["question"], "response": f"\\boxed{{{i % 7}}}"} for i, row in enumerate(problems[:40])]
    base = small.make_config(
        **KNOBS | {"scaling__answer_prefix": "\n</think>\n\n"},
        scaling__answerer="base",
        model__checkpoint=str(folder),
        data__train=write_rows(here / "train.jsonl", [*problems[:40], problems[3], problems[50]]),
        data__eval=write_rows(here / "eval.jsonl", problems[44:]),
        data__sft=write_rows(here / "sft.jsonl", texts),
    )
    model = weights.model_config(weights.find(folder), base.model)
    return dataclasses.replace(base, model=model)


def but(cfg, **knobs):
    """The config with some knobs set, as rl__num_steps=5."""
    tree = cfg.to_dict()
    for name, value in knobs.items():
        section, _, knob = name.partition("__")
        tree[section][knob] = value
    return config.load(tree)


@pytest.fixture(scope="module")
def run(cfg, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    stages.run(cfg, workdir)
    return workdir


def test_the_run_leaves_figures_of_what_it_can_tell(run):
    results = json.loads((run / "results.json").read_text())
    for stage in ("sft", "rl"):
        assert results[stage]["n"] == 12 and "false_claims" not in results[stage]  # a file's responses claim nothing
        assert results[stage]["unscorable"] == 0 and results["skills"][stage] == {}
    assert [(p["stage"], p["budget"]) for p in results["scaling"]] == [(s, b) for s in ("sft", "rl") for b in (4, 16)]
    assert all(point["cut"] > 0 and 0 < point["boxed"] <= 1 for point in results["scaling"])  # by the base model
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [(row["stage"], row["step"]) for row in rows]
    assert steps == [*(("sft", n) for n in (1, 2, 3)), ("rl", 1), ("rl", 2), ("evaluate", 2), ("rl", 3)]
    for row in rows:
        if row["stage"] == "rl":
            assert row["right"] + row["wrong"] + row["unscorable"] == pytest.approx(1) and row["logprob_gap"] < 1e-4
    assert "GSM8K" not in (run / "report.html").read_text() and (run / "tokenizer/tokenizer.json").exists()


@pytest.mark.slow
def test_rows_that_cannot_be_used_are_said(cfg, tmp_path, capsys):
    stages.run(but(cfg, sft__num_steps=0, data__sft="", rl__num_steps=1, scaling__budgets=()), tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert "1 row dropped: an earlier row's problem" in said and "1 row dropped: also in" in said


def test_training_starts_from_the_folders_weights(cfg, run, tmp_path):
    """Without a cold start, what is measured before RL and the anchor are those weights."""
    plain = but(cfg, sft__num_steps=0, data__sft="", rl__num_steps=1, rl__learning_rate=1e-9, scaling__budgets=())
    stages.run(plain, tmp_path / "run")
    assert not list((tmp_path / "run/checkpoints/sft").glob("*/state"))
    came = safetensors_files.open_tensors(tmp_path / export(tmp_path / "run", tmp_path / "out"))
    theirs = safetensors_files.open_tensors(weights.find(cfg.model.checkpoint).folder)
    assert came.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_allclose(came[name].view(), tensor.view(), atol=1e-7)


def export(workdir, dst, *more):
    assert convert.main(["convert", "orbax-to-hf", f"--src={workdir}", f"--dst={dst}", *more]) == 0
    return dst


def test_the_result_is_a_folder_that_transformers_continues_alike(cfg, run, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from t1jax.rollouts import generate
    from t1jax.text import tokenizer

    folder = export(run, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "3 and 4"}], add_generation_prompt=True, tokenize=False
    )
    source, tokens = weights.find(run), tokenizer.load(run / "tokenizer")
    mesh = small.make_mesh()
    model = stages.sft.qwen.Transformer(cfg.model, stages.sharding.train_layout(mesh))
    prompt = tokens.encode(text)
    ((ours,),) = generate.Generator(but(cfg, eval__batch_size=1), mesh, tokens)(
        weights.load(source, model), [prompt], "test", length=32, new_tokens=16, temperature=0.0
    )
    with torch.no_grad():
        out = theirs.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0, len(prompt) :].tolist()
    assert ours == out


@pytest.mark.slow
def test_a_run_of_another_run_continues_its_weights(cfg, run, tmp_path):
    again = but(cfg, model__checkpoint=str(run), sft__num_steps=0, data__sft="", rl__num_steps=1, scaling__budgets=())
    stages.run(again, tmp_path / "again")
    first = json.loads((run / "results.json").read_text())
    second = json.loads((tmp_path / "again/results.json").read_text())
    assert second["greedy"]["sft"] == first["greedy"]["rl"] and second["sft"]["n"] == 12


@pytest.mark.parametrize(
    "knobs, says",
    [
        ({"model__checkpoint": "./no/such"}, r"^\./no/such: no such folder; expected"),
        ({"model__checkpoint": "no/such"}, r"checkpoint=no/such: nothing of that name is here, .* HF_HUB_OFFLINE"),
        ({"model__num_layers": 3}, r"config\.json describes another model .* model\.num_layers is 3, not 1"),
        ({"model__rope_theta": 5.0}, r"model\.rope_theta is 5\.0, not 10000\.0"),
        ({"data__train": "no/such.jsonl"}, r"no/such\.jsonl"),
        ({"data__problem_column": "riddle"}, r"expected a column data\.problem_column = 'riddle'; it has"),
        ({"rl__prompts_per_step": 48}, r"a batch is 48 prompts; expected at most 40"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(cfg, tmp_path, knobs, says):
    with pytest.raises(ConfigError, match=says) as error:
        stages.run(but(cfg, **knobs), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert "prompts_per_step" in str(knobs) or not (tmp_path / "run").exists()


def test_a_tokenizer_whose_ids_exceed_the_vocabulary_is_refused(cfg, tmp_path):
    folder = tmp_path / "hf"
    shutil.copytree(cfg.model.checkpoint, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    last = tokenizer["added_tokens"][-1]
    tokenizer["added_tokens"] += [last | {"id": last["id"] + i, "content": f"<more{i}>"} for i in range(1, 41)]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    says = rf"ids up to {last['id'] + 40}; expected ids below .* {cfg.model.vocab_size}"
    with pytest.raises(ConfigError, match=says):
        stages.run(but(cfg, model__checkpoint=str(folder)), tmp_path / "run")
    assert not (tmp_path / "run").exists()

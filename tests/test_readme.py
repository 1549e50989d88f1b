# SPDX-License-Identifier: Apache-2.0
"""Every command of the README and of docs/running.md runs, every link of both and of docs/ leads somewhere."""

import functools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest
import several
from random_qwen import make_folder

from configs import base
from t1jax.host import config_files, hub

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDES = (ROOT / "README.md", ROOT / "docs/running.md")  # whose commands are run
COMMANDS = list(
    dict.fromkeys(
        line
        for page in GUIDES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.splitlines()
    )
)

REAL = [command for command in COMMANDS if re.search("models/|Qwen/|workdirs/qwen|t1jax.verify", command)]
ENV = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device, as a reader has
SMALL = {  # what makes a command quick, on a random model of one layer
    "t1jax.main": (
        *(f"--config.model.{knob}" for knob in (
            "vocab_size=328", "num_layers=1", "hidden_size=32", "num_heads=4", "num_kv_heads=2", "head_dim=8",
            "mlp_size=48", "rope_theta=1e4", "compute_dtype=float32", "norm_eps=1e-6",
        )),
        *(f"--config.rl.{knob}" for knob in (
            "num_steps=1", "prompts_per_step=2", "responses_per_prompt=2", "max_new_tokens=8", "micro_batches=1",
        )),
        "--config.data.prompt_length=128", "--config.eval.num_problems=4", "--config.eval.batch_size=4",
        "--config.eval.every=0", "--config.scaling.budgets=(4,)", "--config.scaling.answer_tokens=2",
        "--config.verifier.workers=1",
    ),
    "t1jax.sample": ("--max_new_tokens=8",),
    "t1jax.evaluate": ("--config.rl.max_new_tokens=8", "--config.eval.batch_size=16"),
    "t1jax.filter": ("--config.rl.max_new_tokens=8", "--samples=2"),
    "t1jax.synthesize": (
        "--config.synthesis.attempts=2", "--config.synthesis.attempt_tokens=8", "--config.synthesis.chain_tokens=8",
        "--config.eval.batch_size=16", "--config.verifier.workers=1", "--limit=2",
    ),
    "t1jax.convert": (),
    "t1jax.verify": (),
    "t1jax.plan": ("--config.data.prompt_length=128",),
}  # fmt: skip
FEWER = (  # responses than the README's run of the embedded task has: its own number takes two minutes
    "--config.sft.batch_size=8", "--config.rl.prompts_per_step=4", "--config.rl.responses_per_prompt=4",
    "--config.rl.micro_batches=1", "--config.scaling.budgets=(8,)",
)  # fmt: skip


@pytest.mark.parametrize("command", REAL)
def test_readme_commands_of_a_real_model_name_flags_that_exist(command):
    """What the slow test below runs, without running it."""
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"] and words[2] in SMALL
    usage = subprocess.run(
        [sys.executable, "-m", words[2], "--help"], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=600
    ).stdout
    for flag in (word.partition("=")[0] for word in words[3:] if word.startswith("--")):
        if flag.startswith("--config."):
            functools.reduce(getattr, flag.split(".")[1:], base.get_config())
        else:
            assert flag in usage, flag


@pytest.mark.slow
def test_readme_commands_of_a_real_model(tmp_path):
    """All of them, in their order, as a reader would: on a random Hugging Face folder and made-up problems.

    A stand-in for the hub has them too.
    """
    make_folder(tmp_path / "models/Qwen2.5-0.5B")
    described = tmp_path / "models/Qwen2.5-0.5B/config.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"max_position_embeddings": 32768}))
    (tmp_path / "data").mkdir()
    for name, first in (("train", 0), ("test", 100)):
        rows = [{"problem": f"What is {first + i} less {i}?", "answer": str(first)} for i in range(8)]
        (tmp_path / f"data/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert len(REAL) >= 6
    with hub_server.running() as server:
        folder, data = tmp_path / "models/Qwen2.5-0.5B", tmp_path / "data"
        for name in ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B"):
            server.add("models", name, {path.name: path.read_bytes() for path in folder.iterdir()})
        splits = {f"main/{name}.jsonl": (data / f"{name}.jsonl").read_bytes() for name in ("train", "test")}
        server.add("datasets", "openai/gsm8k", splits)
        server.add("datasets", "HuggingFaceH4/MATH-500", {"test.jsonl": splits["main/test.jsonl"]})
        env = ENV | {
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
        }
        for command in REAL:
            words = shlex.split(command)
            assert words[:2] == ["python", "-m"]
            done = subprocess.run(
                [sys.executable, *words[1:], *SMALL[words[2]]],
                cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600,
            )  # fmt: skip
            assert done.returncode == 0, (command, done.stderr)
        assert server.got("config.json") == 2  # of two models
        assert server.got("main/train.jsonl") == server.got("main/test.jsonl") == 1
    for made in ("models/trained/model.safetensors", "workdirs/math500/results.md", "models/qwen0p5b/params"):
        assert (tmp_path / made).exists(), made
    assert (tmp_path / "data/hard.jsonl").exists() and (tmp_path / "data/chains.jsonl").exists()


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in REAL])
def test_readme_command(command, tmp_path):
    """make targets as a dry run (CI runs them for real); t1jax itself for real but shorter, in a folder of its own."""
    words = shlex.split(command)
    if words[0] == "make":
        words.insert(1, "--dry-run")
    else:
        assert words[:2] == ["python", "-m"] and words[2] in ("t1jax.main", "t1jax.plan"), "this test cannot run it"
        words[0] = sys.executable
        words = [re.sub(r"^--workdir=", f"--workdir={tmp_path}/", word) for word in words]
    if "--workdir" in command:
        words += FEWER
    done = subprocess.run(words, cwd=ROOT, env=several.environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    if "--workdir" in command:
        assert list(tmp_path.rglob("report.html")) and list(tmp_path.rglob("results.json"))


@pytest.mark.parametrize("name", ["README.md", "docs/recipes.md", "docs/real_model.md"])
def test_a_command_needs_no_folder_that_its_page_does_not_download(name):
    text = (ROOT / name).read_text()
    found = [match for match in re.finditer(r"t1jax(?:\.main| train) [^`\n]*", text) if "=mine.py" not in match[0]]
    assert found
    for match in found:
        words = shlex.split(match[0])
        given = {flag: value for flag, _, value in (word.partition("=") for word in words)}
        shipped = config_files.load(config_files.find(given["--config"])).model.checkpoint
        checkpoint = given.get("--config.model.checkpoint", shipped)
        made = f"--local-dir {checkpoint}\n" in text[: match.start()]
        assert not checkpoint or hub.is_model(checkpoint) or made, match[0]


def test_the_readme_asks_for_no_file_of_problems_that_nobody_made():
    blocks = re.findall(r"```sh\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    assert not [word for word in " ".join(blocks).split() if "=data/" in word]


def test_the_readme_shows_the_two_commands():
    assert {"make demo", "make test"} <= set(COMMANDS)


def anchors(headings):
    """What GitHub makes of them: small letters, no punctuation, hyphens for spaces."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_its_contents_are_its_headings():
    text = PAGES[0].read_text()
    assert len(text.splitlines()) < 200
    headings = anchors(re.findall("^## (.*)$", text, re.M))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) == headings - {"quick-start", "contents"}


def test_links_to_a_heading_find_it():
    for page in PAGES:
        for target, name in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text()):
            there = (page.parent / target if target else page).read_text()
            found = anchors(re.findall("^#+ (.*)$", there, re.M))
            assert name in found | set(re.findall(r'<a id="([^"]+)"', there)), (page.name, target, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_no_figure_is_open(page):
    text = page.read_text()
    assert "FIGURE:" not in text
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert targets
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing

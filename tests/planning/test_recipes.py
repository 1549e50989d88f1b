# SPDX-License-Identifier: Apache-2.0
"""`t1jax plan --have`: what it recommends is what the planner says of that command, and what docs/recipes.md says."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import hub
import hub_server
import jax
import pytest
import several
import small

from t1jax import plan
from t1jax.config import ConfigError
from t1jax.planning import estimate, fit, phases, recipes, slices, suggest
from t1jax.training.opening import Paces

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/recipes.md"
SIZES = {  # of Qwen2.5, from their config.json
    "Qwen/Qwen2.5-0.5B": {},
    "Qwen/Qwen2.5-1.5B": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    },
    "Qwen/Qwen2.5-7B": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "Qwen/Qwen2.5-32B": {
        "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "Qwen/Short": {"max_position_embeddings": 2048},
}  # fmt: skip
TINY = slices.Chip("tiny", 2 * slices.GIB, 1e12, 1e11, 1e10)
WORK = {"rl__prompts_per_step": 8, "rl__responses_per_prompt": 4, "rl__max_new_tokens": 16, "rl__window": 8}
EXACT = 0.05 + 1e-9  # of a figure with one digit


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with the config.json of each of SIZES, named as it."""
    folder = tmp_path_factory.mktemp("models")
    for name, sizes in SIZES.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(hub.QWEN2 | sizes))
    return folder


@pytest.fixture
def ask(monkeypatch, models, capsys):
    """`python -m t1jax.plan` in this process, with its devices: (exit code, JSON or text, stderr)."""
    monkeypatch.setattr(slices, "cpu_devices", lambda count: tuple(jax.devices()[:count]))
    monkeypatch.setattr(slices.importlib.util, "find_spec", lambda name: None)  # neither libtpu nor a plugin of CUDA

    def run(*flags):
        capsys.readouterr()
        code = plan.main(["t1jax.plan", *(flag.replace("--model=Qwen/", f"--model={models}/Qwen/") for flag in flags)])
        out, error = capsys.readouterr()
        return code, json.loads(out) if "--json" in flags and out else out, error

    return run


@pytest.fixture(scope="module")
def ask_hub(tmp_path_factory, models):
    """The same in a process each, as a user has it, with a hub that has SIZES."""
    with hub_server.running() as server:
        for name in SIZES:
            server.add("models", name, {"config.json": (models / name / "config.json").read_bytes()})
        home = tmp_path_factory.mktemp("home")
        env = several.environment() | {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        env["XLA_FLAGS"] = " ".join(several.QUICK)

        def run(*flags):
            command = [sys.executable, "-m", "t1jax.plan", *flags]
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
            out = done.stdout
            return done.returncode, json.loads(out) if "--json" in flags and out else out, done.stderr

        yield run


def flags_of(command: str) -> list[str]:
    """The flags of the config in a recipe's command."""
    return [word for word in shlex.split(command) if word.startswith("--config")]


def a_slice(chip=TINY, devices=4):
    return slices.Slice(f"cpu:{devices}", chip, tuple(jax.devices()[:devices]), "cpu")


def config(**knobs):
    return small.make_config(**WORK | knobs)


def test_adapters_of_a_mixture_of_experts_are_of_attention(ask):
    code, told, error = ask("--model=qwen3_30b_a3b", "--have=v5p:2x2x2", "--json")
    assert code == 0, error
    assert any(one["fits"] for one in told["tries"] if one["trained"] != "all weights"), told["tries"]
    assert "--config.model.lora_targets=attention" in flags_of(told["command"])
    assert "experts" not in error
    _, _, error = ask("--model=qwen3_30b_a3b", "--have=gpu:4xh200", "--json")
    assert "expert" not in error
    _, _, error = ask("--model=qwen3_30b_a3b", "--have=cpu:4", "--json")
    assert "t1jax.plan: each row is multiplied by every expert, in memory that is not counted: on a CPU" in error


def test_what_is_recommended_is_what_the_planner_says_of_its_command(ask, models):
    """The command is planned again by --topology, which knows nothing of recipes."""
    code, told, error = ask("--model=Qwen/Qwen2.5-1.5B", "--have=v5e:2x2", "--json")
    assert code == 0, error
    best = told["tries"][told["recommended"]]
    assert best["fits"] and best["hours"] <= 24 and best["gib"] <= best["usable_gib"] == pytest.approx(0.9 * 16)
    flags = flags_of(told["command"])
    checkpoint = f"--config.model.checkpoint={models}/Qwen/Qwen2.5-1.5B"
    assert {"--config=base", checkpoint, "--config.sft.num_steps=0"} <= set(flags)
    assert "--config.data.train=openai/gsm8k:train" in flags and "--config.data.eval=openai/gsm8k:test" in flags
    assert " --workdir=workdirs/Qwen2.5-1.5B " in told["command"]
    code, again, error = ask(*flags, "--topology=v5e:2x2", "--fast", "--json")
    assert code == 0, error
    assert again["planned_bytes_per_chip"] == round(best["gib"] * 2**30) and again["lanes"] == best["lanes"]
    assert again["seconds"]["total"] == pytest.approx(best["seconds"])
    assert 500 * again["seconds"]["total"] / 3600 == pytest.approx(best["hours_of_steps"])
    larger = told["tries"][: told["recommended"]]
    assert all(not one["fits"] or one["hours"] > 24 for one in larger)
    assert [(one["prompts"], one["responses"], one["tokens"]) for one in told["tries"][::2]] == [
        (32, 64, 16384), (32, 64, 10240), (16, 16, 4096), (16, 8, 1024)
    ]  # fmt: skip
    assert all(one["trained"] == ("LoRA, rank 32" if n % 2 else "all weights") for n, one in enumerate(told["tries"]))


def test_all_weights_take_16_bytes_a_parameter_and_lora_4(ask):
    """1.54 billion: 24.7 GB do not fit a chip of 17.2 GB, 6.2 do."""
    code, told, error = ask("--model=Qwen/Qwen2.5-1.5B", "--have=v5e:1x1", "--json", "--hours=1e9")
    assert code == 0, error
    for whole, lora in zip(told["tries"][::2], told["tries"][1::2], strict=True):
        assert not whole["fits"] and whole["gib"] > 16 * 1.54e9 / 2**30
        assert not lora["fits"] or lora["gib"] > 4 * 1.54e9 / 2**30
    assert told["tries"][told["recommended"]]["trained"] == "LoRA, rank 32"
    assert "--config.rl.learning_rate=1.5e-05" in told["command"] and "XLA_PYTHON" not in told["command"]


def test_where_nothing_fits_it_says_by_how_much_and_what_would(ask, monkeypatch):
    """32.8 billion parameters at 4 bytes are 131 GB, on a chip with 15.5 GB to use."""
    monkeypatch.setattr(recipes, "LADDERS", (("gpu:1xl4", "gpu:2xh100", "gpu:4xh100"), ("v5e:2x4", "v5p:2x2x1")))
    asked = [f"--config.{knob}={value}" for knob, value in zip(recipes.WORKLOAD, recipes.WORKLOADS[-1], strict=True)]
    asked = ["--model=Qwen/Qwen2.5-32B", "--hours=1e9", "--config.model.lora_rank=32", *asked]
    code, out, error = ask(*asked, "--have=v5e:1x1")
    assert code == 1 and "Recommended" not in out and out.count("does not fit") == 1
    (line,) = [line for line in error.splitlines() if "fits nowhere" in line]
    said = re.search(
        r"takes ([\d.]+) GiB of each device, ([\d.]+) times the 14.4 GiB .*; it fits (\S+) or (\S+); here (\S+) fits",
        line,
    )
    assert said, line
    assert float(said[1]) > 4 * 32.7e9 / 2**30 and abs(float(said[2]) - float(said[1]) / 14.4) <= EXACT
    assert said.groups()[2:] == ("gpu:4xh100", "v5p:2x2x1", "Qwen2.5-1.5B")
    for have, code in (("gpu:2xh100", 1), ("gpu:4xh100", 0), ("v5e:2x4", 1), ("v5p:2x2x1", 0)):
        assert ask(*asked, f"--have={have}")[0] == code, have


def test_the_hardware_that_may_be_named_is_known_and_grows():
    for ladder in recipes.LADDERS:
        total = [chip.memory * count for _, chip, count in map(slices.sizes, ladder)]
        assert total == sorted(total) and max(slices.sizes(kind)[2] for kind in ladder) <= recipes.DEVICES


def test_a_short_model_gets_short_workloads_or_a_line(ask):
    code, told, error = ask("--model=Qwen/Short", "--have=gpu:1xrtx4090", "--json", "--config.data.prompt_length=512")
    assert code == 0, error
    assert {one["tokens"] for one in told["tries"]} == {1024}
    assert told["command"].startswith("XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 ")  # else JAX takes 75 %
    code, _, error = ask("--model=Qwen/Short", "--have=v5e:1x1")
    assert code == 2 and "scaling.answer_tokens is 2304; expected at most 2048" in error and error.count("\n") <= 2


def test_a_config_of_ours_keeps_its_settings_and_what_is_set_stays(ask):
    code, told, error = ask("--model=tiny", "--have=cpu:1", "--json", "--config.rl.max_new_tokens=64")
    assert code == 0, error
    (one,) = told["tries"]
    assert (one["prompts"], one["responses"], one["tokens"], one["trained"]) == (32, 16, 64, "all weights")
    assert told["config"] == "tiny" and told["knobs"]["rl.max_new_tokens"] == 64
    assert not {"model.checkpoint", "data.train", "sft.num_steps"} & told["knobs"].keys()
    assert told["command"].endswith(shlex.join(flags_of(told["command"])))


@pytest.mark.slow
def test_the_step_is_compiled_where_that_is_asked_for(ask_hub):
    flags = ("--model=tiny", "--have=cpu:2", "--nofast", "--config.sft.batch_size=16", "--config.rl.max_new_tokens=32")
    code, out, error = ask_hub(*flags)
    assert code == 0, error
    assert "Recommended" in out and "Memory per chip, as compiled" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model=tiny"], "--have= --model=tiny; expected both"),
        (["--have=v5e:2x2"], "expected both"),
        (["--model=tiny", "--have=v9:2x2"], "--have=v9:2x2: no such slice, 'v9' is none of v4, v5e"),
        (["--model=tiny", "--have=gpu:1xgtx"], "--have=gpu:1xgtx: no such GPUs; expected gpu:NxKIND, KIND one of a100"),
        (["--model=models/none", "--have=v5e:2x2"], "--model=models/none: nothing of that name; expected OWNER/NAME"),
        (["--model=tiny", "--config=tiny", "--have=cpu:1"], "expected one config"),
        (["--model=tiny", "--have=cpu:1", "--config.rl.lanes=4"], "--config.rl.lanes, which it chooses"),
        (["--model=tiny", "--have=cpu:1", "--config.rl.lane=4"], "unknown knob rl.lane; did you mean rl.lanes?"),
        (["--model=tiny", "--have=cpu:1", "--hours=0"], "--hours is 0.0; expected more than 0"),
        (["--model=tiny", "--have=cpu:1", "--cycles"], "got --model=tiny --have=cpu:1 --cycles; expected with --have"),
    ],
)
def test_a_mistake_is_one_line(flags, said, capsys):
    assert plan.main(["t1jax.plan", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


def test_the_fastest_mesh_that_fits_is_chosen_by_trying_all():
    cfg, where = config(), a_slice()
    best = recipes.attempt(cfg, where, dict(zip(recipes.WORKLOAD, (8, 4, 16), strict=True)) | {"model.lora_rank": 0})
    seconds = []
    for tensor in (1, 2, 4):
        for fsdp in (n for n in (1, 2, 4) if n * tensor <= 4):
            for parts in (1, 2, 4, 8, 16, 32):
                mesh = dataclasses.replace(cfg.mesh, data=4 // tensor // fsdp, fsdp=fsdp, tensor=tensor)
                rl = dataclasses.replace(cfg.rl, lanes=0, micro_batches=parts)
                try:
                    one = fit.plan(dataclasses.replace(cfg, mesh=mesh, rl=rl), where, 16.0, compiled=False)
                except ConfigError:
                    continue
                seconds += [one.seconds.total] if one.fits else []
    assert best.fits and best.best.seconds.total == min(seconds) and len(seconds) > 10


def test_of_equally_fast_ones_parts_are_large_and_then_memory_is_small():
    """On one device micro-batches cost no time: 32 responses of 8,192 positions are parts of one, of 40 of all."""
    for prompt, parts in ((8176, 32), (24, 1), (4080, 16)):
        cfg = config(data__prompt_length=prompt)
        assert suggest.suggest(cfg, a_slice(devices=1), 16.0, compiled=False).cfg.rl.micro_batches == parts


def test_micro_batches_of_a_named_config_stay_where_none_are_faster():
    cfg, knobs = (
        config(rl__micro_batches=2),
        {**dict(zip(recipes.WORKLOAD, (8, 4, 16), strict=True)), "model.lora_rank": 0},
    )
    parts = [recipes.attempt(cfg, a_slice(devices=1), knobs, kept).cfg.rl.micro_batches for kept in (True, False)]
    assert parts == [2, 1]


def test_the_first_that_is_done_in_time_is_recommended_else_the_shortest():
    tries = list(recipes.tries(config(), a_slice(), {"rl.max_new_tokens"}))
    tries += [recipes.attempt(config(rl__max_new_tokens=8), a_slice(), tries[0].knobs | {"rl.max_new_tokens": 8})]
    long, short = (one.hours for one in tries)
    assert short < long
    assert recipes.recommended(tries, long) is tries[0]
    assert recipes.recommended(tries, (short + long) / 2) is tries[1]
    assert recipes.recommended(tries, short / 2) is tries[1]
    assert recipes.recommended([], 1.0) is None


def test_hours_add_up_the_phases_of_a_run():
    """By hand: 3 updates of 5 s, 20 steps of 7 s, two evaluations of 4 problems during RL, two measurements of 6."""
    cfg = config(
        sft__num_steps=3, rl__num_steps=20, eval__every=9, eval__quick_problems=4, eval__num_problems=6,
        scaling__budgets=(2, 4, 8),
    )  # fmt: skip
    paces = Paces(update=5.0, step=7.0, response=11.0, answer=13.0, source="")
    assert phases.of_run(cfg, paces) == 3 * 5 + 20 * 7 + 2 * 4 * 11 + 2 * 6 * (2 * 11 + 3 * 13)
    before = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, before=False))
    assert phases.of_run(before, paces) == phases.of_run(cfg, paces) - 6 * (2 * 11 + 3 * 13)


def test_an_evaluation_samples_as_many_as_fit():
    """By hand: a row has a prompt's keys and values twice, its own, 3 float32 logits, 12 bytes a drawn token."""
    cfg = config(data__prompt_length=512, eval__batch_size=4096, model__vocab_size=64)
    found = fit.plan(cfg, a_slice(TINY, 1), 16.0, compiled=False)
    model = cfg.model
    key = 2 * model.num_layers * model.num_kv_heads * model.head_dim * 4
    row = (2 * 512 + 16) * key + 12 * 64 + 12 * 16
    room = 0.9 * TINY.memory - found.memory.of("always")
    most = recipes.evaluated(found)
    assert most == 4096  # all of them
    small_chip = dataclasses.replace(TINY, memory=int(found.memory.total * 1.2))
    little = fit.plan(cfg, a_slice(small_chip, 1), 16.0, compiled=False)
    rows, room = recipes.evaluated(little), 0.9 * 1.2 * found.memory.total - little.memory.of("always")
    assert rows & (rows - 1) == 0 and room / row / 4 < rows <= room / row


def told(ask, hardware: str, asked: str) -> tuple[str, str]:
    """(row of the table, command) of docs/recipes.md."""
    code, found, error = ask(*asked.split(), "--json")
    assert code == 0, error
    one = found["tries"][found["recommended"]]
    mesh = " x ".join(str(one[axis]) for axis in ("data", "fsdp", "tensor"))
    work = f"{one['prompts']} x {one['responses']} x {one['tokens']:,}"
    cells = [
        hardware, f"`{asked}`", one["trained"], work, mesh, one["lanes"], one["micro_batches"],
        f"{one['gib']:.1f} of {one['usable_gib'] / 0.9:.0f}", recipes.short(one["seconds"]),
        recipes.short(one["hours_of_steps"]), recipes.short(one["hours"]), f"{recipes.short(one['hours'])} x price",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |", found["command"].partition("--workdir")[2]


ROWS = re.findall(r"^\| ([^|]+) \| `(--model=\S+ --have=[^`]+)` \|.*\|$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(("hardware", "asked"), ROWS, ids=[hardware for hardware, _ in ROWS])
def test_the_page_has_the_planners_figures_and_commands(ask_hub, hardware, asked):
    row, command = told(ask_hub, hardware, asked)
    text = PAGE.read_text()
    assert row in text.splitlines(), row
    assert f"--workdir{command}\n" in text, command


def test_the_page_has_a_row_for_what_people_have():
    asked = {re.search(r"--have=(\S+)", flags)[1] for _, flags in ROWS}
    assert {"cpu:1", "gpu:1xrtx4080", "gpu:1xrtx4090", "gpu:1xh100", "gpu:8xh100"} <= asked
    assert {"v5e:1x1", "v5e:2x4", "v6e:2x4"} <= asked


def test_the_estimate_says_what_it_takes_for_granted():
    assert estimate.assumptions(1) in recipes.assumed(1) and "full length" in recipes.assumed(1)

# SPDX-License-Identifier: Apache-2.0
"""A mistake on the command line prints a one-line error and exits with 2; nothing is written or heavily imported."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from t1jax import evaluate, main, sample
from t1jax.api import given
from t1jax.config import Config, ConfigError
from t1jax.host import command_line, config_files

ROOT = Path(__file__).parent.parent


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The (config, workdir) of each call of the pipeline, which is not really run."""
    calls: list[tuple[Config, Path]] = []

    def run(cfg: Config, workdir: Path, allow_change: list[str], *_: object) -> Path:
        calls.append((cfg, workdir))
        return workdir / "report.html"

    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    stub = types.ModuleType("t1jax.training.stages")
    stub.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "t1jax.training.stages", stub)
    monkeypatch.setattr("t1jax.training.stages", stub, raising=False)
    return calls


def call(*args: str) -> int:
    return main.main(["t1jax", *args])


# what is run

# tiny.py does not fit the eight devices of the tests without this
FITS = ("--config=configs/tiny.py", "--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")


def test_overrides_reach_the_pipeline_and_the_workdir_has_the_name_of_the_config(runs, capsys):
    overrides = (
        *("--config.rl.num_steps=5", "--config.rl.temperature", "1", "--config.scaling.budgets=(4, 8)"),
        *("--noconfig.model.tie_embeddings", "-config.rl.kl_site=loss"),
    )
    assert call(*FITS, *overrides) == 0
    ((cfg, workdir),) = runs
    assert workdir == Path("workdirs/tiny")
    assert (cfg.rl.num_steps, cfg.rl.temperature, cfg.scaling.budgets) == (5, 1.0, (4, 8))
    assert (cfg.model.tie_embeddings, cfg.rl.kl_site) == (False, "loss")
    assert capsys.readouterr().out.splitlines()[0] == f"report: {Path('workdirs/tiny/report.html').resolve()}"
    assert not Path("workdirs").exists()


def test_without_flags_tiny_is_run_even_where_there_is_no_configs_folder(runs, tmp_path):
    with_folder = main.parse(["t1jax"])
    (tmp_path / "configs").unlink()
    assert main.parse(["t1jax"]) == with_folder
    assert with_folder[1] == Path("workdirs/tiny")


def test_a_config_of_ones_own_and_a_workdir(runs, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("from configs import tiny\ndef get_config():\n  c = tiny.get_config()\n  c.seed = 7\n  return c\n")
    cfg, workdir, _, _ = main.parse(["t1jax", f"--config={mine}"])
    assert (cfg.seed, workdir) == (7, Path("workdirs/mine"))
    cfg, workdir, _, _ = main.parse(
        ["t1jax", "--config.rl.num_steps=3", "--config", str(mine), "--workdir", str(tmp_path / "here" / "there")]
    )
    assert (cfg.seed, cfg.rl.num_steps, workdir) == (7, 3, tmp_path / "here" / "there")


def test_help_names_the_flags(runs, capsys):
    assert call("--help") == 0
    out = capsys.readouterr().out
    assert "--config=FILE" in out and "--workdir=DIR" in out and "configs/base.py" in out
    assert runs == []


# what is refused

REFUSED = {
    "--config.rl.num_stpes=5": "unknown knob rl.num_stpes; did you mean rl.num_steps?",
    "--config.num_steps=5": "unknown knob num_steps; did you mean ",
    "--config.rl=5": "unknown knob rl; ",
    "--noconfig.model.tie": "unknown knob model.tie; did you mean ",
    "--config.rl.num_steps=abc": "rl.num_steps is 'abc'; expected a whole number",
    "--config.rl.num_steps=5.5": "rl.num_steps is '5.5'; expected a whole number",
    "--config.rl.num_steps=": "rl.num_steps is ''; expected a whole number",
    "--config.rl.temperature=hot": "rl.temperature is 'hot'; expected a number",
    "--config.rl.temperature=nan": "rl.temperature is nan; expected a finite number",
    "--config.model.tie_embeddings=maybe": "model.tie_embeddings is 'maybe'; expected True or False",
    "--config.scaling.budgets=abc": "scaling.budgets is 'abc'; expected a whole number",
    "--config.scaling.budgets=(8,": "scaling.budgets is ",
    "--config.rl.num_steps": "Missing value for flag --config.rl.num_steps",
    "--noconfig.rl.num_steps": "Unknown command line flag 'noconfig.rl.num_steps'",
    "--config=configs/nope.py": "--config=configs/nope.py: no such file; expected a Python file, or one of the ",
    "--config=tinny": "--config=tinny: no such file; expected a Python file, or one of the configs ",
    "--config": "--config=: no such file; ",
    "--config=configs": "--config=configs: no such file; ",
    "--wrkdir=x": "Unknown command line flag 'wrkdir'. Did you mean: workdir ?",
    "steps=5": "unexpected argument 'steps=5'; flags start with --",
    "--workdir=a_file": "--workdir=a_file: ",
    "--workdir=a_file/below": "--workdir=a_file/below: ",
    "--workdir=": "--workdir is empty; expected a directory",
    # impossible combinations, on the eight devices of the tests
    "--config.model.num_heads=3": "model.num_heads is 3; expected a multiple of model.num_kv_heads = 2",
    "--config.rl.responses_per_prompt=1": "rl.responses_per_prompt is 1; expected at least 2",
    "--config.rl.prompts_per_step=12": "rl.prompts_per_step is 12; expected a multiple of mesh.data * mesh.fsdp = 8",
    "--config.mesh.data=3": "mesh.data, mesh.fsdp, mesh.tensor are 3, -1, 1; expected a product of 8",
    "--config.mesh.tensor=8": "model.num_heads is 4; expected a multiple of mesh.tensor = 8",
    "--config.model.remat=fulll": "model.remat is fulll; expected one of none, dots, full; did you mean full?",
}


@pytest.mark.parametrize("flag", REFUSED)
def test_a_mistake_is_one_line_and_exit_code_2(runs, capsys, flag, tmp_path):
    (tmp_path / "a_file").write_text("")
    before = sorted(os.listdir())
    assert call(flag) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"t1jax: {REFUSED[flag]}"), captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert runs == [] and sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def get_config(:\n", "SyntaxError: "),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n", "KeyError: 'get_config'; expected a get_config() that works"),
        ("def get_config():\n  raise ValueError('one\\ntwo')\n", "ValueError: one two"),
        ("def get_config():\n  return None\n", "get_config() returned NoneType; expected a ConfigDict"),
        (
            "from configs import base\ndef get_config():\n  c = base.get_config()\n  c.rl.num_stpes = 5\n",
            "AttributeError: ",
        ),
        (
            "from configs import base\ndef get_config():\n  c = base.get_config().unlock()\n  c.rl.step = 5\n"
            "  return c\n",
            "unknown knob rl.step; did you mean rl.num_steps?",
        ),
    ],
)
def test_a_broken_config_file_is_one_line_with_its_name_and_what_it_raised(runs, capsys, tmp_path, text, says):
    (tmp_path / "mine.py").write_text(text)
    assert call("--config=mine.py") == 2
    err = capsys.readouterr().err
    assert err.startswith("t1jax: ") and err.count("\n") == 1
    assert says in err and ("mine.py" in err or "knob" in says)
    assert runs == []


def test_a_mistake_that_the_pipeline_finds_is_one_line_too(runs, capsys, monkeypatch):
    def refuse(cfg: Config, workdir: Path, allow_change: list[str], *_: object) -> None:
        raise ConfigError("model.vocab_size is 3;\n  raise it")

    monkeypatch.setattr("t1jax.training.stages.run", refuse)
    assert call(*FITS) == 2
    assert capsys.readouterr().err == "t1jax: model.vocab_size is 3; raise it\n"


def test_an_interrupt_is_one_line_and_exit_code_130(runs, capsys, monkeypatch):
    def interrupted(cfg: Config, workdir: Path, allow_change: list[str], *_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("t1jax.training.stages.run", interrupted)
    assert call(*FITS) == 130
    assert capsys.readouterr().err == "t1jax: interrupted; the same command resumes from the latest checkpoint\n"


def test_a_failure_that_is_no_mistake_of_the_user_is_a_line_that_names_the_file_of_its_traceback(
    runs, monkeypatch, capsys
):
    def fail(cfg: Config, workdir: Path, allow_change: list[str], *_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("t1jax.training.stages.run", fail)
    for flags, name in ((["--workdir=a"], "a"), ([], "t1jax"), (["--workdir", "b/"], "b")):
        file = f"{name}.traceback.txt"
        assert call(*FITS, *flags) == 1
        assert capsys.readouterr().err == f"t1jax: RuntimeError: broken; its traceback is in {file}\n"
        assert "in fail" in Path(file).read_text() and not Path("a").exists()
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    assert call(*FITS) == 1
    said = capsys.readouterr().err
    assert "in fail" in said and said.endswith("RuntimeError: broken; its traceback is above\n")


# in a process of its own: what a user sees


def program(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    done = program("-m", "t1jax.main", "--config.rl.num_stpes=5", f"--workdir={tmp_path / 'run'}", cwd=ROOT)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "t1jax: unknown knob rl.num_stpes; did you mean rl.num_steps?\n"
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_combination_in_a_process_of_its_own(tmp_path):
    done = program("-m", "t1jax.main", "--config.model.num_heads=3", f"--workdir={tmp_path / 'run'}", cwd=ROOT)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "t1jax: model.num_heads is 3; expected a multiple of model.num_kv_heads = 2\n"
    assert list(tmp_path.iterdir()) == []


def test_help_and_import_load_nothing_heavy(tmp_path):
    code = (
        "import sys, json, time, t1jax, t1jax.main\n"
        "assert t1jax.main.main(['t1jax', '--help']) == 0\n"
        "t1jax.main.parse(['t1jax', '--config.rl.num_steps=3'])\n"
        "heavy = ['jax', 'jaxlib', 'flax', 'optax', 'orbax', 'grain', 'matplotlib', 'sentencepiece', 'numpy', 'rich']\n"
        "print(json.dumps([[name for name in heavy if name in sys.modules], time.process_time()]))\n"
    )
    done = program("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded, seconds = json.loads(done.stdout.splitlines()[-1])
    assert loaded == [] and seconds < 3  # of processor time: a busy machine is no fault


def test_ctrl_c_in_a_process_of_its_own(tmp_path):
    code = (
        "import sys, time, types\n"
        "from t1jax import main\n"
        "def run(cfg, workdir, allow_change, *more):\n"
        "    print('running', flush=True)\n"
        "    for _ in range(600): time.sleep(0.1)\n"  # one long sleep may begin just after a signal, and sleep on
        "sys.modules['t1jax.training.stages'] = types.SimpleNamespace(run=run)\n"
        "import t1jax.training; t1jax.training.stages = sys.modules['t1jax.training.stages']\n"
        f"sys.argv = ['t1jax', {', '.join(map(repr, FITS))}]\n"
        "main.cli()\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "t1jax: interrupted; the same command resumes from the latest checkpoint\n"


# what comes next


def next_of(monkeypatch, cfg, name, program):
    """(module, arguments) of each command that a finished run prints."""
    monkeypatch.setattr(sys, "argv", [program])
    lines = main.next_commands(cfg, Path(name))
    commands = [shlex.split(line.partition(":")[2]) for line in lines]
    assert [line.partition(":")[0] for line in lines][::2] == ["ask", "export"] and len(lines) == 3
    return commands


def test_a_finished_run_ends_with_three_commands_that_work(runs, monkeypatch, capsys):
    """With this Python, or as `t1jax COMMAND` if the run was started so; for any name of a workdir."""
    assert call(*FITS) == 0
    printed = capsys.readouterr().out.splitlines()
    ((cfg, _),) = runs
    assert len(printed) == 4 and printed[1:] == main.next_commands(cfg, Path("workdirs/tiny"))
    by_module = next_of(monkeypatch, cfg, "work dirs/a'b", "/x/t1jax/main.py")
    by_name = next_of(monkeypatch, cfg, "work dirs/a'b", "/x/bin/t1jax")
    for command, (module, known), named in zip(
        by_module, (("sample", "sample"), ("analyze", "analyze"), ("convert", "convert")), by_name, strict=True
    ):
        assert shutil.which(command[0]) == sys.executable and command[1:3] == ["-m", f"t1jax.{module}"]
        assert named[:2] == ["t1jax", known] and command[3:] == named[2:]
    ask, look, export = (command[3:] for command in by_module)
    assert ask[0] == "--checkpoint=work dirs/a'b" and ask[1].startswith("Pick two of ") and look == ["work dirs/a'b"]
    assert export == ["orbax-to-hf", "--src=work dirs/a'b", "--dst=work dirs/a'b-hf"]


def begun(cfg, folder):
    """A workdir of that run, with a checkpoint of each stage, as far as its config is asked for."""
    for stage in ("sft", "rl"):
        (folder / "checkpoints" / stage / "8").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(cfg.to_dict()))
    return folder


def test_the_next_step_is_to_evaluate_with_the_prompt_limits_and_reward_of_the_run(runs, monkeypatch, tmp_path):
    """None of that is on the command line: it is in the workdir."""
    own = (
        "--config.data.system_prompt=Be brief.", "--config.data.template=Q: {problem}", "--config.rl.max_new_tokens=77",
        "--config.data.problem_column=q", "--config.data.choice_seed=3", "--config.data.text_golds=drop",
        "--config.data.response_prefix=So", "--config.eval.batch_size=24", "--config.scaling.answer_prefix=!",
        "--config.reward.function=mine.py:f", "--config.reward.weights=(0.5,)", "--config.mesh.tensor=2",
    )  # fmt: skip
    assert call(*FITS, *own) == 0
    cfg = dataclasses.replace(runs[0][0], data=dataclasses.replace(runs[0][0].data, train="a.jsonl", eval="b.jsonl"))
    begun(cfg, tmp_path / "run")
    ask, measure, _ = next_of(monkeypatch, cfg, "run", "t1jax")
    assert ask[2:] == ["--checkpoint=run", "What is 12 times 13?"]
    assert measure == ["t1jax", "evaluate", "--checkpoint=run", "--data=b.jsonl", "--samples=4", "--out=run-evaluated"]
    assert cfg.data.system_prompt == "Be brief." and cfg.reward.weights == (0.5,)
    for command, printed in ((sample, ask), (evaluate, measure)):
        found, values, _ = command_line.read_config(printed[1:], command._define, command.DEFAULT_CONFIG)
        assert found == cfg and values.checkpoint == "run"


def test_a_config_or_knob_that_is_given_comes_before_that_of_the_run(runs, tmp_path, monkeypatch):
    assert call(*FITS, "--config.rl.max_new_tokens=77") == 0
    ((cfg, _),) = runs
    folder = begun(cfg, tmp_path / "run")

    def read(*argv):
        return command_line.read_config(["t1jax.sample", *argv], sample._define, "base")[0]

    knobs = ("--config.rl.max_new_tokens=5", "--config.scaling.budgets=(3,)")
    for where in (folder, folder / "checkpoints/rl", folder / "checkpoints/sft/8", f"{folder}/"):
        assert read(f"--checkpoint={where}") == cfg
        found = read("--checkpoint", str(where), *knobs)
        assert (found.rl.max_new_tokens, found.scaling.budgets) == (5, (3,)) and found.task == cfg.task
        assert given.config_of(config_files.of_run(where)) == cfg
    base = given.config_of("base")
    assert read(f"--checkpoint={folder}", "--config=base") == base
    (folder / "hf").mkdir()
    (folder / "hf/config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    for other in (f"{folder}/hf", f"{tmp_path}/none", f"{folder}/checkpoints", "Qwen/Qwen2.5-0.5B", ""):
        assert read(f"--checkpoint={other}") == base, other
    assert read() == base
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run/config.json: .*; expected what t1jax wrote.*--config=FILE"):
        read(f"--checkpoint={folder}")
    (folder / "config.json").write_text('{"seed": 0}')
    with pytest.raises(ConfigError, match=r"run/config.json: missing knob"):
        read(f"--checkpoint={folder}")


# the model's sizes are those of its checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    """A folder of a Qwen2 with 5 layers of width 64; for these tests its weights need not be readable."""
    folder = tmp_path / "qwen"
    folder.mkdir()
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    rest = {
        "max_position_embeddings": 32768,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
    }
    (folder / "config.json").write_text(json.dumps(sizes | heads | rest | {"tie_word_embeddings": True}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


BASE = ("--config=configs/base.py", "--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")


def test_the_sizes_of_the_model_come_from_its_checkpoint(runs, checkpoint):
    assert call(*BASE, f"--config.model.checkpoint={checkpoint}", "--config.model.remat=dots") == 0
    ((cfg, _),) = runs
    model = cfg.model
    assert (model.vocab_size, model.hidden_size, model.mlp_size, model.num_layers) == (512, 64, 96, 5)
    assert (model.num_heads, model.num_kv_heads, model.head_dim, model.qkv_bias) == (8, 4, 8, True)
    assert (model.tie_embeddings, model.norm_eps, model.remat) == (True, 1e-6, "dots")


@pytest.mark.parametrize("how", ["flag", "flag as in base.py", "file"])
def test_a_size_that_is_set_must_be_that_of_the_checkpoint(runs, checkpoint, tmp_path, capsys, how):
    layers = 64 if "base" in how else 6
    config = BASE
    if how == "file":
        text = (
            f"from configs import base\ndef get_config():\n  c = base.get_config()\n  c.model.num_layers = {layers}\n"
        )
        (tmp_path / "mine.py").write_text(f"{text}  return c\n")
        config = ("--config=mine.py", *BASE[1:])
    flag = [] if how == "file" else [f"--config.model.num_layers={layers}"]
    assert call(*config, f"--config.model.checkpoint={checkpoint}", *flag) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"t1jax: {checkpoint}/config.json describes another model than the config, where ")
    assert f"where model.num_layers is {layers}, not 5; leave these knobs out" in said and not runs
    assert call(*BASE, f"--config.model.checkpoint={checkpoint}", "--config.model.num_layers=5") == 0


def test_a_run_goes_on_with_its_own_sizes_when_the_checkpoint_is_gone(runs, checkpoint, tmp_path):
    flags = (*BASE, f"--config.model.checkpoint={checkpoint}", "--workdir=run")
    assert call(*flags) == 0
    ((cfg, _),) = runs
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps(cfg.to_dict()))
    (checkpoint / "config.json").unlink()
    assert call(*flags) == 0
    assert runs[1][0] == cfg
    assert call(*flags[:-1]) == 2  # a new run needs it

# SPDX-License-Identifier: Apache-2.0
"""Storage that fails: damaged checkpoints, full disks, folders one may not write, two runs in one workdir."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import small
from saved_states import CFG, abstract, assert_same, make_mesh, make_state, make_tokens
from tiny_run import KNOBS as PIPELINE

from t1jax import config
from t1jax.config import ConfigError
from t1jax.host import workdir
from t1jax.host.stopping import EXIT_STORAGE, Stopped
from t1jax.training import stages
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.setup import rl_setup

ROOT = Path(__file__).parents[2]
ONE = make_mesh(1, 1, 1)
SIZES = {"empty": 0, "one byte": 1, "half": None, "but one byte": -1, "gone": None}


def state_of(step: int):
    return make_state(ONE, scale=float(step)).replace(step=np.int32(step))


def save(folder: Path, tokens, *steps: int, notes: list[str] | None = None) -> None:
    with Checkpoints(folder, CFG, tokens, (notes if notes is not None else []).append) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_of(step), {"next_index": step})
            checkpoints.wait()


@pytest.fixture(scope="module")
def tokens():
    return make_tokens()


@pytest.fixture(scope="module")
def two(tmp_path_factory, tokens):
    """Checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("two")
    save(folder, tokens, 1, 2)
    return folder


def damage(path: Path, how: str) -> None:
    size = path.stat().st_size
    if how == "gone":
        path.unlink()
    else:
        os.truncate(path, {"empty": 0, "one byte": min(1, size), "half": size // 2, "but one byte": size - 1}[how])


class Stream:
    def set_state(self, state) -> None:
        self.state = state


@pytest.mark.parametrize(
    "how",
    ["half", "gone", *(pytest.param(how, marks=pytest.mark.slow) for how in ("empty", "one byte", "but one byte"))],
)
def test_whatever_file_of_the_newest_is_damaged_an_older_or_the_same_state_comes_back(two, tokens, tmp_path, how):
    """Never another state, and the user is told which was taken; then training can save that step again."""
    walked = 0
    files = [path.relative_to(two) for path in (two / "2").rglob("*") if path.is_file()]
    assert len(files) > 10
    for file in files:
        folder, notes = tmp_path / "copy", []
        shutil.copytree(two, folder)
        damage(folder / file, how)
        with Checkpoints(folder, CFG, tokens, notes.append) as checkpoints:
            stream = Stream()
            restored = checkpoints.restore(abstract(state_of(1), ONE), stream)  # type: ignore[arg-type]
            step = int(restored.step)  # type: ignore[union-attr]
            assert_same(restored, state_of(step))  # type: ignore[arg-type]
            assert stream.state == {"next_index": step}
            if step == 1:
                walked += 1
                assert "2 cannot be read" in notes[0] and "2.damaged" in notes[0] and len(notes) == 1
                assert (folder / "2.damaged").is_dir() and checkpoints.steps() == [1]
                checkpoints.save(2, state_of(2), {"next_index": 2})
                checkpoints.wait()
                assert checkpoints.steps() == [1, 2]
            else:
                assert not notes
        shutil.rmtree(folder)
    assert walked >= 4  # the arrays, their list, the config, the stream: without them there is no state


def test_a_file_left_over_or_a_temporary_folder_is_no_checkpoint(two, tokens, tmp_path):
    shutil.copytree(two, tmp_path / "copy")
    (tmp_path / "copy/3.orbax-checkpoint-tmp/state").mkdir(parents=True)
    (tmp_path / "copy/notes.txt").write_text("7")
    with Checkpoints(tmp_path / "copy", CFG, tokens) as checkpoints:
        assert_same(checkpoints.restore(abstract(state_of(1), ONE)), state_of(2))  # type: ignore[arg-type]


def test_where_none_can_be_read_the_run_ends_and_nothing_is_deleted(two, tokens, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two, folder)
    for step in (1, 2):
        damage(folder / f"{step}/state/manifest.ocdbt", "half")
    with Checkpoints(folder, CFG, tokens, lambda note: None) as checkpoints:
        with pytest.raises(Stopped, match=r"no checkpoint can be read \(2: .*; 1: .*\); put one back") as error:
            checkpoints.restore(abstract(state_of(1), ONE))
        assert error.value.code == EXIT_STORAGE
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"1.damaged", "2.damaged"}


@contextmanager
def no_file_over(size: int):
    """As on a disk that is full: writing more to a file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_for_a_while_costs_only_the_checkpoints_of_that_while(tmp_path, tokens):
    notes: list[str] = []
    with Checkpoints(tmp_path, CFG, tokens, notes.append) as checkpoints:
        checkpoints.save(1, state_of(1))
        checkpoints.wait()
        with no_file_over(300):
            checkpoints.save(2, state_of(2))
            checkpoints.save(3, state_of(3))  # finds that 2 failed, and fails
            checkpoints._collect()
        assert checkpoints.steps() == [1] and len(notes) == 2
        assert all("could not be written" in note and "the newest whole one is 1" in note for note in notes)
        checkpoints.save(4, state_of(4))
        checkpoints.wait()
        assert checkpoints.steps() == [1, 4]
    for _ in range(50):  # a thread of a failed save may still be writing; what it left, the next start takes away
        with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
            left = list(tmp_path.glob("*tmp*"))
        if not left:
            break
        time.sleep(0.2)
    assert not left and checkpoints.steps() == [1, 4]


def test_a_last_checkpoint_that_cannot_be_written_ends_the_run_with_the_reason(tmp_path, tokens):
    with Checkpoints(tmp_path, CFG, tokens, lambda note: None) as checkpoints:
        checkpoints.save(1, state_of(1))
        checkpoints.wait()
        with no_file_over(300), pytest.raises(Stopped, match=r"could not be written: .*from step 1") as error:
            checkpoints.save(2, state_of(2))
            checkpoints.wait()
        assert error.value.code == EXIT_STORAGE
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        assert_same(checkpoints.restore(abstract(state_of(1), ONE)), state_of(1))  # type: ignore[arg-type]


def test_a_folder_that_may_not_be_written_keeps_what_is_in_it(tokens):
    with tempfile.TemporaryDirectory() as name:
        folder, notes = Path(name) / "checkpoints", []
        os.chmod(name, 0o755)
        with Checkpoints(folder, CFG, tokens, notes.append) as checkpoints:
            checkpoints.save(1, state_of(1))
            checkpoints.wait()
            os.chmod(folder, 0o555)
            root = os.geteuid() == 0
            if root:
                os.seteuid(65534)
            try:
                checkpoints.save(2, state_of(2))
                checkpoints._collect()
            finally:
                if root:
                    os.seteuid(0)
                os.chmod(folder, 0o755)
            assert checkpoints.steps() == [1] and "Permission denied" in notes[0]


def test_one_process_at_a_time_runs_in_a_workdir(tmp_path):
    code = (
        "import sys; from pathlib import Path; from t1jax.host import workdir\n"
        f"with workdir.locked(Path({str(tmp_path)!r})): print('mine', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with pytest.raises(ConfigError, match=rf"is in use by process {other.pid} on .*another --workdir"):
            with workdir.locked(tmp_path):
                pass
        other.kill()
    with workdir.locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def claim(tmp_path, *allowed: str, **knobs):
    return workdir.claim(small.make_config(**knobs), tmp_path, allowed)


def test_a_changed_knob_is_refused_with_the_difference_unless_it_is_allowed(tmp_path):
    workdir.begin(small.make_config(), tmp_path, ())
    assert claim(tmp_path) == {}
    assert claim(tmp_path, mesh__fsdp=4) == {}
    with pytest.raises(ConfigError, match=r"rl\.num_steps is 30, was 20; rl\.kl_coef is 0\.5, was 0\.1; .*"):
        claim(tmp_path, rl__num_steps=30, rl__kl_coef=0.5)
    with pytest.raises(ConfigError, match=r"--allow_change=rl\.num_steps, or give another --workdir"):
        claim(tmp_path, rl__num_steps=30)
    assert claim(tmp_path, "rl.num_steps", rl__num_steps=30) == {"rl.num_steps": (20, 30)}
    with pytest.raises(ConfigError, match=r"rl\.kl_coef is 0\.5"):
        claim(tmp_path, "rl.num_steps", rl__num_steps=30, rl__kl_coef=0.5)
    with pytest.raises(ConfigError, match="unknown knob rl.num_step; did you mean rl.num_steps"):
        claim(tmp_path, "rl.num_step")
    for fixed in ("model.num_layers", "seed", "rl.prompts_per_step", "sft.num_steps"):
        with pytest.raises(ConfigError, match=f"--allow_change={fixed}: {fixed} cannot change in a run"):
            claim(tmp_path, fixed)
    assert claim(tmp_path, "model.remat", model__remat="full") == {"model.remat": ("none", "full")}


def test_a_changed_file_of_problems_is_refused(tmp_path):
    problems = tmp_path / "my problems.jsonl"
    problems.write_text('{"problem": "1+1", "answer": "2"}\n')
    cfg = small.make_config()
    cfg = replace(cfg, data=replace(cfg.data, train=str(problems)))
    workdir.begin(cfg, tmp_path / "run", ())
    assert workdir.claim(cfg, tmp_path / "run") == {}
    problems.write_text('{"problem": "1+1", "answer": "3"}\n')
    with pytest.raises(ConfigError, match=r"my problems\.jsonl \(data\.train\) is not the file that .*SHA-256"):
        workdir.claim(cfg, tmp_path / "run")
    problems.unlink()
    with pytest.raises(ConfigError, match=r"data\.train is .*No such file"):
        workdir.claim(cfg, tmp_path / "run")


def test_each_of_several_files_of_problems_is_held_to_what_it_was(tmp_path):
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    cfg = small.make_config(data__train=",".join(map(str, files)))
    for changed in files:
        for file in files:
            file.write_text('{"problem": "1+1", "answer": "2"}\n')
        workdir.begin(cfg, tmp_path / changed.name[0], ())
        assert workdir.claim(cfg, tmp_path / changed.name[0]) == {}
        changed.write_text('{"problem": "1+1", "answer": "3"}\n')
        with pytest.raises(ConfigError, match=r"a\.jsonl,.*b\.jsonl \(data\.train\) is not the file that"):
            workdir.claim(cfg, tmp_path / changed.name[0])


def test_a_damaged_config_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(ConfigError, match=r"config\.json: .*expected what t1jax wrote"):
        claim(tmp_path)


def shorter(**knobs):
    few = {"sft__num_steps": 2, "rl__num_steps": 2, "eval__num_problems": 8, "eval__quick_problems": 8}
    rest = {"eval__batch_size": 8, "eval__every": 0, "checkpoint__every": 1, "scaling__budgets": (4,)}
    return small.make_config(**PIPELINE | few | rest | knobs)


@pytest.mark.slow
def test_a_raised_number_of_steps_continues_as_if_it_had_been_so_from_the_start(tmp_path):
    def rows(folder):
        kept = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in kept]

    stages.run(shorter(), tmp_path / "run")
    with pytest.raises(ConfigError, match="allow_change=rl.num_steps"):
        stages.run(shorter(rl__num_steps=4), tmp_path / "run")
    stages.run(shorter(rl__num_steps=4), tmp_path / "run", ["rl.num_steps"])
    stages.run(shorter(rl__num_steps=4), tmp_path / "unbroken")
    assert rows(tmp_path / "run") == rows(tmp_path / "unbroken")
    one, other = (json.loads((tmp_path / x / "results.json").read_text()) for x in ("run", "unbroken"))
    assert one["rl"] == other["rl"] and one["config"] == other["config"]
    assert one["config"]["rl"]["num_steps"] == 4


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_devices(tmp_path):
    """Eight devices, then four, then one: the same steps; sums over more devices round otherwise, so nearly."""

    def states(folder, mesh):
        shapes = rl_setup(shorter(), mesh).state_shapes()
        beside = stages.tokenizer.load(folder / "tokenizer")
        with Checkpoints(folder / "checkpoints/rl", shorter(), beside) as kept:
            return kept.latest(), small.to_numpy(kept.restore(shapes))

    devices = jax.devices
    folder = tmp_path / "run"
    try:
        for number, count in enumerate((8, 4, 1), start=1):
            mesh = config.MeshConfig(1, count, 1)
            cfg = replace(shorter(rl__num_steps=number), mesh=mesh)
            allowed = ["rl.num_steps"]
            jax.devices = lambda *_, count=count: devices()[:count]  # type: ignore[assignment]
            jax.device_count = lambda *_, count=count: count  # type: ignore[assignment]
            stages.run(cfg, folder, allowed)
    finally:
        jax.devices, jax.device_count = devices, lambda *_: len(devices())  # type: ignore[assignment]
    stages.run(replace(shorter(rl__num_steps=3), mesh=config.MeshConfig(1, 8, 1)), tmp_path / "unbroken")
    (last, mine), (_, theirs) = (states(x, small.make_mesh()) for x in (folder, tmp_path / "unbroken"))
    assert last == 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), mine.params, theirs.params)

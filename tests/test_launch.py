# SPDX-License-Identifier: Apache-2.0
"""The launch scripts against stand-ins for gcloud, xpk, srun and python that record how they were called.

What is compared is the words of each call, so that a space in a value shows; what a stand-in answers, and how it fails
in the middle, each test says.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "PROJECT": "my-project",
    "PAUSE": "0",
    "RUN_ID": "one",
    "SHARED_DIR": "/mnt/shared disk",
    "CLUSTER": "pool",
    "IMAGE": "image:1",
    "MAX_RESTARTS": "2",
}
STAND_IN = """#!{python}
import json, os, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([name, *words]) + "\\n")
play = json.load(open(os.environ["PLAY"]))
text = " ".join([name, *words])
if os.environ.get("WORKER") and "ssh" in words:  # what a worker does
    command = next(word for word in words if word.startswith("--command=")).removeprefix("--command=")
    sys.exit(os.spawnlp(os.P_WAIT, "bash", "bash", "-c", "cd; " + command))
for line in play:
    if line["to"] in text:
        answer = line["answers"].pop(0) if len(line["answers"]) > 1 else line["answers"][0]
        json.dump(play, open(os.environ["PLAY"], "w"))
        sys.stdout.write(answer[0])
        sys.stderr.write(answer[2] if len(answer) > 2 else "")
        sys.exit(answer[1])
"""
NONE = ("", 1, "ERROR: (gcloud) NOT_FOUND: Resource was not found")


class Stage:
    """Stand-ins on PATH, what they are to answer, and how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, []
        (folder / "bin").mkdir()
        for name in ("gcloud", "xpk", "srun", "python"):
            path = folder / "bin" / name
            path.write_text(STAND_IN.format(python=sys.executable))
            path.chmod(path.stat().st_mode | stat.S_IEXEC)

    def run(self, *argv: str, play: dict[str, list[Any]] | None = None, **settings: str) -> subprocess.CompletedProcess:
        """The script with these answers: part of a command -> (stdout, exit code, stderr) of each call in turn."""
        lines = [{"to": to, "answers": answers} for to, answers in (play or {}).items()]
        (self.folder / "play").write_text(json.dumps(lines))
        (self.folder / "calls").write_text("")
        environment = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "CALLS": str(self.folder / "calls"),
            "PLAY": str(self.folder / "play"),
            **SETTINGS,
            **settings,
        }
        done = subprocess.run(
            ["bash", str(ROOT / "launch" / argv[0]), *argv[1:]],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.calls = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return done

    def steps(self) -> list[str]:
        """The calls of gcloud, each as one word."""
        known = {"create": "create", "describe": "describe", "delete": "delete", "scp": "scp"}
        found = []
        for name, *words in self.calls:
            assert name == "gcloud" and words[:2] == ["compute", "tpus"]
            assert "--project=my-project" in words and "--zone=us-east5-a" in words
            if words[3] == "ssh":
                told = next(word for word in words if word.startswith("--command="))
                marks = {"pip install": "setup", "nohup": "run", "running": "progress", "kill -9": "stop"}
                found.append(next(step for mark, step in marks.items() if mark in told))
            else:
                found.append(known[words[3]])
        return found


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def says(*progress: str) -> tuple[str, int]:
    return "".join(f"t1jax: {word}\n" for word in progress), 0


def play(states: list[str], **more: list[Any]) -> dict[str, list[Any]]:
    """What gcloud answers: the states in turn; `more`: by a word of the command."""
    answers = [NONE if state == "NONE" else (state + "\n", 0) for state in states]
    return {"describe": answers} | {word.replace("_", " "): answer for word, answer in more.items()}


def left_behind(done: subprocess.CompletedProcess) -> bool:
    """Whether the user was told how to delete what may be left."""
    return "gcloud compute tpus queued-resources delete t1jax-one --project=my-project" in done.stderr


def test_from_nothing_to_the_end_of_a_run_and_the_slice_is_given_back(stage):
    states = ["NONE", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    done = stage.run("tpu_pod.sh", "all", play=play(states, running=[says("running", "running"), says("0", "0")]))
    assert done.returncode == 0, done.stderr
    begin = ["describe", "create", "describe", "describe", "describe", "scp", "setup", "run"]
    assert stage.steps() == [*begin, "describe", "progress", "describe", "progress", "delete"]
    assert not left_behind(done)
    create = stage.calls[1]
    assert {"--spot", "--accelerator-type=v5p-256", "--node-id=t1jax-one"} <= set(create)
    run = next(word for call in stage.calls for word in call if "nohup" in word)
    assert r"--workdir=/mnt/shared\ disk/one" in run and "--multiprocess" in run
    assert r"--config.data.train=/mnt/shared\ disk/data/train.jsonl" in run


@pytest.mark.parametrize(
    ("capacity", "flags"),
    [("on-demand", set()), ("spot", {"--spot"}), ("held", {"--reservation=held", "--reserved"})],
)
def test_capacity(stage, capacity, flags):
    done = stage.run("tpu_pod.sh", "create", play=play(["NONE", "ACTIVE"]), CAPACITY=capacity)
    assert done.returncode == 0 and left_behind(done)
    words = set(stage.calls[1])
    assert flags == words & {"--spot", "--reserved", "--reservation=held"}


def test_a_slice_that_is_there_is_not_asked_for_again(stage):
    assert stage.run("tpu_pod.sh", "create", play=play(["ACTIVE"])).returncode == 0
    assert stage.steps() == ["describe", "describe"]


def test_quota_refused(stage):
    refused = [("", 1, "ERROR: Quota exceeded for TPUS_PER_PROJECT\n")]
    done = stage.run(
        "tpu_pod.sh", "all", play=play(["NONE"], queued_resources_create=refused) | {"resources create": refused}
    )
    assert done.returncode == 1 and stage.steps() == ["describe", "create"]
    assert "Quota exceeded" in done.stderr and left_behind(done)


def test_a_request_that_fails_in_the_queue(stage):
    done = stage.run("tpu_pod.sh", "all", play=play(["NONE", "WAITING_FOR_RESOURCES", "FAILED"]))
    assert done.returncode == 1 and "run" not in stage.steps() and left_behind(done)


def test_permission_denied_is_told_and_nothing_is_made(stage):
    done = stage.run("tpu_pod.sh", "all", play={"describe": [("", 1, "PERMISSION_DENIED: no\n")]})
    assert done.returncode == 1 and stage.steps() == ["describe"]
    assert "PERMISSION_DENIED" in done.stderr


@pytest.mark.parametrize("step", ["scp", "pip install", "nohup"])
def test_worker_3_unreachable(stage, step):
    broken = [("", 1, "ERROR: worker 3: connection refused\n")]
    done = stage.run("tpu_pod.sh", "all", play={step: broken} | play(["NONE", "ACTIVE"]))
    assert done.returncode == 1 and left_behind(done)
    assert "worker 3" in done.stderr and "progress" not in stage.steps()


def test_preempted_while_it_runs_the_run_goes_on_on_a_new_slice(stage):
    states = ["ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE"]
    done = stage.run("tpu_pod.sh", "watch", play=play(states, running=[says("running"), says("0")]))
    assert done.returncode == 0, done.stderr
    begin = ["describe", "progress", "describe", "describe", "delete", "create", "describe", "scp", "setup", "run"]
    assert stage.steps() == [*begin, "describe", "progress", "describe", "progress"][: len(stage.steps())]
    assert stage.steps()[-1] == "progress" and "restart 1 of 2" in done.stderr


def test_preempted_during_set_up(stage):
    states = ["SUSPENDED", "SUSPENDED", "ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE"]
    broken = [("", 1, "ERROR: worker 0 is gone\n"), ("", 0)]
    done = stage.run("tpu_pod.sh", "watch", play={"scp": broken} | play(states, running=[says("0")]))
    assert done.returncode == 0, done.stderr
    assert stage.steps().count("create") == 2 and stage.steps().count("run") == 1
    assert "could not be brought up" in done.stderr


def test_a_run_that_breaks_off_is_stopped_everywhere_and_started_again_until_it_is_given_up(stage):
    broken = [says("running", "1")]
    done = stage.run("tpu_pod.sh", "watch", play=play(["ACTIVE"], running=broken))
    assert done.returncode == 1 and left_behind(done)
    assert [step for step in stage.steps() if step not in ("describe", "progress")] == ["stop", "run"] * 2
    assert "gave up after 2 restarts" in done.stderr


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_would_end_so_again_is_not_tried_again(stage, code):
    done = stage.run("tpu_pod.sh", "watch", play=play(["ACTIVE"], running=[says(str(code), "running")]))
    assert done.returncode == code and "run" not in stage.steps() and left_behind(done)


def test_what_a_worker_is_told_starts_the_run_once_and_sees_how_it_ends(stage):
    """The commands for workers, run here: in a home of its own, with a python that waits for a file and ends."""
    python = stage.folder / "t1jax/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/bash\n[ "$2" != t1jax.status ] || { echo "$3: how it is"; exit 5; }\n'
        'printf "%s\\n" "$@" >> told\nuntil [ -f end ]; do sleep 0.05; done\nexit $(cat end)\n'
    )
    python.chmod(0o755)
    home = stage.folder / "t1jax"

    def progress() -> str:
        done = stage.run("tpu_pod.sh", "status", WORKER="1")
        assert done.returncode == 5  # of t1jax.status
        word, *said = done.stdout.strip().split("\n")
        assert said == ["/mnt/shared disk/one: how it is"]
        return word

    assert progress() == "lost"
    for _ in range(2):
        assert stage.run("tpu_pod.sh", "run", WORKER="1").returncode == 0
    assert progress() == "running"
    told = (home / "told").read_text().splitlines()
    assert told[:4] == ["-m", "t1jax.main", "--multiprocess", "--workdir=/mnt/shared disk/one"]
    assert len(told) == 8  # once, not twice
    (home / "end").write_text("3")
    until = time.monotonic() + 20
    while progress() == "running":
        assert time.monotonic() < until
    assert progress() == "3"
    (home / "end").unlink()
    assert stage.run("tpu_pod.sh", "run", WORKER="1").returncode == 0
    assert progress() == "running"  # and the old exit code is forgotten
    (home / "end").write_text("0")
    assert stage.run("tpu_pod.sh", "watch", WORKER="1", play=play(["ACTIVE"]), PAUSE="1").returncode == 0


def test_delete_gives_it_back_and_says_where_it_could_not(stage):
    done = stage.run("tpu_pod.sh", "delete")
    assert done.returncode == 0 and stage.steps() == ["delete"]
    assert {"--force", "--quiet", "t1jax-one"} <= set(stage.calls[0])
    assert stage.run("tpu_pod.sh", "delete", play={"delete": [("", 1)]}).returncode == 1


@pytest.mark.parametrize(
    ("script", "verb"),
    [("tpu_pod.sh", verb) for verb in ("create", "setup", "run", "watch", "status", "logs", "delete", "all")]
    + [
        ("xpk.sh", "run"),
        ("xpk.sh", "status"),
        ("xpk.sh", "delete"),
        ("gpu_node.sh", ""),
        ("convert_32b.sh", "hf dir"),
    ],
)
def test_a_dry_run_calls_nothing_and_prints_what_can_be_pasted(stage, script, verb):
    done = stage.run(script, "--dry-run", *([verb] if verb else []))
    assert done.returncode == 0 and stage.calls == [], done.stderr
    printed = [line[2:] for line in done.stderr.split("\n") if line.startswith("+ ")]
    assert printed
    again = stage.folder / "again.sh"
    again.write_text("\n".join(printed))
    assert subprocess.run(["bash", "-n", str(again)], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PROJECT", "", "the id of a Google Cloud project"),
        ("PROJECT", "a b", "the id of a Google Cloud project"),
        ("ZONE", "us", "a zone, such as us-east5-a"),
        ("RUN_ID", "../up", "lower-case letters"),
        ("RUN_ID", "$(touch here)", "lower-case letters"),
        ("SHARED_DIR", "relative", "gs://BUCKET/..., or an absolute path"),
        ("SHARED_DIR", "gs://", "gs://BUCKET/..., or an absolute path"),
        ("SHARED_DIR", "s3://bucket/x", "gs://BUCKET/..., or an absolute path"),
        ("ACCELERATOR", "v5p", "a type, such as v5p-256"),
        ("CAPACITY", "Spot!", "on-demand, spot, or the name of a reservation"),
        ("MAX_RESTARTS", "many", "a number"),
        ("PAUSE", "-1", "a number of seconds"),
        ("NUM_SLICES", "2", "1, as this script runs a single slice; xpk.sh runs several"),
    ],
)
def test_a_bad_setting_is_one_line_with_its_name(stage, name, value, expected):
    done = stage.run("tpu_pod.sh", "all", **{name: value})
    assert done.returncode == 2 and stage.calls == [] and done.stdout == ""
    assert done.stderr.startswith(f"tpu_pod.sh: {name} is '{value}'; expected {expected}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_verb_and_a_missing_gcloud(stage):
    assert "expected [--dry-run] and one of create" in stage.run("tpu_pod.sh", "go").stderr
    (stage.folder / "bin/gcloud").unlink()
    path = f"{stage.folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    if shutil.which("gcloud", path=path) is None:
        done = stage.run("tpu_pod.sh", "all", PATH=path)
        assert done.returncode == 2 and "gcloud is not installed" in done.stderr


def test_xpk_submits_the_run(stage):
    assert stage.run("xpk.sh", "run").returncode == 0
    (call,) = stage.calls
    told = {"--workload=one", "--tpu-type=v5p-256", "--docker-image=image:1", "--cluster=pool", "--max-restarts=2"}
    assert call[:4] == ["xpk", "workload", "create", "--workload=one"] and told <= set(call)
    (command,) = (word for word in call if word.startswith("--command="))
    assert command.startswith("--command=cd /t1jax && python -m t1jax.main --multiprocess ")
    assert r"--workdir=/mnt/shared\ disk/one" in command
    assert "--num-slices=1" in call and "mesh.slices" not in command
    assert stage.run("xpk.sh", "run", NUM_SLICES="2").returncode == 0
    (call,) = stage.calls
    (command,) = (word for word in call if word.startswith("--command="))
    assert "--num-slices=2" in call and command.endswith(" --config.mesh.slices=2")
    done = stage.run("xpk.sh", "run", play={"create": [("", 1)]})
    assert done.returncode == 1 and "to delete it: launch/xpk.sh delete" in done.stderr


def test_slurm_starts_a_process_a_gpu_and_a_failed_one_ends_all(stage):
    done = stage.run("gpu_slurm.sbatch", play={"srun": [("", 3)]}, SLURM_SUBMIT_DIR=str(ROOT))
    assert done.returncode == 3
    (call,) = stage.calls
    assert call[:6] == ["srun", "--kill-on-bad-exit=1", "python", "-m", "t1jax.main", "--multiprocess"]
    assert "--workdir=/mnt/shared disk/one" in call
    elsewhere = stage.run("gpu_slurm.sbatch", SLURM_SUBMIT_DIR=str(stage.folder))
    assert elsewhere.returncode == 2 and "expected sbatch to be called in the checkout" in elsewhere.stderr


@pytest.mark.parametrize(
    ("codes", "ended", "calls"), [([0], 0, 1), ([1, 0], 0, 2), ([1], 1, 3), ([2], 2, 1), ([130], 130, 1)]
)
def test_one_machine_is_started_again_unless_it_is_done_or_mistaken(stage, codes, ended, calls):
    done = stage.run("gpu_node.sh", play={"t1jax.main": [("", code) for code in codes]})
    assert done.returncode == ended and len(stage.calls) == calls
    assert stage.calls[0][1:4] == ["-m", "t1jax.main", "--workdir=/mnt/shared disk/one"]


def test_a_bucket_is_the_default_and_is_mounted_only_under_a_path(stage):
    settings = {"SHARED_DIR": "", "PROJECT": "my-project"}
    done = stage.run("tpu_pod.sh", "--dry-run", "all", **settings)
    assert done.returncode == 0 and "--workdir=gs://my-project-t1jax/one" in done.stderr
    assert "gs://my-project-t1jax/models/qwen32b" in done.stderr and "gcsfuse" not in done.stderr
    assert "[tpu,gcs]" in done.stderr.replace("\\", "")
    done = stage.run("tpu_pod.sh", "all", BUCKET="other", **settings)
    assert done.returncode == 2 and "BUCKET is 'other'; expected none, as SHARED_DIR is gs://my-" in done.stderr
    assert "gcsfuse" in stage.run("tpu_pod.sh", "--dry-run", "setup", BUCKET="other").stderr
    source = stage.folder / "hf"
    source.mkdir()
    (source / "config.json").write_text("{}")
    assert stage.run("convert_32b.sh", str(source), **settings).returncode == 0
    (call,) = stage.calls
    assert call[-1] == "--dst=gs://my-project-t1jax/models/one"


def test_conversion_happens_once(stage, tmp_path):
    source, shared = tmp_path / "hf dir", tmp_path / "shared"
    source.mkdir()
    done = stage.run("convert_32b.sh", str(source), SHARED_DIR=str(shared))
    assert done.returncode == 2 and "has no config.json" in done.stderr
    (source / "config.json").write_text("{}")
    assert stage.run("convert_32b.sh", str(source), SHARED_DIR=str(shared)).returncode == 0
    (call,) = stage.calls
    assert call == ["python", "-m", "t1jax.convert", "hf-to-orbax", f"--src={source}", f"--dst={shared}/models/one"]
    (shared / "models/one").mkdir()
    done = stage.run("convert_32b.sh", str(source), SHARED_DIR=str(shared))
    assert done.returncode == 0 and stage.calls == [] and "is there already" in done.stderr


def test_the_scripts_are_clean():
    scripts = [str(path) for path in sorted((ROOT / "launch").iterdir()) if path.suffix in (".sh", ".sbatch")]
    checker = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([checker, *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert len(scripts) == 7 and done.returncode == 0, done.stdout


def test_the_jobset_runs_the_training_program_on_all_machines_of_its_slice():
    yaml = pytest.importorskip("yaml", reason="PyYAML is missing: pip install pyyaml")
    spec = yaml.safe_load((ROOT / "launch/gke_jobset.yaml").read_text())["spec"]["replicatedJobs"][0]["template"][
        "spec"
    ]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    x, y, z = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert spec["parallelism"] == spec["completions"] == x * y * z // container["resources"]["limits"]["google.com/tpu"]
    assert container["command"] == ["python", "-m", "t1jax.main"] and "--multiprocess" in container["args"]
    assert "--workdir=gs://BUCKET/qwen32b" in container["args"]
    (config,) = (word for word in container["args"] if word.startswith("--config="))
    assert (ROOT / config.removeprefix("--config=")).is_file()

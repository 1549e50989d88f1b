# SPDX-License-Identifier: Apache-2.0
"""Disks, files and numbers that no run can work with: one line each, and an exit code that says what to do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torture
from made_up import write_run
from small import make_config

from t1jax import analyze, evaluate, main, validation
from t1jax.config import ConfigError
from t1jax.evaluation import measurement
from t1jax.evaluation.responses import Response
from t1jax.host import command_line, files, metrics, place, workdir
from t1jax.host.metrics import MetricsWriter
from t1jax.studies import trial
from t1jax.training import results
from t1jax.weights import output

ROOT = Path(__file__).parents[2]
MEASURED = {"summary": {}, "greedy": {}, "by_difficulty": [], "samples": [], "scaling": [], "seconds": 1.0}


def told(capsys, error):
    """(exit code, what is said) of a command that `error` ends."""

    def body(argv):
        raise error

    code = command_line.call("t1jax.x", "", body, ["t1jax.x"])
    return code, capsys.readouterr().err


def test_a_full_disk_is_a_line_and_code_3(capsys):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")

    def body(argv):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    assert command_line.call("t1jax.x", "", body, ["t1jax.x"]) == 3
    said = capsys.readouterr().err
    assert said == "t1jax.x: No space left on device; make room, and the same command goes on\n"


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, 3, "make room"),
        (errno.EDQUOT, 3, "make room"),
        (errno.EROFS, 3, "let it be read and written"),
        (errno.EACCES, 3, "let it be read and written"),
        (errno.EISDIR, 2, "move it away"),
    ],
)
def test_what_the_file_system_refuses_is_a_line_with_the_file(capsys, number, code, words):
    found, said = told(capsys, OSError(number, os.strerror(number), "run/measured/sft.json"))
    assert found == code and said.startswith("t1jax.x: run/measured/sft.json: ") and words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"{", b"3", b"[" * 10**5, b'{"summary": 1}', b"{}", None])
def test_a_damaged_measurement_is_a_line(tmp_path, content):
    path = measurement.path_of(tmp_path, "sft")
    files.write_json(path, MEASURED)
    unused: Any = None
    assert measurement.measured("sft", tmp_path, unused, unused, unused, None) == MEASURED
    if content is None:
        content = json.dumps(MEASURED | {"seconds": "long"}).encode()
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"measured/sft\.json: .*expected what t1jax wrote: delete it"):
        measurement.measured("sft", tmp_path, unused, unused, unused, None)


@pytest.mark.parametrize(
    "line", [b"\xff\xfe{", b"[]", b"3", b'"text"', b'{"stage": "rl"}', b'{"stage": "rl", "step": "1"}',
             b'{"stage": 1, "step": 1}', b"[" * 10**5],
)  # fmt: skip
def test_a_damaged_row_of_metrics_is_a_line(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(line + b"\n")
    for read in (metrics.read_rows, lambda folder: MetricsWriter(folder, {})):
        with pytest.raises(ConfigError, match=r"metrics\.jsonl line 1: .*delete that line"):
            read(tmp_path)


def test_rows_that_no_run_wrote_are_a_line_at_the_end_too():
    for row in ({"stage": "other", "step": 1, "seconds": 1.0}, {"stage": "rl", "step": 1}):
        with pytest.raises(ConfigError, match=r"metrics\.jsonl: step 1 of .* is no row of a run"):
            results.collect(make_config(), [row], MEASURED, MEASURED)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.jsonl", b'{"stage": "rl"}\n', "metrics.jsonl line 1: got b'"),
        ("measured/sft.json", b"[3]", "measured/sft.json: "),
        ("measured/sft.json", b'{"summary": 3}', "measured/sft.json: summary is 3; expected what t1jax wrote"),
        ("checkpoints/rl", b"", "checkpoints/rl is a file; expected a folder of the run: move it away"),
        ("config.json", b'{"seed": ', "config.json: "),
        ("usage.json", b'{"starts": 3}', "usage.json: got {}, expected the starts of a run: delete the file"),
    ],
)
def test_the_whole_program_meets_a_damaged_file_of_its_workdir_with_a_line(name, content, words, tmp_path, capsys):
    """From the command line on; RL without a cold start, so that it gets there soon."""
    config, path = tmp_path / "config.py", tmp_path / "run" / name
    config.write_text(torture.config_file(make_config(**tiny_run.KNOBS | {"sft__num_steps": 0}).to_dict()))
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert main.main(["t1jax", f"--config={config}", f"--workdir={tmp_path}/run"]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.startswith("t1jax: ") and err.count("\n") == 1
    assert "Traceback" not in out + err and not list(tmp_path.glob("*traceback*"))
    assert path.read_bytes() == content  # nothing is deleted


@pytest.mark.parametrize("name", workdir.FOLDERS)
def test_a_file_where_a_folder_of_the_run_belongs_is_a_line(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=f"{name} is a file; expected a folder"):
        workdir.claim(make_config(), tmp_path)


@pytest.mark.parametrize("name", workdir.OWN_FILES)
def test_a_folder_where_a_file_of_the_run_belongs_is_a_line(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} is a folder; expected a file"):
        workdir.claim(make_config(), tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a" * 300, "a part has 300 bytes; expected at most 255"),
        ("runs/" + "ü" * 128, "a part has 256 bytes; expected at most 255"),
        ("a\0b", "NUL"),
        ("a\udcffb", "not UTF-8"),
        ("gs://bkt/a\0b", "NUL"),
    ],
)
def test_a_workdir_that_no_file_system_can_hold_is_a_line(name, words, capsys):
    assert main.main(["t1jax", "--config=tiny", f"--workdir={name}"]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    with pytest.raises(ConfigError, match="--out="):
        place.local(name, "--out")


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("synthesis__attempts", 10**9),
        ("rl__num_steps", 10**22),
        ("sft__num_steps", 10**400),
        ("model__vocab_size", 2 * 10**9),
        ("eval__num_problems", 10**9),
        ("scaling__budgets", (1, 2**40)),
        ("checkpoint__keep", 2**31),
    ],
)
def test_a_number_that_no_run_could_count_to_is_a_line_at_once(knob, value):
    began = time.monotonic()
    with pytest.raises(ConfigError, match=rf"{knob.replace('__', '.')} is .{{1,60}}; expected at most \d+$"):
        validation.validate(make_config(**{knob: value}), 1)
    assert time.monotonic() - began < 5


def test_a_number_too_large_for_a_float_is_a_line():
    with pytest.raises(ConfigError, match=r"rl\.temperature is a number of 1329 bits; expected a finite number"):
        make_config(rl__temperature=10**400)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_evaluate_refuses_a_temperature_that_is_no_number(value, tmp_path, capsys):
    argv = ["t1jax.evaluate", "--checkpoint=x", "--data=x.jsonl", f"--out={tmp_path}/out", f"--temperature={value}"]
    assert evaluate.main(argv) == 2
    assert f"--temperature={value}; expected a finite number" in capsys.readouterr().err


def test_an_evaluation_that_fails_leaves_no_empty_folder(tmp_path, capsys):
    argv = ["t1jax.evaluate", f"--checkpoint={tmp_path}/none", "--data=x.jsonl", f"--out={tmp_path}/out"]
    assert evaluate.main(argv) == 2 and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert evaluate.main(argv) == 2 and (tmp_path / "out").exists()  # the user's own


LINE = {"problem": 0, "outcome": "right", "tokens": 2, "overlong": False, "text": "", "response": 0, "step": 1}


@pytest.mark.parametrize("name", ["problem", "tokens", "response", "step", "difficulty", "ids"])
def test_a_number_of_400_digits_in_a_response_is_no_response(name, tmp_path, capsys):
    Response.parse(LINE)
    huge = LINE | {name: [1, 10**400] if name == "ids" else 10**400}
    with pytest.raises(ValueError, match=f"{name}"):
        Response.parse(huge)
    path = tmp_path / "responses.jsonl"
    path.write_text(json.dumps(huge) + "\n")
    assert analyze.main(["t1jax.analyze", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "responses.jsonl" in said


def test_what_a_killed_conversion_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    with subprocess.Popen(["true"]) as ended:
        pass
    dead, alive = tmp_path / f".dst.{ended.pid}.tmp", tmp_path / f".dst.{os.getppid()}.tmp"
    for folder in (dead, alive, tmp_path / f".other.{ended.pid}.tmp"):
        folder.mkdir()
    with output.folder(tmp_path / "dst", 0) as folder:
        (folder / "weights").write_text("w")
    assert {path.name for path in tmp_path.iterdir()} == {"dst", alive.name, f".other.{ended.pid}.tmp"}


def test_a_trial_does_not_outlive_its_study(tmp_path):
    """SIGKILL gives a study no time to end its trials."""
    study = (
        "import os, subprocess, sys\n"
        "trial = 'import sys, time; from t1jax.host.stopping import end_with_parent;'"
        "'end_with_parent(int(sys.argv[1])); print(1, flush=True); time.sleep(600)'\n"
        "child = subprocess.Popen([sys.executable, '-c', trial, str(os.getpid())], stdout=subprocess.PIPE,"
        " start_new_session=True)\n"
        "child.stdout.readline(); print(child.pid, flush=True); child.wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", study], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 20
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < until
            os.kill(child, 0)
            time.sleep(0.05)


def test_a_trial_is_told_whose_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    (tmp_path / "cold").mkdir()
    monkeypatch.setattr(trial, "end_with_parent", asked.append)
    assert trial.main(["t1jax.studies.trial", str(tmp_path), "cold/none", "17"]) == 1  # there is no such job
    assert asked == [17]
    assert "job.json" in (tmp_path / "cold/none.traceback.txt").read_text()  # its own, as several run at a time


def test_a_report_of_a_run_with_damaged_rows_is_a_line(tmp_path):
    folder = write_run(tmp_path / "run", cold=3, steps=3)
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b"\xff\n")
    with pytest.raises(ConfigError, match="line 7"):
        metrics.read_rows(folder)


@pytest.mark.parametrize("body", ["[print('x' * 99) for _ in range(9999)]", "print('x' * 8000)"])
def test_output_that_nobody_reads_any_more_is_no_failure(tmp_path, body):
    """As after `| head`: while it writes, and with what is written last. The code is that of a shell's own tools."""
    code = f"from t1jax.host import command_line as c; c.leave(c.call('t1jax.x', '', lambda argv: {body}, ['x']))"
    said, path = tmp_path / "said", {"PYTHONPATH": str(ROOT)}
    with said.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors, env=os.environ | path
        )
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 141
    assert said.read_text() == "t1jax.x: stopped, as nothing reads its output any more\n"
    assert [path.name for path in tmp_path.iterdir()] == ["said"]  # no traceback


@pytest.mark.parametrize("to", ["stdout", "stderr"])
def test_nor_is_it_where_errors_go_the_same_way(tmp_path, to):
    """As after `2>&1 | head`: nobody can be told, but the code is the same."""
    body = f"[print('x' * 99, file=c.sys.{to}) for _ in range(9999)]"
    code = f"from t1jax.host import command_line as c; c.leave(c.call('t1jax.x', '', lambda argv: {body}, ['x']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 141 and not list(tmp_path.iterdir())


def test_another_pipe_that_breaks_is_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def body(argv):
        raise BrokenPipeError("of a child")

    assert command_line.call("t1jax.x", "", body, ["x"]) == 1
    assert "BrokenPipeError: of a child; its traceback is in t1jax.x.traceback.txt" in capsys.readouterr().err

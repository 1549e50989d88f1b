# SPDX-License-Identifier: Apache-2.0
"""Rows survive crashes and resumes, files are whole or absent, and progress suits terminals and plain logs."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from tensorboardX.proto import event_pb2

from t1jax.devices import multihost
from t1jax.host import boards, files, place
from t1jax.host.metrics import REQUIRED, MetricsWriter, read_rows
from t1jax.host.progress import Progress, duration, figures

ROW = {"reward": 0.42, "accuracy": 0.531, "response_length": 48.8, "entropy": 0.21, "tokens_per_second": 5200.0}


# metrics.jsonl


def test_every_row_has_every_column_and_numbers_stay_what_they_are(tmp_path):
    with MetricsWriter(tmp_path, {}) as writer:
        report = {"loss": jnp.float32(0.1), "reward": np.float64(1 / 3), "overlong": jnp.bfloat16(0.5), "extra": True}
        returned = writer.write("rl", np.int32(3), report)
    (row,) = read_rows(tmp_path)
    assert row == returned
    assert list(row)[: len(REQUIRED)] == list(REQUIRED)
    assert (row["stage"], row["step"], row["loss"], row["reward"]) == ("rl", 3, 0.1, 1 / 3)
    assert row["overlong"] == 0.5 and row["extra"] is True and row["kl_anchor"] is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, np.float32("-inf"), jnp.array(jnp.nan)])
def test_nan_and_infinities_become_null(tmp_path, bad):
    with MetricsWriter(tmp_path, {}) as writer:
        writer.write("rl", 1, {"loss": bad})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None


@pytest.mark.parametrize("report", [{"loss": np.zeros(3)}, {"step": 4}, {"stage": "sft"}])
def test_what_is_no_scalar_column_is_refused_by_name(tmp_path, report):
    with MetricsWriter(tmp_path, {}) as writer, pytest.raises(ValueError, match=f"'{next(iter(report))}' of rl step 1"):
        writer.write("rl", 1, report)


def test_a_row_is_in_the_file_as_soon_as_write_returns(tmp_path):
    with MetricsWriter(tmp_path, {}) as writer:
        writer.write("rl", 1, {})
        assert len(read_rows(tmp_path)) == 1  # before close


def test_resume_drops_rows_that_will_be_done_again(tmp_path):
    with MetricsWriter(tmp_path, {}) as writer:
        for stage in ("sft", "rl", "evaluate"):
            for step in (1, 2, 3):
                writer.write(stage, step, {})
    with MetricsWriter(tmp_path, {"sft": 3, "rl": 1}) as writer:
        writer.write("rl", 2, {"loss": 7.0})
    assert [(row["stage"], row["step"]) for row in read_rows(tmp_path)] == [
        ("sft", 1), ("sft", 2), ("sft", 3), ("rl", 1), ("rl", 2)
    ]  # fmt: skip
    assert read_rows(tmp_path)[-1]["loss"] == 7.0


def test_tokens_are_summed_over_the_steps_that_stand_and_those_of_others_are_told(tmp_path):
    lost = []

    def steps(writer, numbers):
        rows = [writer.write("rl", n, {"tokens": 10 * n, "tokens_trained": n}) for n in numbers]
        return [(row["tokens_so_far"], row["tokens_trained_so_far"]) for row in rows]

    with MetricsWriter(tmp_path, {}, lost.append) as writer:
        assert steps(writer, (1, 2, 3)) == [(10, 1), (30, 3), (60, 6)]
        writer.write("evaluate", 3, {"tokens": 7})
    with MetricsWriter(tmp_path, {"rl": 2, "evaluate": 2}, lost.append) as writer:  # killed before the checkpoint of 3
        assert lost == [37] and steps(writer, (3, 4)) == [(60, 6), (100, 10)]
        writer.rewind(3, "rl", "evaluate")
        assert lost == [37, 40] and steps(writer, (4,)) == [(100, 10)]
    assert "tokens_so_far" not in MetricsWriter(tmp_path, {}).write("sft", 1, {"tokens": 5})


def test_a_line_torn_by_a_crash_is_dropped_and_the_next_row_is_whole(tmp_path):
    with MetricsWriter(tmp_path, {}) as writer:
        writer.write("rl", 1, {})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "rl", "st')
    assert len(read_rows(tmp_path)) == 1
    with MetricsWriter(tmp_path, {"rl": 5}) as writer:
        writer.write("rl", 2, {})
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ["not json", '{"step": 1}', "[1]"])
def test_a_broken_line_elsewhere_is_an_error_that_names_it(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "rl", "step": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2: got .*delete that line"):
        MetricsWriter(tmp_path, {"rl": 1})


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(multihost, "is_main", lambda: False)
    with MetricsWriter(tmp_path / "run", {}) as writer:
        assert writer.write("rl", 1, {"loss": 2.0})["loss"] == 2.0
    assert not (tmp_path / "run").exists()


# TensorBoard


def events(folder):
    """All TensorBoard events of a folder, in the order TensorBoard reads its files."""
    for path in sorted(folder.glob("events.*"), key=lambda p: p.stat().st_mtime_ns):
        yield from records(path)


def records(path):
    """The events of a file."""
    data = path.read_bytes()
    while len(data) >= 16 + (size := int.from_bytes(data[:8], "little")):  # a record cut short is the last one
        yield event_pb2.Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]


def shown(folder):
    """{step: loss}, the only scalar, as TensorBoard shows it."""
    seen: dict[int, float] = {}
    for event in events(folder):
        if event.HasField("session_log"):  # what TensorBoard does on a restart: drop steps from here on
            seen = {step: value for step, value in seen.items() if step < event.step}
        for value in event.summary.value:
            assert value.tag == "loss"
            seen[event.step] = value.simple_value
    return seen


def test_tensorboard_gets_the_scalars_and_forgets_steps_done_again(tmp_path):
    with MetricsWriter(tmp_path, {}) as writer:
        for step in (1, 2, 3):
            writer.write("rl", step, {"loss": step / 10, "reward": math.nan})
    with MetricsWriter(tmp_path, {"rl": 1}) as writer:
        writer.write("rl", 2, {"loss": 9.0})
    assert shown(tmp_path / "tensorboard/rl") == {1: pytest.approx(0.1), 2: 9.0}


def test_a_kill_after_a_checkpoint_takes_no_row_from_tensorboard(tmp_path):
    """The loops call `sync` before they save; what a killed process had written is read without closing."""
    killed = MetricsWriter(tmp_path, {})
    for step in (1, 2, 3):
        killed.write("rl", step, {"loss": step / 4})
        if step == 2:
            killed.sync()
    with MetricsWriter(tmp_path, {"rl": 2}) as writer:
        writer.write("rl", 3, {"loss": 9.0})
    assert shown(tmp_path / "tensorboard/rl") == {1: 0.25, 2: 0.5, 3: 9.0}
    killed.close()


@pytest.mark.parametrize("where", ["local", "gs"])
def test_the_oldest_of_tensorboards_files_go_and_the_rest_shows_the_latest_steps(where, tmp_path, monkeypatch, request):
    """Over two starts."""
    if where == "gs":
        request.getfixturevalue("cloud")
    workdir, most = place.of(str(tmp_path) if where == "local" else "gs://bkt/boards", "x"), 3000
    monkeypatch.setattr(boards, "FLUSH", 0.0)
    done, steps = 0, 25 if where == "gs" else 200
    for last in (steps, 2 * steps):
        with MetricsWriter(workdir, {"rl": done}, tensorboard=most) as writer:
            for step in range(done + 1, last + 1):
                writer.write("rl", step, {"loss": step / 4} | {f"{n}" * 40: 1.0 for n in range(3)})
                if where == "gs":
                    writer.sync()
        done = last
        folder = workdir / "tensorboard/rl"
        assert most / 2 < sum(files.sizes(folder, "events.*").values()) <= most * (1 + 1 / boards.SHARE)
        seen = {event.step: value.simple_value for path in sorted(folder.glob("events.*"), key=boards._when)
                for event in records(path) for value in event.summary.value if value.tag == "loss"}  # fmt: skip
        assert max(seen) == last and sorted(seen) == list(range(min(seen), last + 1)) and min(seen) > 1
        assert all(value == step / 4 for step, value in seen.items())
    with MetricsWriter(workdir, {"rl": done}, tensorboard=0) as writer:
        writer.write("rl", done + 1, {"loss": 1.0})
        writer.sync()
    assert not list(folder.glob("*")) and read_rows(workdir)[-1]["step"] == done + 1


# files


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = files.write_text(tmp_path / "a.txt", "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_swept_up_and_nothing_else(tmp_path, monkeypatch):
    def killed(*_):
        raise SystemExit

    keep = [files.write_text(tmp_path / name, "x") for name in ("a.tmp", "sub/.hidden", "sub/b.json")]
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        for name in ("report.html", "measured/sft.json"):
            with pytest.raises(SystemExit):
                files.write_text(tmp_path / name, "new")
    assert len(left := [path for path in tmp_path.rglob("*") if path.is_file()]) == 5, left
    files.sweep(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(keep)


def test_the_target_never_holds_half_of_the_new_content(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.txt", []
    files.write_text(path, "old")
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append((path.read_text(), open(a).read())), replace(a, b)))
    files.write_text(path, "new")
    assert seen == [("old", "new")] and path.read_text() == "new"


def test_json_holds_what_results_hold_and_is_inert_on_a_terminal(tmp_path):
    hostile = "\x1b[2J\u202e\ud800"
    assert json.loads(files.write_json(tmp_path / "h.json", [hostile]).read_text()) == [hostile]
    assert (tmp_path / "h.json").read_text().replace("\n", "").isprintable()
    tree = {"a": jnp.arange(2), "b": (np.float32(0.1), math.nan), 3: {"path": tmp_path}, "t": "ü", "n": None}
    path = files.write_json(tmp_path / "r.json", tree)
    assert json.loads(path.read_text()) == {
        "a": [0, 1],
        "b": [0.1, None],
        "3": {"path": str(tmp_path)},
        "t": "ü",
        "n": None,
    }
    with pytest.raises(TypeError, match="object"):
        files.write_json(path, {"x": object()})


# progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def plain(**options):
    clock, output = Clock(), io.StringIO()
    return Progress(Console(file=output, width=80), clock=clock, **options), clock, output


def test_plain_lines_come_at_most_every_few_seconds_and_at_the_end():
    progress, clock, output = plain(every=5.0)
    with progress, progress.stage("rl", total=100) as stage:
        for step in range(1, 101):
            clock.now += 0.5
            stage.update(step, ROW)
    lines = output.getvalue().splitlines()
    assert len(lines) == 11  # at 0.5 s, then every 5 s, and the last
    assert lines[1].startswith("rl 11/100  reward 0.42 · accuracy 53.1 % · length 48.8 · entropy 0.210 · 5.2k tokens/s")
    assert lines[1].endswith("0:45 left")  # 89 steps of 0.5 s
    assert lines[-1].startswith("rl 100/100") and lines[-1].endswith("0:50 in all")


def test_the_time_left_leaves_out_the_step_that_compiles():
    progress, clock, output = plain()
    stage = progress.stage("rl", total=12, done=2)
    clock.now += 60
    stage.update(3)
    assert stage.seconds_left() is None
    clock.now += 2
    stage.update(4)
    assert stage.seconds_left() == pytest.approx(16)
    clock.now += 1
    assert stage.seconds_left() == pytest.approx(15)  # it runs down during a step


def test_sampling_shows_only_in_long_steps_and_ends_with_them():
    progress, clock, output = plain(every=0.0)
    with progress.stage("rl", total=9) as stage:
        clock.now += 1
        progress.sampling(64, 512, 256)
        assert output.getvalue() == ""
        clock.now += 2
        progress.sampling(128, 512, 93)
        assert output.getvalue() == "rl 0/9  sampling token 128 of 512, 93 responses live\n"
        progress.sampling(30, 64, 8, "response")
        assert output.getvalue().splitlines()[-1] == "rl 0/9  sampling response 30 of 64, 8 responses live"
        stage.update(1, ROW)
        assert "sampling" not in output.getvalue().splitlines()[-1]
    progress.sampling(1, 2, 3)  # no stage is open: nothing to show


def beats(progress, clock, output, seconds):
    """The lines of so many seconds in which nothing happens."""
    output.seek(0)
    output.truncate()
    for _ in range(seconds):
        clock.now += 1
        progress.beat()
    return output.getvalue().splitlines()


def test_it_is_never_silent_for_more_than_ten_seconds():
    """Between stages, while a step compiles, and while it updates: with the time left once it is known."""
    progress, clock, output = plain()
    assert beats(progress, clock, output, 20) == ["working for 0:08", "working for 0:16"]
    progress.doing("reading the weights")
    assert beats(progress, clock, output, 10) == ["reading the weights for 0:04"]  # 8 s after the last line
    with progress.stage("rl", total=9) as stage:
        progress.doing("compiling")
        assert beats(progress, clock, output, 20)[-1] == "rl 0/9  compiling for 0:18"
        progress.sampling(1, 5, 3, then="updating")
        assert beats(progress, clock, output, 9) == ["rl 0/9  sampling token 1 of 5, 3 responses live"]
        progress.sampling(5, 5, 0, then="updating")
        assert beats(progress, clock, output, 30)[-1] == "rl 0/9  updating for 0:29"
        stage.update(1, ROW)
        progress.sampling(5, 5, 0, then="updating")  # the last time it took 30 s
        assert beats(progress, clock, output, 10) == ["rl 1/9  updating for 0:07 of about 0:30"]
        stage.update(2, ROW)
        assert "reward 0.42" in beats(progress, clock, output, 10)[-1]
    assert beats(progress, clock, output, 10)[-1] == "working for 0:08"


def test_parts_of_a_stage_have_their_own_time_left():
    progress, clock, output = plain(every=0.0)
    with progress.stage("measure", total=1) as stage:
        clock.now += 60  # compiles
        progress.part("held_out", 100, 400)
        clock.now += 5
        progress.part("held_out", 200, 400)
        assert output.getvalue().splitlines() == [
            "measure 0/1  held_out 100/400",
            "measure 0/1  held_out 200/400, 0:10 left",
        ]
        progress.part("held_out", 100, 400)  # greedy
        assert output.getvalue().splitlines()[-1] == "measure 0/1  held_out 100/400"
        stage.update(1)
        assert "held_out" not in output.getvalue().splitlines()[-1]


def test_a_thread_prints_while_the_program_is_busy(monkeypatch):
    monkeypatch.setattr("t1jax.host.progress.BEAT", 0.1)
    output = io.StringIO()
    with Progress(Console(file=output, width=80)) as progress:
        progress.doing("compiling")
        deadline = time.monotonic() + 60
        while "working" not in output.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert output.getvalue().startswith("working for 0:0")  # "compiling" is told after two seconds


def test_a_stage_left_by_an_error_is_not_shown_as_done():
    progress, clock, output = plain()
    with pytest.raises(KeyboardInterrupt), progress, progress.stage("rl", total=9) as stage:
        stage.update(4, ROW)
        raise KeyboardInterrupt
    assert output.getvalue().splitlines()[-1].startswith("rl 4/9") and output.getvalue().endswith("stopped\n")


def terminal(width=80):
    output = io.StringIO()
    return Progress(Console(force_terminal=True, file=output, width=width, color_system=None)), output


def screen(output):
    """The last picture of the live lines: what stands after the last time the cursor went up."""
    text = re.split(r"\x1b\[1A", output.getvalue())[-1]
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text).splitlines() if line.strip()]


def test_on_a_terminal_each_stage_has_one_live_line_and_finished_ones_stay():
    progress, output = terminal()
    with progress:
        with progress.stage("sft", total=400) as stage:
            stage.update(400, {"loss": 0.25})
        progress.note("sft accuracy 0.271")
        with progress.stage("rl", total=80) as stage:
            stage.update(79, ROW)
    note, sft, rl = screen(output)
    assert note == "sft accuracy 0.271" and len(sft) <= 80 and len(rl) <= 80
    assert re.match(r"sft +━+ +400/400 +loss 0.250 +0:00 in all", sft)
    assert re.match(r"rl +━+ +80/80 +rew 0.42 acc 53% len 49 ent 0.21 5.2k t/s +0:00 in all", rl)


def test_a_wide_terminal_spells_the_figures_out_and_shows_the_time_left():
    progress, output = terminal(width=130)
    with progress, pytest.raises(RuntimeError), progress.stage("rl", total=80) as stage:
        stage.update(1, ROW)
        later = progress.clock() + 3.0
        progress.clock = lambda: later
        stage.update(2, ROW)
        progress.sampling(1, 2, 3)  # too early to be shown
        table = io.StringIO()
        Console(file=table, width=130).print(progress._table())
        raise RuntimeError
    assert "reward 0.42 · accuracy 53.1 % · length 48.8 · entropy 0.210 · 5.2k tokens/s" in table.getvalue()
    assert re.search(r"2/80 .* 3:5\d left", table.getvalue())
    assert re.match(r"rl +2/80 .* stopped", screen(output)[-1])


def test_other_processes_show_nothing(monkeypatch):
    monkeypatch.setattr(multihost, "is_main", lambda: False)
    progress, output = terminal()
    with progress, progress.stage("rl", total=2) as stage:
        stage.update(1, ROW)
        progress.note("hello")
    assert output.getvalue() == ""


def test_figures_show_what_the_row_has():
    assert figures({"loss": 1.5, "reward": None}) == "loss 1.500"
    assert figures({"loss": 1.5, "reward": -0.25, "tokens_per_second": 900.0}) == "reward -0.25 · 900 tokens/s"
    assert figures({"reward": 0.5, "unscorable": 0.031}) == "reward 0.50 · unscorable 3.1 %"
    assert "unscorable" not in figures({"reward": 0.5, "unscorable": 0.0})
    assert [duration(s) for s in (0, 59.6, 3723)] == ["0:00", "1:00", "1:02:03"]


def test_progress_and_metrics_load_neither_tensorboard_nor_matplotlib():
    code = (
        "import sys, t1jax.host.metrics, t1jax.host.progress, t1jax.reports.run_page; "
        "sys.exit(any(m in sys.modules for m in ('tensorboardX', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_oldest_files_go_until_the_others_fit(tmp_path):
    for age, name in enumerate("abcd"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1000 - age,) * 2)
    files.shrink(tmp_path, 40)
    assert len(list(tmp_path.iterdir())) == 4
    files.shrink(tmp_path, 29)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
    files.shrink(tmp_path / "none", 0)

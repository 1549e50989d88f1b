# SPDX-License-Identifier: Apache-2.0
"""The check of an accelerator runs on the CPU, sees what is wrong, and ends in time. Nothing is timed."""

from __future__ import annotations

import json
import threading

import jax
import pytest
import small

from benchmarks import attention, device, roofline, step
from t1jax.devices import sharding
from t1jax.model import blocked, ragged
from t1jax.planning.slices import chip_of

FLAGS = (
    "--layers=1 --hidden=16 --ffn=24 --heads=2 --kv-heads=1 --head-dim=8 --vocab=64 --prompts=8 --group=2 "
    "--prompt-len=5 --new=6 --steps=1 --warmup=1 --threads=0 --micro-batches=1"
).split()
LINE = {
    "split_s": {"generate": 0.5, "reward": 0.1, "update": 2.0},
    "tokens_per_step": 96,
    "logprob_gap": 1e-6,
    "memory_mb": {"plan": 100, "program": 90, "process": 120},
}


@pytest.fixture
def tiny(monkeypatch):
    """Short rows of attention, ceilings that are not measured, the smallest config of the embedded task."""
    monkeypatch.setitem(attention.LENGTHS, "cpu", (24, 300))
    monkeypatch.setattr(attention, "RING", 96)
    monkeypatch.setattr(roofline, "ceilings", lambda *_: {"matmul": 1e9, "read": 1e9, "copy": 1e9})
    cfg = small.make_config(data__prompt_length=24, mesh__fsdp=1, mesh__data=8, rl__prompts_per_step=8)
    monkeypatch.setattr(device, "embedded_config", lambda devices: cfg)


@pytest.fixture
def made():
    return device.Device(device.choose_size(FLAGS, "cpu")[1])


@pytest.mark.slow
def test_all_checks_pass_on_a_cpu_and_are_told_once_as_a_table_and_once_as_json(tiny, capsys):
    assert device.main([*FLAGS, "--seconds=600"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    line = json.loads(last)
    checks = line["checks"]
    assert line["left_out"] == [] and line["peaks"] == "measured" and line["devices"] == len(jax.devices())
    forms = [
        f"attention {form.format(dtype)}"
        for dtype in attention.MOST
        for form in ("ring loop, {}", "plain, {}, 24", "blocked, {}, 300")
    ]
    step_rows = ["sampler and learner, float32", "memory", "generate, float32", "update, float32"]
    assert [*checks] == ["ceilings, float32", *forms, *step_rows, "embedded task, float32"]
    assert {name for name, check in checks.items() if check["good"]} == {*forms, step_rows[0], "embedded task, float32"}
    assert checks["memory"]["peak_mb"] == "not measured" and checks["generate, float32"]["tokens_per_s"] > 0
    assert len(table) == 1 + len(checks) and all(
        row.startswith(name) for row, name in zip(table[1:], checks, strict=True)
    )


def test_a_wrong_kernel_is_seen(made, monkeypatch):
    right = blocked.attend
    monkeypatch.setattr(blocked, "attend", lambda q, *rest: right(q, *rest) * 1.001)
    layout = sharding.train_layout(made.mesh)
    name, found, good = attention.compare(made.cfg.model, layout, 257)
    assert name == "attention blocked, float32, 257" and not good and found["error"] == pytest.approx(1e-3, rel=0.01)


def test_each_kernel_of_a_platform_is_compared_with_what_needs_none(made, monkeypatch):
    monkeypatch.setattr("t1jax.model.attention.PREFERRED", {"cpu": ("cudnn", "triton")})
    monkeypatch.setattr("t1jax.model.attention.choose", lambda *_: None)
    monkeypatch.setattr(attention, "compare_ring", lambda *_: "ring")
    monkeypatch.setattr(attention, "compare", lambda model, layout, length: (model.attention, length))
    rows = list(attention.compare_all(made.cfg.model, made.mesh))
    forms = [(form, length) for length in attention.LENGTHS["cpu"] for form in ("xla", "cudnn", "triton")]
    assert rows == ["ring", *forms] * len(attention.MOST)


def test_a_wrong_kernel_of_the_sampler_is_seen(made, tiny, monkeypatch):
    monkeypatch.setattr(ragged, "suits", lambda cfg, *_: cfg.attention != "xla")
    right, layout = ragged.attend, sharding.decode_layout(made.mesh)
    name, _, good = attention.compare_ring(made.cfg.model, layout)
    assert name == "attention ring kernel, float32" and good

    def wrong(*arguments):
        out, keys = right(*arguments)
        return out * 1.001, keys

    monkeypatch.setattr(ragged, "attend", wrong)
    _, found, good = attention.compare_ring(made.cfg.model, layout)
    assert not good and found["error"] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(
    ("gap", "peak_mb", "good"),
    [(1e-6, 105, [True, True]), (0.2, 50, [False, False]), (float("nan"), 200, [False, False])],
)
def test_a_gap_or_a_plan_out_of_bounds_is_seen(made, monkeypatch, gap, peak_mb, good):
    peaks = iter([1 << 20, peak_mb << 20])
    monkeypatch.setattr(device.Device, "_peak", lambda self: next(peaks))
    monkeypatch.setattr(step, "measure", lambda args: LINE | {"logprob_gap": gap})
    made.flops, made.bandwidth = 1e9, 1e9
    rows = list(made.step())
    assert [row.good for row in rows] == [*good, None, None]
    assert rows[1].found["plan_of_peak"] == pytest.approx(100 / peak_mb)
    assert rows[2].found["tokens_per_s"] == 192 and rows[3].found["tokens_per_s"] == 48


def test_a_peak_that_another_check_made_is_not_the_steps(made, monkeypatch):
    monkeypatch.setattr(device.Device, "_peak", lambda self: 300 << 20)
    monkeypatch.setattr(step, "measure", lambda args: LINE)
    made.flops, made.bandwidth = 1e9, 1e9
    memory = list(made.step())[1]
    assert memory.found["peak_mb"] == "not measured" and memory.good is None


def test_a_check_that_fails_is_told_and_the_others_run_and_what_is_late_is_left_out():
    release = threading.Event()

    def fails():
        yield device.Check("begun", good=True)
        raise ValueError("no such\nkernel")

    def late():
        release.wait(4)
        yield from ()

    checks = {"fails": fails, "passes": lambda: iter([device.Check("passes")])}
    rows, left_out = device.work(checks, 60.0)
    assert [row.name for row in rows] == ["begun", "fails", "passes"] and left_out == []
    assert rows[1].good is False and rows[1].found == {"failed": "ValueError: no such kernel"}
    rows, left_out = device.work({"late": late, "next": lambda: iter([])}, 2.0)
    release.set()
    assert rows == [] and left_out == ["late", "next"]


@pytest.mark.parametrize(("good", "left_out", "code"), [(True, [], 0), (False, [], 1), (True, ["step", "embedded"], 1)])
def test_a_bad_check_or_one_left_out_is_no_success(monkeypatch, capsys, good, left_out, code):
    monkeypatch.setattr(
        device, "work", lambda checks, seconds: ([device.Check("ceilings", {"of": 0.5}, good)], left_out)
    )
    assert device.main([*FLAGS, "--seconds=9"]) == code
    _, row, *said, last = capsys.readouterr().out.splitlines()
    assert row.split() == ["ceilings", "ok" if good else "BAD", "of", "0.5"]
    assert said == (["not done in --seconds=9: step, embedded"] if left_out else [])
    assert json.loads(last)["left_out"] == left_out


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v4", "v4"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", None),
        ("cpu", None),
    ],
)
def test_devices_are_known_by_the_names_that_jax_gives_them(kind, name):
    chip = chip_of(kind)
    assert chip is None if name is None else chip.name == name


def test_the_step_is_the_largest_that_fits_with_the_users_flags(monkeypatch):
    fits = " ".join(FLAGS)
    huge = f"{fits} --layers=100 --hidden=65536 --ffn=262144"
    monkeypatch.setattr(device, "SIZES", {"huge": huge, "tiny": fits, "tinier": f"{fits} --layers=1"})
    for extra in (["--new=7"], ["--new=7", "--set=rl.lanes=1"]):
        name, args = device.choose_size(extra, "gpu")
        assert name == "tiny" and args.new == 7 and args.hidden == 16
    assert device.choose_size([], "cpu")[0] == "small"


@pytest.mark.parametrize("flag", ["--seconds is 0.0; expected more than 0", "--mean-len is 3.0; expected 0"])
def test_what_makes_no_sense_is_refused(flag):
    with pytest.raises(SystemExit, match=flag):
        device.main([*FLAGS, flag.split(";")[0].replace(" is ", "=")])

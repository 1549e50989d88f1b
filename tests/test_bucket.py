# SPDX-License-Identifier: Apache-2.0
"""The commands whose files are in a bucket give what they give locally, and go on after a kill."""

from __future__ import annotations

import json

import pytest
from random_qwen import KNOBS

from t1jax import analyze, convert, evaluate, filter, report, sample
from t1jax.evaluation.journal import Journal
from t1jax.host import log
from t1jax.host.bucket import Bucket, Unreachable
from t1jax.weights import steps

GS = Bucket("gs://bkt/commands")


def run(program, *arguments) -> int:
    return program.main([f"t1jax.{program.__name__}", *map(str, arguments)])


@pytest.fixture(scope="module")
def orbax(cloud, checkpoint):
    """The checkpoint, converted from a bucket to a bucket."""
    for path in checkpoint.iterdir():
        cloud.write(f"commands/hf/{path.name}", path.read_bytes())
    assert run(convert, "hf-to-orbax", f"--src={GS / 'hf'}", f"--dst={GS / 'orbax'}") == 0
    return GS / "orbax"


def test_weights_come_back_bit_for_bit(orbax, checkpoint, tmp_path, cloud):
    assert run(convert, "hf-to-orbax", f"--src={checkpoint}", f"--dst={tmp_path / 'orbax'}") == 0
    for size in ("5GB", "40KB"):
        there, here = GS / f"back{size}", tmp_path / f"back{size}"
        assert run(convert, "orbax-to-hf", f"--src={orbax}", f"--dst={there}", f"--max-shard-size={size}") == 0
        local = f"--src={tmp_path / 'orbax'}"
        assert run(convert, "orbax-to-hf", local, f"--dst={here}", f"--max-shard-size={size}") == 0
        assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in here.iterdir())
        assert all((there / path.name).read_bytes() == path.read_bytes() for path in here.iterdir())
    assert not [name for name in cloud.names("commands") if steps.UNFINISHED in name]


def test_a_conversion_that_was_killed_does_not_count_and_begins_anew(orbax, checkpoint, cloud, capsys):
    dst = GS / "killed"
    cloud.write(f"{dst.key}/{steps.UNFINISHED}", b"")
    cloud.write(f"{dst.key}/model-00007-of-00009.safetensors", b"half")
    assert run(evaluate, f"--checkpoint={dst}", "--data=x.jsonl", f"--out={GS / 'none'}") == 2
    assert f"{dst}: a conversion to it was interrupted; run the same t1jax.convert again" in capsys.readouterr().err
    assert run(convert, "orbax-to-hf", f"--src={orbax}", f"--dst={dst}") == 0
    assert "model-00007-of-00009.safetensors" not in [path.name for path in dst.iterdir()]
    assert run(convert, "orbax-to-hf", f"--src={orbax}", f"--dst={dst}") == 2
    assert "is not empty; expected a folder that does not exist yet" in capsys.readouterr().err


def test_a_conversion_that_fails_leaves_nothing(orbax, cloud, monkeypatch, capsys):
    put = Bucket.write_bytes

    def fail(path, content):
        if path.name == "config.json":
            raise Unreachable(str(path), "no")
        return put(path, content)

    monkeypatch.setattr(Bucket, "write_bytes", fail)
    assert run(convert, "orbax-to-hf", f"--src={orbax}", f"--dst={GS / 'failed'}") == 1
    assert "gs://bkt/commands/failed/config.json: no; the same command resumes" in capsys.readouterr().err
    assert cloud.names("commands/failed") == []


@pytest.fixture(scope="module")
def data(cloud, problems):
    cloud.write("commands/sums.jsonl", problems.read_bytes())
    return GS / "sums.jsonl"


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_an_evaluation_killed_after_a_batch_ends_as_a_local_one(
    orbax, checkpoint, data, problems, tmp_path, monkeypatch
):
    flags = ["--samples=4", "--budgets=3", *KNOBS]
    assert run(evaluate, f"--checkpoint={checkpoint}", f"--data={problems}", f"--out={tmp_path / 'out'}", *flags) == 0
    there = [f"--checkpoint={orbax}", f"--data={data}", f"--out={GS / 'out'}", *flags]
    append, calls = Journal.append, []

    def kill(journal, batch):
        calls.append(len(batch))
        if len(calls) == 3:
            raise Killed
        append(journal, batch)

    monkeypatch.setattr(Journal, "append", kill)
    with pytest.raises(Killed):
        run(evaluate, *there)
    monkeypatch.setattr(Journal, "append", append)
    assert len(log.parts(GS / "out/sums/responses.jsonl")) == 2
    assert run(evaluate, *there) == 0
    for name in ("sums/responses.jsonl", "sums/budget-3.jsonl"):
        assert log.read(GS / "out" / name) == (tmp_path / "out" / name).read_bytes(), name
    mine, theirs = (json.loads((x / "results.json").read_bytes()) for x in (GS / "out", tmp_path / "out"))
    for tree in (mine, theirs):
        del tree["checkpoint"], tree["benchmarks"]["sums"]["data"]
    assert mine == theirs
    assert (GS / "out/results.md").is_file() and (GS / "out/sums/groups.png").is_file()
    assert run(analyze, GS / "out", f"--out={tmp_path / 'page'}") == 0
    assert run(analyze, tmp_path / "out", f"--out={tmp_path / 'local page'}") == 0
    pages = [json.loads((tmp_path / x / "behaviour.json").read_text()) for x in ("page", "local page")]
    assert pages[0]["evaluations"] == pages[1]["evaluations"]


@pytest.mark.slow
def test_a_filter_writes_what_it_keeps_there(orbax, checkpoint, data, problems, tmp_path, capsys):
    flags = ["--samples=8", "--max_pass_rate=1", *KNOBS]
    assert (
        run(filter, f"--checkpoint={checkpoint}", f"--data={problems}", f"--out={tmp_path / 'kept.jsonl'}", *flags) == 0
    )
    assert run(filter, f"--checkpoint={orbax}", f"--data={data}", f"--out={GS / 'kept.jsonl'}", *flags) == 0
    assert (GS / "kept.jsonl").read_bytes() == (tmp_path / "kept.jsonl").read_bytes()
    assert run(filter, f"--checkpoint={orbax}", f"--data={data}", f"--out={data}", *flags) == 2
    assert "is --data; expected another file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_there_is_sampled_from(orbax, capsys):
    flags = ["--config.model.compute_dtype=float32", "--max_new_tokens=2", "--temperature=0"]
    assert run(sample, f"--checkpoint={orbax}", *flags, "--raw", "one") == 0
    assert "tokens in" in capsys.readouterr().err


def test_a_report_is_copied_out_of_a_bucket(cloud, unbroken, tmp_path, capsys):
    """Of a local run that was copied there, too."""
    for name in ("results.json", "config.json", "metrics.jsonl"):
        cloud.write(f"commands/run/{name}", (unbroken / name).read_bytes())
    assert run(report, GS / "run", f"--out={tmp_path / 'run.html'}") == 0
    assert f"report: {tmp_path / 'run.html'}" in capsys.readouterr().out
    assert run(report, unbroken, f"--out={tmp_path / 'local.html'}") == 0
    assert (tmp_path / "run.html").read_bytes() == (tmp_path / "local.html").read_bytes()
    assert len(cloud.names("commands/run")) == 3  # and nothing was written there

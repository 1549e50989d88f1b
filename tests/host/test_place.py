# SPDX-License-Identifier: Apache-2.0
"""Paths and URLs: what is a place, and that every flag of every command refuses the URLs that it does not support."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from t1jax.config import ConfigError
from t1jax.host import bucket, files, log, place
from t1jax.host.bucket import Bucket
from t1jax.host.log import Log

HF = object()  # stands for a checkpoint that can be read
FLAGS = [  # every flag and knob that takes a file or a folder: command, flag, what else it needs
    ("main", "--workdir", ["--config=tiny"]),
    ("main", "--config", []),
    ("main", "--config.model.checkpoint", ["--config=tiny"]),
    ("main", "--config.data.train", ["--config=tiny"]),
    ("main", "--config.data.eval", ["--config=tiny"]),
    ("evaluate", "--config.benchmarks.aime24.data", ["--config=eval_t1", "--out=out"]),
    ("main", "--config.data.sft", ["--config=tiny"]),
    ("convert", "--src", ["hf-to-orbax", "--dst=out"]),
    ("convert", "--src", ["orbax-to-hf", "--dst=out"]),
    ("convert", "--dst", ["hf-to-orbax", "--src", HF]),
    ("plan", "--config", ["--topology=v5e:2x2"]),
    ("sample", "--checkpoint", ["hello"]),
    ("sample", "--config.model.checkpoint", ["hello"]),
    ("evaluate", "--checkpoint", ["--data=x.jsonl", "--out=out"]),
    ("evaluate", "--data", ["--checkpoint", HF, "--out=out"]),
    ("evaluate", "--out", ["--checkpoint", HF, "--data=x.jsonl"]),
    ("filter", "--checkpoint", ["--data=x.jsonl", "--out=out.jsonl"]),
    ("filter", "--data", ["--checkpoint", HF, "--out=out.jsonl"]),
    ("filter", "--out", ["--checkpoint", HF, "--data=x.jsonl"]),
    ("verify", "", []),
    ("synthesize", "--out", []),
    ("synthesize", "--problems", ["--out=out.jsonl"]),
    ("synthesize", "--checkpoint", ["--out=out.jsonl", "--config=tiny"]),
    ("study", "--out", ["anchor"]),
    ("study", "--config", ["anchor"]),
    ("analyze", "", []),
    ("analyze", "--out", ["."]),
    ("report", "", []),
    ("report", "--out", ["."]),
    ("replay", "", []),
    ("status", "", []),
]


@pytest.mark.parametrize("url", ["abc://bkt/x", "s3://bkt/x"])
@pytest.mark.parametrize(("command", "flag", "rest"), FLAGS)
def test_every_flag_refuses_a_url_that_it_does_not_support_in_one_line(
    command, flag, rest, url, checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if ".jsonl" in str(rest) or flag in ("--out", "") or "problems" in flag:
        url += ".html" if command == "report" else ".jsonl"
    argv = [f"t1jax.{command}"]
    for arg in rest:
        argv = [*argv[:-1], f"{argv[-1]}={checkpoint}"] if arg is HF else [*argv, arg]
    argv.insert(len(argv) if command == "convert" else 1, f"{flag}={url}" if flag else url)
    code = importlib.import_module(f"t1jax.{command}").main(argv)
    said = capsys.readouterr().err.splitlines()
    assert code == 2, said
    assert len(said) == 1 and url in said[0] and "expected" in said[0], said
    assert not {"abc:", "s3:", "gs:"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gs:/bkt/run", "two slashes"),
        ("gs://", "expected gs://BUCKET/FOLDER"),
        ("gs://Bkt/run", "expected gs://BUCKET/FOLDER"),
        ("gs://bkt/../run", "expected gs://BUCKET/FOLDER"),
        ("gs://bkt//run", "expected gs://BUCKET/FOLDER"),
        *((f"gs://bkt/run{odd}/x", "expected a name without any of * ? # [ ]") for odd in ("[1]", "]", "?", "*", "#1")),
        ("s3://bkt/run", "mount the bucket"),
        ("gcs://bkt/run", "gcs:// is not supported; expected a local path or gs://"),
        ("https://bkt/run", "https:// is not supported"),
    ],
)
def test_what_is_no_place_is_refused(name, message):
    with pytest.raises(ConfigError, match="--workdir=") as error:
        place.of(name, "--workdir")
    assert message in str(error.value)


def test_gcsfs_that_is_not_installed_is_named(monkeypatch):
    bucket.storage.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(ConfigError, match="--workdir=gs://bkt/run: reading gs:// needs a package; .*pip install gcsfs"):
        place.of("gs://bkt/run", "--workdir")
    bucket.storage.cache_clear()


def test_local_paths_stay_paths(tmp_path):
    assert place.of(str(tmp_path), "x") == tmp_path and isinstance(place.of("a/b", "x"), Path)
    assert place.same("a/b", Path.cwd() / "a/b") and not place.same("a/b", "a/c")
    assert place.same("gs://bkt/a", Bucket("gs://bkt/a"))


def test_a_bucket_has_the_methods_of_a_path(cloud):
    folder = place.of("gs://bkt/methods/", "x")
    assert isinstance(folder, Bucket) and str(folder) == "gs://bkt/methods"
    assert not folder.exists() and list(folder.iterdir()) == [] and list(folder.glob("*")) == []
    files.write_json(folder / "a/b.json", {"x": 1})
    file = folder / "a/b.json"
    assert (file.bucket, file.key, file.name, file.parent) == ("bkt", "methods/a/b.json", "b.json", folder / "a")
    assert file.exists() and file.is_file() and not file.is_dir() and folder.is_dir() and not folder.is_file()
    assert file.read_bytes() == cloud.read(file.key) and file.read_bytes(2, 4) == file.read_bytes()[2:4]
    assert file.stat().st_size == len(file.read_bytes()) and file.with_suffix(".c") == folder / "a/b.c"
    assert (
        list(folder.glob("*/b*")) == [file]
        and list(folder.glob("*/c*")) == []
        and list(folder.iterdir()) == [folder / "a"]
    )
    cloud.write("methods/another", b"")  # by another process: nothing that was listed is remembered
    assert sorted(folder.iterdir()) == [folder / "a", folder / "another"] and (folder / "another").exists()
    assert list(file.parents) == [folder / "a", folder, Bucket("gs://bkt")] and folder.absolute() is folder
    with file.open("wb") as out:
        out.write(b"1\n2\n")
    with file.open() as read:
        assert list(read) == [b"1\n", b"2\n"]
    file.unlink()
    file.unlink(missing_ok=True)
    for gone in (file.unlink, file.read_bytes, file.stat):
        with pytest.raises(FileNotFoundError, match="no such object"):
            gone()
    files.write_text(folder / "c", "c")
    place.remove(folder)
    assert not folder.exists() and cloud.names("methods") == []


def test_a_bucket_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="no such object or bucket: 'gs://nobody-has-it/x'"):
        files.write_text(Bucket("gs://nobody-has-it/x"), "")


def lines_of(path):
    return list(log.lines(path))


def test_a_log_in_a_bucket_is_parts_that_are_joined_and_cut(cloud):
    path = place.of("gs://bkt/logs/rows.jsonl", "x")
    assert not log.exists(path) and log.read(path) == b"" and lines_of(path) == []
    for start in (0, 4):
        rows = Log(path)
        rows.write(b"%d\n" % start)
        rows.write(b"%d\n" % (start + 1))
        assert len(log.parts(path)) == start // 2  # nothing is there before `sync`
        rows.sync()
        rows.sync()
        rows.write(b"%d\n" % (start + 2))
        rows.close()
    assert cloud.names("logs") == [f"logs/rows.jsonl-{n:06d}" for n in range(4)]
    assert log.read(path) == b"0\n1\n2\n4\n5\n6\n" and lines_of(path) == [b"%d\n" % n for n in (0, 1, 2, 4, 5, 6)]
    assert log.find(path.parent, "*.jsonl") == [path]
    log.cut(path, 8)
    assert log.read(path) == b"0\n1\n2\n4\n" and len(log.parts(path)) == 3
    rows = Log(path)
    rows.write(b"7\n")
    rows.close()
    assert log.read(path) == b"0\n1\n2\n4\n7\n"
    log.cut(path, 0)
    assert not log.exists(path)


def test_a_log_goes_on_after_a_file_that_was_copied_into_the_bucket(cloud):
    path = place.of("gs://bkt/copied/rows.jsonl", "x")
    cloud.write(path.key, b"0\n")
    rows = Log(path)
    rows.write(b"1\n")
    rows.close()
    assert log.read(path) == b"0\n1\n" and lines_of(path) == [b"0\n", b"1\n"]
    log.cut(path, 1)
    assert cloud.read(path.key) == b"0"


def test_a_local_log_is_a_file(tmp_path):
    path = tmp_path / "a/rows.jsonl"
    rows = Log(path)
    rows.write(b"0\n1\n")
    assert path.read_bytes() == b"0\n1\n"
    rows.sync()
    rows.close()
    log.cut(path, 2)
    assert lines_of(path) == [b"0\n"] and log.find(tmp_path / "a", "*.jsonl") == [path]

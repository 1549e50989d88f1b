# SPDX-License-Identifier: Apache-2.0
"""Models and data sets of the Hugging Face hub, by its real client against a stand-in on this machine.

Each look-up is a process of its own, as the client reads its variables when it is imported.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest
import small

from t1jax.config import ConfigError
from t1jax.host import command_line, hub, splits

ROOT = Path(__file__).parents[2]
PATTERNS = ("config.json", "tokenizer.json", "*.safetensors")
NAME = "Qwen/Tiny"
FILES = {
    ".gitattributes": b"*.safetensors filter=lfs",
    "README.md": b"# Tiny",
    "config.json": b'{"a": 1}',
    "tokenizer.json": b"{}",
    "model-1.safetensors": bytes(range(256)) * 4000,
    "model-2.safetensors": b"second" * 1000,
    "consolidated.safetensors": b"another form",
    "onnx/model.safetensors": b"in a folder",
    "pytorch_model.bin": b"pickled",
}
WANTED = {"config.json", "tokenizer.json", "model-1.safetensors", "model-2.safetensors"}
CODE = """
import json, sys
from t1jax.host import hub, place
from t1jax.host.command_line import call, leave
def body(argv):
    kind, *names = argv[1:]
    found = hub.model(names[0], "model.checkpoint", tuple(names[1:])) if kind == "model" else place.data_files(names[0])
    print(json.dumps(str(found) if kind == "model" else found))
leave(call("t1jax.x", "", body, sys.argv))
"""


@pytest.fixture
def server():
    with hub_server.running() as found:
        found.add("models", NAME, dict(FILES))
        yield found


@pytest.fixture
def start(server, tmp_path):
    """Starts a look-up; its cache is in tmp_path."""

    def begin(*arguments: str, cwd: Path = tmp_path, limit: int = 0, **variables: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), **variables}
        off = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "5"}
        return subprocess.Popen(
            [sys.executable, "-c", CODE, *arguments], env=kept | off | variables, cwd=cwd, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None,
        )  # fmt: skip

    return begin


@pytest.fixture
def look(start):
    """(exit code, what was found, stderr) of a look-up."""

    def ask(*arguments: str, **more):
        process = start(*arguments, **more)
        out, err = process.communicate(timeout=300)
        return process.returncode, json.loads(out) if out else None, err

    return ask


def refused(answer, *parts: str, code: int = 2) -> str:
    """Its last line, which is one of ours."""
    found, out, err = answer
    last = err.strip().splitlines()[-1]
    assert (found, out) == (code, None) and last.startswith("t1jax.x: ") and "Traceback" not in err, err
    for part in parts:
        assert part in last, last
    return last


def test_a_model_is_downloaded_once_with_the_files_that_are_needed(server, look):
    code, folder, err = look("model", NAME, *PATTERNS)
    assert code == 0, err
    assert {path.name for path in Path(folder).iterdir()} == WANTED
    for name in WANTED:
        assert (Path(folder) / name).read_bytes() == FILES[name]
    assert Path(folder).name == server.repos["models", NAME].commit
    assert {
        path.rpartition("/")[2] for method, path, _ in server.asked if method == "GET" and "/resolve/" in path
    } == WANTED
    before = len(server.asked)
    assert look("model", NAME, *PATTERNS)[1] == folder
    assert not any("/resolve/" in path for _, path, _ in server.asked[before:])


def test_a_revision_and_the_token_reach_the_hub(server, look):
    repo = server.repos["models", NAME]
    repo.private, repo.branches["v1/x"] = True, repo.commit
    refused(
        look("model", NAME, *PATTERNS), f"model.checkpoint={NAME}", "has no such model", "hf auth login or set HF_TOKEN"
    )
    code, folder, err = look("model", f"hf://{NAME}@v1%2Fx", *PATTERNS, HF_TOKEN="hf_secret")
    assert code == 0 and Path(folder).name == repo.commit and server.token == "hf_secret", err
    assert any(path.endswith("/revision/v1/x") for _, path, _ in server.asked)
    refused(look("model", f"{NAME}@v2", *PATTERNS, HF_TOKEN="hf_secret"), "has no revision v2; expected a branch, tag")


def test_offline_the_cache_will_do_and_else_a_line_says_what_to_run(server, look):
    def offline():
        return look("model", NAME, *PATTERNS, HF_HUB_OFFLINE="1")

    last = refused(
        offline(),
        "HF_HUB_OFFLINE is set",
        "on a machine with network run: hf download Qwen/Tiny --local-dir models/Tiny",
    )
    assert "'--include=*.safetensors'" in last
    assert last.endswith(", then put that folder here and give --config.model.checkpoint=models/Tiny")
    assert not server.asked
    assert look("model", NAME, *PATTERNS)[0] == 0
    server.asked.clear()
    code, folder, err = offline()
    assert code == 0 and {path.name for path in Path(folder).iterdir()} == WANTED and not server.asked, err
    (Path(folder) / "model-2.safetensors").unlink()
    refused(offline(), "nor whole in the cache")


def test_a_hub_that_does_not_answer_is_told_with_the_command_for_elsewhere(server, look):
    command = f"hf download {NAME} --revision abc --local-dir models/Tiny"
    last = refused(
        look("model", f"{NAME}@abc", *PATTERNS, HF_ENDPOINT="http://127.0.0.1:9"), "does not answer", command
    )
    assert "http://127.0.0.1:9" in last


def test_what_is_not_there_or_gated_is_told(server, look):
    assert "no such model" in refused(look("model", "Qwen/Tyni", *PATTERNS), "nothing of that name is here")
    server.repos["models", NAME].gated = True
    refused(look("model", NAME, *PATTERNS), f"it is gated; accept its terms on {server.url}/{NAME}", "hf auth login")


def test_a_cut_connection_is_resumed_where_it_was_cut(server, look):
    large = bytes(range(256)) * (48 << 10)  # 12 MiB: the client writes 10 MB at a time
    server.add("models", NAME, FILES | {"model-1.safetensors": large})
    server.cut["model-1.safetensors"] = [11 << 20]
    code, folder, err = look("model", NAME, *PATTERNS)
    assert code == 0 and (Path(folder) / "model-1.safetensors").read_bytes() == large, err
    ranges = [at for method, path, at in server.asked if method == "GET" and path.endswith("model-1.safetensors")]
    assert ranges == ["", f"bytes={10 << 20}-"]


def test_after_a_cut_that_lasts_the_same_command_downloads_what_is_missing(server, look):
    server.cut["model-1.safetensors"] = [0] * 99
    last = refused(look("model", NAME, *PATTERNS), NAME, "; the same command resumes", code=1)
    assert server.url in last
    got = server.got("config.json")
    server.cut.clear()
    code, folder, err = look("model", NAME, *PATTERNS)
    assert code == 0 and {path.name for path in Path(folder).iterdir()} == WANTED, err
    assert got == server.got("config.json") == 1


@pytest.mark.parametrize("name", ["model-1.safetensors", "config.json"])
def test_a_file_that_arrives_damaged_is_refused_and_removed(server, look, name):
    server.spoilt[name] = b"\0" * len(FILES[name])
    refused(look("model", NAME, *PATTERNS), f"{NAME}: {name} arrived damaged: its ", "; it was removed", code=1)
    server.spoilt.clear()
    code, folder, err = look("model", NAME, *PATTERNS)
    assert code == 0 and (Path(folder) / name).read_bytes() == FILES[name], err


def test_a_full_disk_is_told_as_such(server, look):
    """RLIMIT_FSIZE stands for the disk: the largest file does not fit."""
    last = refused(look("model", NAME, *PATTERNS, limit=500_000), "make room, and the same command goes on", code=3)
    assert "/home/hub" in last
    assert look("model", NAME, *PATTERNS)[0] == 0


def test_several_processes_download_once(server, start):
    processes = [start("model", NAME, *PATTERNS) for _ in range(3)]
    found = {process.communicate(timeout=300)[0] for process in processes}
    assert len(found) == 1 and [process.returncode for process in processes] == [0, 0, 0]
    for name in WANTED:
        assert server.got(name) == 1, name


# data sets

CARD = b"""---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: socratic
  data_files:
  - split: train
    path: socratic/train-*
---
# GSM8K
"""
DATA = {
    "README.md": CARD,
    "main/train-00000-of-00002.jsonl": b'{"question": "a"}\n{"question": "b"}\n',
    "main/train-00001-of-00002.jsonl": b'{"question": "c"}\n',
    "main/test-00000-of-00001.jsonl": b'{"question": "d"}\n',
    "socratic/train-00000-of-00001.jsonl": b'{"question": "e"}\n',
}


def test_a_split_of_a_data_set_is_its_files_in_order(server, look):
    server.add("datasets", "openai/gsm8k", DATA)
    code, files, err = look("data", "openai/gsm8k:train")
    assert code == 0, err
    assert [Path(file).name for file in files] == ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]
    assert server.got("test-00000-of-00001.jsonl") == 0
    assert [Path(file).parent.name for file in look("data", "openai/gsm8k:socratic/train")[1]] == ["socratic"]
    refused(look("data", "openai/gsm8k:dev"), "openai/gsm8k:dev: no split dev; expected one of train, test")
    code, files, err = look("data", "openai/gsm8k:train", HF_HUB_OFFLINE="1")
    assert code == 0 and len(files) == 2, err


def test_files_by_their_path_and_revision(server, look):
    repo = server.add("datasets", "openai/gsm8k", DATA)
    repo.branches["v1"] = repo.commit
    code, files, err = look("data", "hf://datasets/openai/gsm8k@v1/main/t*-00000-*")
    assert code == 0 and [Path(file).name[:4] for file in files] == ["test", "trai"], err
    refused(
        look("data", "hf://datasets/openai/gsm8k/main/dev.jsonl"),
        "no file main/dev.jsonl; it has README.md, main/test-0",
    )
    refused(look("data", "hf://datasets/openai/nothing/x.jsonl"), "has no such data set")
    refused(look("data", "hf://openai/gsm8k/x.jsonl"), "expected files of a data set: hf://datasets/OWNER/NAME/FILE")


def test_rows_of_several_files_are_counted_on(tmp_path, monkeypatch):
    from t1jax.host import place
    from t1jax.tasks.files import rows

    names = [name for name in DATA if "main/train" in name]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(DATA[name])
    monkeypatch.setattr(place.hub, "dataset", lambda name: tuple(tmp_path / name for name in names))
    found = list(rows.read_rows("openai/gsm8k:train"))
    assert found == [(1, {"question": "a"}), (2, {"question": "b"}), (3, {"question": "c"})]


def test_what_is_here_is_never_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/model").mkdir(parents=True)
    for name in (
        "models/Qwen2.5-0.5B",
        "workdirs/tiny",
        "mine/model",
        "mine/other",
        "./a/b",
        "/a/b",
        "a",
        "a/b/c",
        "gs://a/b",
        "",
    ):
        assert not hub.is_model(name), name
    for name in ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B@main", "Qwen/Q@refs/pr/1", "hf://Qwen/Q"):
        assert hub.is_model(name), name
    for name in (
        "data/train.jsonl",
        "some/train.jsonl",
        "some/t.parquet",
        "some/t.json.gz",
        "mine/x",
        "a/b/c",
        "s3://a/b",
        "",
    ):
        assert not hub.is_dataset(name), name
    for name in ("openai/gsm8k", "openai/gsm8k@main:main/test", "hf://datasets/openai/gsm8k/a.jsonl"):
        assert hub.is_dataset(name), name


def test_a_name_without_a_split_gets_one():
    assert command_line.named(small.make_config(data__train="openai/gsm8k, a.jsonl,c/d:test")).data.train == (
        "openai/gsm8k:train,a.jsonl,c/d:test"
    )
    assert hub.with_split("openai/gsm8k", "test") == "openai/gsm8k:test"
    assert hub.with_split("openai/gsm8k@v1", "test") == "openai/gsm8k@v1:test"
    for name in ("openai/gsm8k:train", "openai/gsm8k@v1:main/train", "hf://datasets/openai/gsm8k/a.jsonl"):
        assert hub.with_split(name, "test") == name


BOTH = ["x.jsonl", "y.jsonl"]


def chosen(paths, wanted, card=""):
    return splits.choose("o/n", paths, splits.configs(card), wanted, True)


def test_without_a_card_names_tell_the_split():
    assert chosen(["test.jsonl", "train.jsonl", "latest.jsonl", "README.md"], "test") == ["test.jsonl"]
    assert chosen(["data/test-0.parquet", "old/test-0.parquet"], "test") == ["data/test-0.parquet"]
    assert chosen(["a/test.json", "b/test.json"], "b/test") == ["b/test.json"]
    with pytest.raises(ConfigError, match=r"o/n: test is in several folders; expected one of a, b: /test"):
        chosen(["a/test.json", "b/test.json"], "test")
    with pytest.raises(
        ConfigError, match=r"no file is named after the split test; it has train.csv; name files as hf://"
    ):
        chosen(["train.csv"], "test")
    assert chosen(["gpqa/train.csv", "gpqa/train.py"], "gpqa/train") == ["gpqa/train.csv"]


def test_where_no_file_is_named_after_a_split_all_are_train():
    assert chosen(["data/dapo-math-17k.parquet", "README.md", "run.py"], "train") == ["data/dapo-math-17k.parquet"]
    assert chosen(["b/1.jsonl", "a.jsonl", "dataset_infos.json", ".x/c.jsonl"], "train") == ["a.jsonl", "b/1.jsonl"]
    assert chosen(["a/1.csv.gz", "b/1.csv"], "a/train") == ["a/1.csv.gz"]
    for others in (["x.jsonl"], ["README.md"]):
        with pytest.raises(ConfigError, match="no file is named after the split test"):
            chosen(others, "test")
    with pytest.raises(ConfigError, match="no file is named after the split train; it has README.md, run.py; name"):
        chosen(["README.md", "run.py"], "train")
    for split in splits.SPLITS - {"train"}:
        with pytest.raises(ConfigError, match="no file is named after the split train"):
            chosen(["x.jsonl", f"data/{split}-0.jsonl"], "train")
    with pytest.raises(ConfigError, match="no file is named after the split train, and they have several formats; it"):
        chosen(["x.jsonl", "x.parquet"], "train")


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ("[{config_name: a, data_files: x.jsonl}]", ["x.jsonl"]),  # the only one, all of it train
        ("[{config_name: a, data_files: x.jsonl}, {config_name: b, data_files: y.jsonl, default: true}]", ["y.jsonl"]),
        ("[{config_name: a, data_files: q}, {config_name: main, data_files: [y.jsonl, x.jsonl]}]", BOTH),
        ("[{config_name: a, data_dir: d, data_files: [{split: train, path: ['*.jsonl']}]}]", ["d/z.jsonl"]),
        ("[{config_name: a, data_files: q}, {config_name: b, data_files: r}]", "several configs; expected one of a, b"),
        ("[{config_name: a, data_files: x.csv}]", ["x.csv"]),
        ("[{config_name: a, data_files: x.tsv}]", "the files of train are no JSON lines, JSON, CSV or Parquet"),
        ("[{config_name: a, data_files: q.jsonl}]", "no file of the split train"),
        ("{a: [", "no file is named after the split train, and they have several formats"),
        ("[1, {data_files: 5}]", "no split train"),
    ],
)  # fmt: skip
def test_a_card_tells_the_files(configs, expected):
    card = f"---\nconfigs: {configs}\n---\n"
    paths = ["x.jsonl", "y.jsonl", "d/z.jsonl", "x.csv", "x.tsv"]
    if isinstance(expected, list):
        assert chosen(paths, "train", card) == expected
        return
    with pytest.raises(ConfigError, match=expected):
        chosen(paths, "train", card)

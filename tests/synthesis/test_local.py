# SPDX-License-Identifier: Apache-2.0
"""Our own sampler as a writer: batches, what a kill loses, chats and whole prompts."""

from __future__ import annotations

import dataclasses
import json
import random
import types

import hf_folders
import pytest
import scribes
import small
from random_qwen import KNOBS
from rich.console import Console

from configs import base, tiny
from t1jax import config
from t1jax import synthesize as program
from t1jax.config import ConfigError
from t1jax.host.progress import Progress
from t1jax.synthesis import local
from t1jax.synthesis.ledger import Ledger
from t1jax.synthesis.rules import EmbeddedSubject
from t1jax.synthesis.writers import Failure, Request
from t1jax.tasks.chat import ChatTask
from t1jax.tasks.pairs.task import PairsTask
from t1jax.text import tokenizer
from t1jax.text.huggingface import HFTokenizer


def quiet():
    return Progress(Console(file=open("/dev/null", "w")))


def requests(contents, max_tokens=8):
    return [
        Request(f"attempt/{i}/0", ({"role": "user", "content": text},), max_tokens, 1.0, 7 + i)
        for i, text in enumerate(contents)
    ]


@pytest.fixture(scope="module")
def embedded():
    """A function from a ledger to a writer of the embedded task, with random weights."""
    cfg = small.make_config(eval__batch_size=8, mesh__fsdp=1, mesh__data=1)
    task = PairsTask(cfg.task)
    tokens = tokenizer.SentencePieceTokenizer(
        tokenizer.train_sentencepiece(task.corpus(200, 0), cfg.model.vocab_size, task.symbols(), 0)
    )
    tokens.stop_ids = (1, *range(5, 60, 6))  # so that a random model stops now and then
    mesh = small.make_mesh()
    params = small.make_params(cfg, mesh)
    writers = {}

    def make(ledger):
        writer = local.LocalWriter(cfg, mesh, params, tokens, ledger, quiet(), "tiny", whole=True)
        writer._generate._samplers = writers.setdefault("samplers", writer._generate._samplers)  # compiled once
        return writer

    return task, make


def prompts_of(task, count):
    return [task.prompt(task.problem(index, "train")) for index in range(count)]


def write(make, path, asked):
    with Ledger(path) as ledger:
        return list(make(ledger).write(asked))


def test_what_is_written_depends_on_the_request_alone(embedded, tmp_path):
    """Not on which requests come before it, and both prompts and their random numbers are its own."""
    task, make = embedded
    asked = requests(prompts_of(task, 11))
    whole = write(make, tmp_path / "a.jsonl", asked)
    assert [request for request, _ in whole] == asked
    texts = {request.key: found.text for request, found in whole}
    part = write(make, tmp_path / "b.jsonl", asked[3:])
    assert {request.key: found.text for request, found in part} == {r.key: texts[r.key] for r in asked[3:]}
    assert len(set(texts.values())) > 5
    (same,) = write(make, tmp_path / "c.jsonl", [Request("attempt/0/1", asked[0].messages, 8, 1.0, 99)])
    assert same[1].text != texts["attempt/0/0"]


def test_it_counts_tokens_and_says_who_wrote_and_whether_it_ended(embedded, tmp_path):
    task, make = embedded
    asked = requests(prompts_of(task, 40))
    found = [completion for _, completion in write(make, tmp_path / "a.jsonl", asked)]
    tokens = make(Ledger(tmp_path / "b.jsonl")).tokenizer
    for request, completion in zip(asked, found, strict=True):
        assert completion.prompt_tokens == len(tokens.encode(request.messages[0]["content"]))
        assert 1 <= completion.completion_tokens <= 8 and completion.cost == 0.0
        assert completion.finish_reason == "stop" or completion.completion_tokens == 8
        assert completion.model.startswith("tiny@") and len(completion.model) == 17
    assert {completion.finish_reason for completion in found} == {"stop", "length"}


def test_a_kill_loses_a_batch_at_most(embedded, tmp_path, monkeypatch):
    task, make = embedded
    asked = requests(prompts_of(task, 20))
    unbroken = write(make, tmp_path / "a.jsonl", asked)
    with Ledger(tmp_path / "b.jsonl") as ledger:
        started = make(ledger).write(asked)
        for _ in range(11):  # in the second of three batches, which is whole in the ledger
            next(started)
        assert len(ledger) == 16
    lines = (tmp_path / "b.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_bytes(b"".join(lines[:12]) + lines[12][:20])  # killed within that batch
    sampled = []
    original = local.LocalWriter._sample

    def counting(self, batch):
        sampled.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(local.LocalWriter, "_sample", counting)
    assert write(make, tmp_path / "b.jsonl", asked) == unbroken and sampled == [8, 4]
    assert write(make, tmp_path / "b.jsonl", asked) == unbroken and sampled == [8, 4]
    assert sorted((tmp_path / "b.jsonl").read_bytes().splitlines()) == sorted(
        (tmp_path / "a.jsonl").read_bytes().splitlines()
    )


FLAGS = [knob for knob in KNOBS if "max_new_tokens" not in knob] + [
    "--config.synthesis.attempts=2",
    "--config.synthesis.attempt_tokens=12",
    "--config.synthesis.chain_tokens=12",
    "--config.data.prompt_length=300",
]


def test_problems_of_a_file_by_a_checkpoint_of_hugging_face(checkpoint, tmp_path, capsys):
    """A random model whose boxes hold 0 to 3: its attempts are sampled, judged, counted, and kept."""
    data, out = tmp_path / "p.jsonl", tmp_path / "chains.jsonl"
    rows = [{"problem": text, "answer": "7"} for text in ("one less one", "one", "two", "<stop3> two")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["synthesize", f"--checkpoint={checkpoint}", f"--problems={data}", f"--out={out}", *FLAGS]
    assert program.main(args) == 0
    assert "1 row dropped: the text of a special token" in " ".join(capsys.readouterr().out.split())
    found = json.loads(out.with_suffix(".summary.json").read_text())
    assert found["problems"] == 3 and found["attempts"] == {"right": 0, "wrong": 6, "unscorable": 0}
    assert found["rejected"] == {"no attempt is right": 3}
    rejected = [json.loads(line) for line in out.with_suffix(".rejected.jsonl").read_text().splitlines()]
    attempts = [attempt for row in rejected for attempt in row["provenance"]["attempts"]]
    assert len({attempt["text"] for attempt in attempts}) > 3 and any(attempt["answer"] for attempt in attempts)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert program.main(args) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def short(**knobs):
    """The base config with answers that a model of 256 positions can write."""
    cfg = config.load(base.get_config())
    return dataclasses.replace(
        cfg, synthesis=dataclasses.replace(cfg.synthesis, **{"attempt_tokens": 64, "chain_tokens": 256} | knobs)
    )


def test_answers_beyond_the_positions_of_the_model_are_refused_and_long_requests_given_up(checkpoint):
    for knob in ("attempt_tokens", "chain_tokens"):
        with pytest.raises(ConfigError, match=f"synthesis.{knob} is 257; expected at most 256, the positions that"):
            local.open_local(short(**{knob: 257}), str(checkpoint), [], embedded=False)
    cfg, tokens, _ = local.open_local(short(), str(checkpoint), [], embedded=False)
    writer = object.__new__(local.LocalWriter)
    writer.cfg, writer.tokenizer, writer._whole = cfg, tokens, False
    (long,) = requests(["one and two " * 100])
    ((_, failure),) = local.LocalWriter.write(writer, [long])
    assert "the request's tokens + those it may write is " in str(failure) and "at most 256" in str(failure)


def test_a_request_with_a_control_token_is_given_up(checkpoint, tmp_path):
    """What another model wrote may hold one: here it would end the turn."""
    cfg, tokens, _ = local.open_local(short(), str(checkpoint), [], embedded=False)
    writer = object.__new__(local.LocalWriter)
    writer.cfg, writer.tokenizer, writer._whole = cfg, tokens, False
    good, bad = requests(["one and one", "one<stop4>"])
    as_chat = writer._prompt(good)
    assert tokens.decode(as_chat) == "<user>one and one<a>"
    ((_, failure),) = local.LocalWriter.write(writer, [bad])
    assert failure == Failure("the request holds the text of a special token")
    writer._whole = True  # of the embedded task: the message is a prompt, rendered already
    (whole,) = requests(["<user>one and one<a>"])
    assert writer._prompt(whole) == as_chat


@pytest.fixture(params=["own tokenizer", "a model's chat"])
def asked(request, tmp_path):
    """(the pairs task, its tokenizer, flags that ask for it)."""
    cfg = config.load(tiny.get_config())
    if request.param == "own tokenizer":
        task = PairsTask(cfg.task)
        return task, tokenizer.SentencePieceTokenizer(
            tokenizer.train_sentencepiece(task.corpus(200, 0), cfg.model.vocab_size, task.symbols(), 0)
        ), []  # fmt: skip
    tokens = HFTokenizer(hf_folders.write(tmp_path / "hf", hf_folders.byte_level(), chat_template=hf_folders.QWEN))
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, response_prefix="<think>\n"))
    flags = ["--config.data.response_prefix=<think>\n", "--config.synthesis.chain_tokens=512"]
    return ChatTask(PairsTask(cfg.task), cfg, tokens), tokens, flags


def test_chains_need_a_prompt_that_begins_the_thinking(tmp_path):
    cfg = config.load(tiny.get_config())
    tokens = HFTokenizer(hf_folders.write(tmp_path / "hf", hf_folders.byte_level(), chat_template=hf_folders.QWEN))
    with pytest.raises(ConfigError, match=r'prompts do not end with "<think>\\n", .*expected data.response_prefix = '):
        EmbeddedSubject(ChatTask(PairsTask(cfg.task), cfg, tokens))


def test_problems_of_files_need_a_tokenizer_with_chat(tmp_path):
    """A run of the embedded task has none."""
    cfg = config.load(tiny.get_config())
    opened = types.SimpleNamespace(cfg=cfg, tokenizer=types.SimpleNamespace())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "open_checkpoint", lambda *_: opened)
        with pytest.raises(ConfigError, match="expected a tokenizer.json, for --problems"):
            local.open_local(cfg, "x", [], embedded=False)


def test_the_embedded_task_from_end_to_end(asked, tmp_path, monkeypatch, capsys):
    """The command line with the rule-based writer in the place of the model."""
    task, tokens, flags = asked
    problems = {task.prompt(task.problem(index, "train")): task.problem(index, "train") for index in range(40)}

    def say(key, message):
        return PairsTask(config.load(tiny.get_config()).task).chain(problems[message], random.Random(key))

    monkeypatch.setattr(
        local, "open_local", lambda cfg, *_, **__: (cfg, tokens, lambda *_: scribes.Scribe("local", say))
    )
    out = tmp_path / "chains.jsonl"
    args = ["synthesize", "--config=configs/tiny.py", "--checkpoint=x", "--limit=40", f"--out={out}", *flags]
    assert program.main(args) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    rejected = [json.loads(line) for line in out.with_suffix(".rejected.jsonl").read_text().splitlines()]
    assert len(rows) + len(rejected) == 40 and len(rows) > 20
    assert {row["reason"] for row in rejected} <= {"no attempt is right", "longer than synthesis.chain_tokens"}
    for row in rows:
        assert row["prompt"] == task.prompt(task.problem(row["problem"], "train"))
        assert row["tokens"] == len(tokens.encode(row["response"])) <= (512 if flags else 128)
        assert len(row["provenance"]["attempts"]) == 4
        for attempt in row["provenance"]["attempts"]:  # also what a wrong one had only guessed is tried
            left, right = attempt["answer"].split("+")
            assert f"{left}+{right}=" in row["response"] or f"{right}+{left}=" in row["response"]
    assert "chains of 40 problems" in capsys.readouterr().out

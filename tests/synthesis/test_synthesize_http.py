# SPDX-License-Identifier: Apache-2.0
"""The command line against a real HTTP server on 127.0.0.1 that stumbles: from a file of problems to chains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import scribes
import several
from bad_server import BadServer, cut, error, ok, status
from scribes import TEXTS, role_of, script

from t1jax import synthesize as program

ROOT = Path(__file__).parents[2]
KEY = "sk-test-0123456789abcdef"


def answer(number, body):
    """What the scripted model says; an attempt is right in one of three seeds."""
    message = body["messages"][-1]["content"]
    right = role_of(message) == "attempt" and body["seed"] % 3 == 0
    return ok(script("attempt/1/2" if right else "attempt/1/0", message), usage=(100, 10))


def stumbling(number, body):
    """The first requests go wrong, each in its own way."""
    first = {0: error(429, "slow down", Retry_After="0"), 2: cut, 3: status(200, b"<html>")}
    return first.get(number) or answer(number, body)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A function from a server to the arguments."""
    monkeypatch.setenv("T1JAX_TEST_KEY", KEY)
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in scribes.rows()))

    def make(server):
        path = tmp_path / "config.py"
        path.write_text(
            "from configs import base\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
            "    cfg = base.get_config().unlock()\n    cfg.verifier.workers = 1\n    cfg.synthesis.attempts = 6\n"
            "    cfg.synthesis.attempters = ('a', 'b')\n    cfg.synthesis.critic = 'a'\n"
            "    cfg.synthesis.merger = 'b'\n    cfg.synthesis.rewriter = 'b'\n    cfg.data.train = ''\n"
            f"    end = dict(url={server.url!r}, key_variable='T1JAX_TEST_KEY', concurrency=2, requests_per_minute=0,\n"
            "               tokens_per_minute=0, price_in=1.0, price_out=10.0, timeout=10.0, retries=3)\n"
            "    for name in ('a', 'b'):\n"
            "        cfg.synthesis.endpoints[name] = ConfigDict(end | {'model': 'model-' + name})\n"
            "    return cfg.lock()\n"
        )
        out = tmp_path / "out/chains.jsonl"
        return ["synthesize", f"--config={path}", f"--problems={problems}", f"--out={out}"], out

    return make


def test_chains_come_out_and_every_answer_is_paid_once(command, capsys):
    with BadServer(stumbling) as server:
        args, out = command(server)
        assert program.main(args) == 0
        first = len(server.bodies)
        kept = {path.name: path.read_bytes() for path in out.parent.iterdir()}
        assert program.main(args) == 0 and len(server.bodies) == first
        assert server.highest <= 4
        models = {role_of(body["messages"][-1]["content"]): body["model"] for body in server.bodies}
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == kept
    found = json.loads(out.with_suffix(".summary.json").read_text())
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == found["chains"] >= 2 and found["attempts"]["right"] + found["attempts"]["wrong"] == 18
    texts = sum(row["requests"] for row in found["writers"].values())
    assert texts == first - 3  # of what stumbled nothing is kept, and nothing counted
    cost = sum(row["cost"] for row in found["writers"].values())
    assert cost == pytest.approx(texts * (100 * 1.0 + 10 * 10.0) / 1e6)
    assert models["critic_wrong"] == "model-a" and models["merge"] == models["rewrite"] == "model-b"
    assert {a["writer"] for a in rows[0]["provenance"]["attempts"]} == {"a", "b"}
    assert rows[0]["response"].endswith("}.") and rows[0]["gold"] in {text["gold"] for text in TEXTS}
    assert KEY.encode() not in b"".join(kept.values()) and KEY not in "".join(capsys.readouterr())


def test_what_was_paid_for_nothing_is_told(command, capsys):
    """A model that spends its limit and writes nothing."""

    def spending(number, body):
        return ok("", finish="length", usage=(100, 4096)) if number == 1 else answer(number, body)

    with BadServer(spending) as server:
        args, out = command(server)
        assert program.main(args) == 0
        asked = len(server.bodies)
    found = json.loads(out.with_suffix(".summary.json").read_text())
    paid = found["paid"].values()
    assert sum(row["requests"] for row in paid) == asked
    assert sum(row["cost"] for row in paid) == pytest.approx((asked * 100 + (asked - 1) * 100 + 40960) / 1e6)
    assert sum(row["cost"] for row in found["writers"].values()) < sum(row["cost"] for row in paid)
    assert "including unusable answers, over all runs" in capsys.readouterr().out


def test_kill_nine_loses_nothing_that_was_answered(command):
    """The process is killed by the server's eleventh request; a second one finishes the work."""
    process: list[subprocess.Popen[bytes]] = []

    def killing(number, body):
        if number == 10:
            process[0].kill()
        return answer(number, body)

    with BadServer(killing) as server:
        args, out = command(server)
        env = several.environment()
        line = [sys.executable, "-m", "t1jax.synthesize", *args[1:]]
        process.append(subprocess.Popen(line, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        assert process[0].wait(timeout=300) == -9
        asked = len(server.bodies)
        kept = out.with_suffix(".ledger.jsonl").read_bytes().count(b"\n")
        assert 6 <= kept <= 10 and not out.exists()
        assert program.main(args) == 0
        found = json.loads(out.with_suffix(".summary.json").read_text())
        assert sum(row["requests"] for row in found["writers"].values()) == len(server.bodies) - asked + kept

# SPDX-License-Identifier: Apache-2.0
"""Keys of endpoints: from the environment, and in no text."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t1jax.config import ConfigError
from t1jax.synthesis.keys import Key, read_key, redacted_logs

SECRET = "sk-0123456789abcdefghijklmnop"
ROOT = Path(__file__).parents[2]


def test_a_key_comes_from_its_variable_and_does_not_show_itself(monkeypatch):
    monkeypatch.setenv("A_KEY", SECRET)
    key = read_key("big", "A_KEY")
    assert key.reveal() == SECRET and key
    assert SECRET not in f"{key} {key!r} {[key]} {vars}"
    assert not read_key("big", "") and repr(read_key("big", "")) == "no key"


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_variable_is_named(monkeypatch, value):
    monkeypatch.setenv("A_KEY", value) if value is not None else monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"synthesis\.endpoints\.big\.key_variable is A_KEY, which is not set"):
        read_key("big", "A_KEY")


@pytest.mark.parametrize("value", [SECRET + "\n", SECRET[:9] + " " + SECRET[9:], SECRET + "é", "\x1b" + SECRET])
def test_a_key_that_no_header_can_hold_is_refused_unseen(monkeypatch, value):
    monkeypatch.setenv("A_KEY", value)
    with pytest.raises(ConfigError, match="A_KEY, which has a space, a line break or another") as error:
        read_key("big", "A_KEY")
    assert "sk-0" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"bad {SECRET}, {SECRET}!", "bad [key], [key]!"),
        (f"ends in {SECRET[-8:]}.", "ends in [key]."),
        (f"ends in {SECRET[-7:]}.", f"ends in {SECRET[-7:]}."),  # too little to be of use
        (f"{SECRET[:10]} {SECRET[3:20]}", "[key] [key]"),
        (f"x{SECRET[2:12]}y{SECRET[2:12]}", "x[key]y[key]"),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_a_key_and_its_pieces_are_hidden(text, shown):
    assert Key(SECRET).redact(text) == shown


def test_a_short_key_is_hidden_where_it_stands_whole():
    assert Key("EMPTY").redact("EMPTY? EMPT!") == "[key]? EMPT!"
    assert Key("").redact("as it is") == "as it is"
    assert Key("EMPTY").redact_answer("the EMPTY set") == "the EMPTY set"  # no secret, and a model's word
    assert Key(SECRET).redact_answer(f"it is {SECRET}") == "it is [key]"


def test_loggers_of_the_client_s_libraries_do_not_say_a_key(caplog):
    caplog.set_level(logging.DEBUG)
    below = logging.getLogger("httpcore2.http11")
    with redacted_logs(Key(SECRET)):
        below.debug("headers %r", [(b"X", SECRET.encode())])
        try:
            raise ValueError(f"no {SECRET}")
        except ValueError:
            logging.getLogger("openai").exception("failed with %s", SECRET)
    assert SECRET not in caplog.text and caplog.text.count("[key]") >= 3 and "ValueError: no [key]" in caplog.text
    below.debug("afterwards %s", "as before")
    assert "afterwards as before" in caplog.text and not below.filters


def test_a_fresh_process_does_not_log_the_key_in_its_first_write():
    """The client's libraries make most of their loggers with the first client."""
    program = """
import logging, sys, tempfile
from pathlib import Path
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
import bad_server
from t1jax.config import EndpointConfig
from t1jax.synthesis.endpoints import EndpointWriter
from t1jax.synthesis.ledger import Ledger
from t1jax.synthesis.writers import Request
with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "l.ledger.jsonl") as ledger:
    with bad_server.BadServer(bad_server.echo_key(400)) as server:
        cfg = EndpointConfig(
            url=server.url, model="m", key_variable="A_KEY", concurrency=1, requests_per_minute=0, tokens_per_minute=0,
            price_in=2.0, price_out=10.0, timeout=60.0, retries=2,
        )
        request = Request("a", ({"role": "user", "content": "q"},), 64, 0.7, 3)
        list(EndpointWriter("big", cfg, ledger).write([request]))
"""
    env = os.environ | {"A_KEY": SECRET, "NO_PROXY": "127.0.0.1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}"}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert "receive_response_headers" in ran.stdout and "[key]" in ran.stdout
    assert SECRET not in ran.stdout + ran.stderr

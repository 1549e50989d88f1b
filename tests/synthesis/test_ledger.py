# SPDX-License-Identifier: Apache-2.0
"""What was paid for is kept: through kills, damage and other processes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t1jax.config import ConfigError
from t1jax.host.stopping import Stopped
from t1jax.synthesis.ledger import Ledger, Paid, Totals, digest
from t1jax.synthesis.writers import Completion, Failure, Request

ASKED = Request("attempt/1/0", ({"role": "user", "content": "2 + 2"},), 64, 1.0, 5)


def paid(key="k", **changes):
    """An answer with some fields set."""
    answer = Paid(key, "attempt/1/0", "big", "m", "m-1", "four", "", "stop", 7, 5, True, 0.25, 1)
    return dataclasses.replace(answer, **changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.ledger.jsonl"


def test_what_was_recorded_is_found_again_by_the_next_process(path):
    with Ledger(path) as ledger:
        assert ledger.find("k") is None
        ledger.record(paid())
        ledger.record(paid("other", failure="big: withheld", text=""))
        before = [ledger.find("k"), ledger.find("other")]
    with Ledger(path) as ledger:
        assert [ledger.find("k"), ledger.find("other")] == before
        assert before == [Completion("four", "m-1", 7, 5, 0.25, "stop"), Failure("big: withheld")]
        assert len(ledger) == 2 and ledger.find("third") is None


@pytest.mark.parametrize(
    "text", ["a\0b", "\ud83d alone \udc00", "line\nline\r\u2028\x85", "é 漢 😀", ' "}\\ ', "\x1b[2J"]
)
def test_any_text_survives(path, text):
    with Ledger(path) as ledger:
        ledger.record(paid("a", text=text))
        ledger.record(paid("b"))
    assert path.read_bytes().isascii() and path.read_bytes().count(b"\n") == 2
    with Ledger(path) as ledger:
        assert ledger.find("a").text == text and ledger.find("b").text == "four"


def test_the_rest_of_a_torn_last_line_is_cut_off_wherever_it_tore(path):
    with Ledger(path) as ledger:
        ledger.record(paid("a"))
        whole = path.read_bytes()
        ledger.record(paid("b", text="x" * 50))
    both = path.read_bytes()
    for end in [*range(len(whole), len(both), 17), len(both) - 1]:
        path.write_bytes(both[:end])
        with Ledger(path) as ledger:
            assert path.read_bytes() == whole and len(ledger) == 1 and ledger.find("b") is None
            ledger.record(paid("c"))
            assert ledger.find("a").text == ledger.find("c").text == "four"
    path.write_bytes(whole + b"\0" * 300)  # what some file systems leave after a power cut
    with Ledger(path) as ledger:
        assert len(ledger) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{ torn\n", "JSONDecodeError"),
        (b"[1, 2]\n", "TypeError"),
        (b'{"key": "k"}\n', "KeyError"),
        (json.dumps(dataclasses.asdict(paid(cost=0.0)) | {"cost": float("nan")}).encode() + b"\n", "TypeError"),
        (json.dumps(dataclasses.asdict(paid()) | {"prompt_tokens": True}).encode() + b"\n", "TypeError"),
        (b"[" * 100_000 + b"\n", "RecursionError"),
        (b"\xff\xfe\n", "UnicodeDecodeError"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_cut_off(path, line, says):
    content = paid("a").line() + line + paid("b").line()
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"line 2: {says}; expected a paid answer in JSON: fix or delete"):
        Ledger(path)
    assert path.read_bytes() == content
    path.write_bytes(paid("a").line())
    Ledger(path).close()  # the refused one let go of the lock


def test_totals_are_over_all_runs_by_endpoint_and_model(path):
    with Ledger(path) as ledger:
        ledger.record(paid("a"))
        ledger.record(paid("b", failure="big: wrote nothing", text="", cost=0.5))  # paid for, too
        ledger.record(paid("c", model="n", counted=False, prompt_tokens=0, completion_tokens=0, cost=0.0))
        totals = ledger.totals()
    assert totals == {("big", "m"): Totals(2, 2, 14, 10, 0.75, 0), ("big", "n"): Totals(1, 1, 0, 0, 0.0, 1)}
    with Ledger(path) as ledger:
        assert ledger.totals() == totals
        ledger.record(paid("a"))  # twice after all, as by hand: the money is gone, the answer is one
        assert ledger.totals()["big", "m"].requests == 3 and len(ledger) == 3


def test_a_second_process_is_refused_until_the_first_ends(path):
    code = "import sys; from pathlib import Path; from t1jax.synthesis.ledger import Ledger; Ledger(Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(path)]
    root = Path(__file__).parents[2]
    with Ledger(path) as ledger:
        ledger.record(paid())
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and "is in use by another process; wait for it, stop it" in done.stderr
        with pytest.raises(ConfigError, match="is in use"):
            Ledger(path)
        ledger.record(paid("b"))
    assert subprocess.run(command, cwd=root, timeout=60).returncode == 0
    assert path.read_bytes().count(b"\n") == 2


def test_each_thing_that_an_answer_depends_on_is_in_its_key():
    def but(**changes):
        return digest("http://a/v1", "m", dataclasses.replace(ASKED, **changes))

    keys = [
        but(), digest("http://b/v1", "m", ASKED), digest("http://a/v1", "n", ASKED), but(key="attempt/1/1"),
        but(messages=({"role": "system", "content": "2 + 2"},)), but(messages=({"role": "user", "content": "2 + 3"},)),
        but(messages=(*ASKED.messages, *ASKED.messages)), but(max_tokens=65), but(temperature=0.9), but(seed=6),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    same = ({"content": "2 + 2", "role": "user"},)
    assert but(messages=same, temperature=1) == digest("http://a/v1/", "m", ASKED) == but()
    assert but(messages=({"role": "user", "content": "\ud800"},))  # what no UTF-8 can hold


def test_an_answer_is_on_the_disk_before_record_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    with Ledger(path) as ledger:
        synced.clear()
        ledger.record(paid())
        assert synced == [len(paid().line())]


def test_a_full_disk_stops_the_run_and_the_next_start_mends_the_file(path, monkeypatch):
    with Ledger(path) as ledger:
        ledger.record(paid("a"))
        whole, write = path.read_bytes(), os.write

        def full(handle, data):
            if len(data) < 40:
                raise OSError(28, "No space left on device")
            return write(handle, data[:-20])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(Stopped, match="No space left on device, attempt/1/0 was paid for and is lost") as error:
            ledger.record(paid("b"))
        assert error.value.code == 3
        monkeypatch.undo()
        with pytest.raises(Stopped, match="is closed"):  # or the next line would stand behind half a one
            ledger.record(paid("c"))
    with Ledger(path) as ledger:
        assert path.read_bytes() == whole and len(ledger) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigError, match="Is a directory; expected a writable file of paid responses"):
        Ledger(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a writable file of paid responses"):
        Ledger(tmp_path / "file" / "below")

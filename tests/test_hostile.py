# SPDX-License-Identifier: Apache-2.0
"""What a user or a downloaded file can do to break a run: each ends as one short line that a terminal only shows.

What single modules refuse stands in their own tests: rows of files in test_rows.py and test_problems.py, folders of
weights in test_convert_bad.py and weights/test_safetensors_files.py, of tokenizers in text/test_huggingface.py, escapes
from the sandbox in test_chat.py, answers that hang in test_verifier.py, text in the report in reports/test_run_page.py.
Here is what cuts across.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hf_folders import CHATS, QWEN, byte_level, change, write
from rich.console import Console
from weight_folders import parts, raw
from weight_folders import write as write_weights

from t1jax import main
from t1jax.config import ConfigError
from t1jax.host import command_line
from t1jax.host.progress import Progress
from t1jax.reports.page import escape
from t1jax.tasks.files import rows
from t1jax.tasks.files.rows import read_rows
from t1jax.text import sandbox
from t1jax.text.chat import ChatTemplate
from t1jax.text.huggingface import HFTokenizer
from t1jax.typed import inert
from t1jax.weights import safetensors_files

ROOT = Path(__file__).parent.parent
COMMANDS = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202egnp.\u2028\x85"  # clear, title, colour, overwrite, direction
ODD_PLACE = "my runs/数学 é ½ #1 %20 ? [x]"


# problem files


def test_a_row_group_that_unpacks_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"problem": ["x" * 2**20], "answer": ["1"]}), path, compression="zstd")
    assert path.stat().st_size < 10_000
    assert len(list(read_rows(str(path)))) == 1
    monkeypatch.setattr(rows, "MAX_GROUP", 2**20)
    with pytest.raises(ConfigError, match=r"row group 0 has \d+ bytes unpacked; expected at most 1048576"):
        next(read_rows(str(path)))


GIGABYTE = 2**30
FILES = {  # name, first bytes, what is said
    "zeros.jsonl": (b"", "longer than 67108864 bytes"),
    "object.jsonl": (b'{"problem": "', "longer than 67108864 bytes"),
    "array.json": (b'[{"problem": "', "a JSON array of more than 536870912 bytes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_line_of_a_gigabyte_is_refused_in_bounded_memory(tmp_path, name):
    """The quick form is test_rows.py::test_what_would_fill_the_memory_is_refused, with smaller limits."""
    first, says = FILES[name]
    with open(tmp_path / name, "wb") as file:
        file.write(first)
        file.truncate(GIGABYTE)  # sparse: nothing but holes
    code = (
        "import resource, sys\n"
        "from t1jax.config import ConfigError\n"
        "from t1jax.tasks.files.rows import read_rows\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    next(read_rows(sys.argv[1]))\n"
        "except ConfigError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / name)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    said, kilobytes = done.stdout.splitlines()
    assert says in said
    assert int(kilobytes) < (0.7 if name == "array.json" else 0.2) * GIGABYTE / 1024


# chat templates

WASTEFUL = {
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops over nothing": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a loop that calls itself": "{% for a in [[]] recursive %}{% if a is iterable %}{% for b in range(99999) %}"
    "{% for c in range(99) %}{{ loop.index }}{% endfor %}{% endfor %}{{ loop([[]]) }}{% endif %}{% endfor %}",
    "inside a loop that calls itself": "{% for a in [''] recursive %}{% if a is string %}{% set again = loop %}"
    "{% for b in range(9999) %}{% set c = again(range(99999)) %}{% endfor %}{% endif %}{% endfor %}",
    "times": "{{ 'a' * 10**10 }}",
    "times the other way": "{{ 10**10 * 'a' }}",
    "list": "{{ ([0] * 10**9)|length }}",
    "power": "{{ 9 ** (9 ** (9 ** 9)) }}",
    "squares": "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "sums": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "joins": "{% set x = 'a' %}" + "{% set x = x ~ x %}" * 60,
    "method": "{{ 'a'.ljust(10**10) }}",
    "filter": "{{ 'a'|center(10000000000) }}",
    "named": "{{ messages|tojson(indent=10**10) }}",
    "much work a step": "{% set x = 'a' * 10**7 %}{% for i in range(9999) %}{% set y = x ~ i %}{% endfor %}",
    "filters": "{% set x = 'a' * 10**7 %}{% for i in range(9999) %}{% set y = x|upper %}{% endfor %}",
    "lorem ipsum": "{{ lipsum(n=10**6) }}",
}


@pytest.mark.parametrize("name", WASTEFUL)
def test_a_template_that_wastes_time_or_memory_is_refused(name, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_STEPS", 20_000)
    with pytest.raises(ConfigError, match="chat.jinja: .*(SecurityError|'lipsum' is undefined)"):
        ChatTemplate(WASTEFUL[name], "chat.jinja").render(CHATS["one"], {}, True)


def test_a_long_chat_is_far_from_the_limit_and_each_rendering_has_its_own():
    template = ChatTemplate(QWEN, "chat.jinja")
    turns = [{"role": role, "content": "x" * 500} for _ in range(250) for role in ("user", "assistant")]
    steps = []
    for _ in range(2):
        assert template.render(turns, {}, True).count("<|im_start|>") == 502
        steps.append(template._environment._thread.steps)
    assert 500 < steps[0] == steps[1] < sandbox.MAX_STEPS / 20


def test_numbers_and_loops_are_still_jinjas():
    template = "{% for x in range(3) %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}|"
    template += "{{ 3 * 5000 * 5000 }}|{{ 2 ** 10 }}|{{ 'ab' * 2 }}|{{ 'a' ~ 1 }}|{{ 'é'|center(3) }}|{{ 1 + 2 }}"
    assert ChatTemplate(template, "f").render(CHATS["one"], {}, True) == "1/3,2/3,3/3|75000000|1024|abab|a1| é |3"


# files of tokenizers and weights

SPOILT = [None, True, -1, 2**64, 10**400, float("nan"), "", "\x1b[2J", "x" * 10_000, [], {}, [[]], ["\ud800"], {"a": 1}]


def places(tree: object, at: tuple = ()) -> list[tuple]:
    """Where in a JSON tree something stands; of lists the first few."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:4]) if isinstance(tree, list) else ()
    return [place for key, value in items for place in [(*at, key), *places(value, (*at, key))]]


def spoil(path: Path, rng: random.Random) -> None:
    """One value of the JSON file replaced, or a few bytes."""
    content = path.read_bytes()
    if rng.random() < 0.3:
        spoilt = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        path.write_bytes(spoilt)
        return
    tree = json.loads(content)
    *parents, last = rng.choice(places(tree))
    node = tree
    for key in parents:
        node = node[key]
    node[last] = rng.choice(SPOILT)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_spoilt_tokenizer_works_or_is_refused(tmp_path, name, capfd):
    whole = write(tmp_path / "whole", byte_level(), {"eos_token_id": [282]}, chat_template=QWEN)
    change(whole, "tokenizer_config.json", added_tokens_decoder={"282": {"content": "<|im_end|>"}})
    HFTokenizer(whole)
    refused, rng = 0, random.Random(name)
    for _ in range(120):
        shutil.copytree(whole, tmp_path / "folder")
        spoil(tmp_path / "folder" / name, rng)
        try:
            found = HFTokenizer(tmp_path / "folder")
            found.decode(found.encode("2 + 3 <|im_end|> é"))
            found.chat(CHATS["one"])
        except ConfigError as error:
            refused += 1
            assert len(str(error)) < 1000
        shutil.rmtree(tmp_path / "folder")
    assert refused > 10


DIGITS = b"1" + b"0" * 4000  # as many as Python reads; a product of two cannot be shown
HEADERS = {
    "product": b'{"a":{"dtype":"F32","shape":[%s,%s],"data_offsets":[0,4]}}' % (DIGITS, DIGITS),
    "many": b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % b",".join([DIGITS] * 1000),
    "axes": b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % b",".join([b"1"] * 1000),
    "offsets": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-%s,%s]}}' % (b"9" * 4300, b"9" * 4300),
    "backwards": b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}',
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_with_absurd_numbers_is_one_short_line(tmp_path, name):
    raw(tmp_path / "model.safetensors", HEADERS[name], b"1234")
    with pytest.raises(ConfigError, match="model.safetensors: tensor 'a' ") as caught:
        safetensors_files.open_tensors(tmp_path)
    assert len(str(caught.value)) < 800


def test_spoilt_safetensors_are_refused(tmp_path):
    write_weights(tmp_path / "hf")
    path, rng = tmp_path / "hf" / "model.safetensors", random.Random(0)
    header, data = parts(path)
    refused = 0
    for _ in range(300):
        (tmp_path / "header").write_text(json.dumps(header))
        spoil(tmp_path / "header", rng)
        raw(path, (tmp_path / "header").read_bytes(), data)
        try:
            assert all(
                isinstance(each.view(), np.ndarray) for each in safetensors_files.open_tensors(tmp_path / "hf").values()
            )
        except ConfigError as error:
            refused += 1
            assert len(str(error)) < 1000
    assert refused > 100


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"added_tokens_decoder": {"9" * 5000: {"content": "<|im_end|>"}}}, "added_tokens_decoder is not a table"),
        ({"eos_token": "\x1b" * 10**6}, "eos_token is "),
        ({"chat_template": [{"name": ["default"], "template": "x"}]}, "expected one 'default'"),
        ({"chat_template": [{"name": str(i), "template": "x"} for i in range(10**4)]}, "expected one 'default'"),
    ],
)
def test_settings_that_are_absurd_are_one_short_line(tmp_path, settings, says):
    write(tmp_path / "folder", byte_level(), {"eos_token_id": [282]}, **settings)
    with pytest.raises(ConfigError, match=says) as caught:
        HFTokenizer(tmp_path / "folder")
    assert len(str(caught.value)) < 400


# what reaches a terminal


def test_inert_text_holds_nothing_that_commands_a_terminal():
    shown = inert(f"a{COMMANDS}é 数 ½ z")
    assert shown.isprintable() and shown.startswith("a\ufffd[2J") and shown.endswith("é 数 ½ z")
    assert not set(COMMANDS) & set(shown) - set("[2J]0;owned31mgp.")


def test_an_error_that_quotes_a_file_is_inert_and_short(tmp_path, capsys):
    template = ChatTemplate("{{ raise_exception(messages[0].content) }}", "chat.jinja")

    def body(argv: list[str]) -> None:
        template.render([{"role": f"user{COMMANDS}", "content": COMMANDS}], {}, True)

    assert command_line.call("t1jax", "", body, ["t1jax"]) == command_line.EXIT_MISTAKE
    said = capsys.readouterr().err
    assert said.endswith("\n") and said[:-1].isprintable() and "refuses messages of user\ufffd[2J" in said

    def long(argv: list[str]) -> None:
        raise ConfigError("x" * 10**6)

    assert command_line.call("t1jax", "", long, ["t1jax"]) == command_line.EXIT_MISTAKE
    assert len(capsys.readouterr().err) < 2100


@pytest.mark.parametrize("terminal", [True, False])
def test_a_note_is_inert(terminal):
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=terminal, color_system=None, width=200)) as progress:
        progress.note(f"file{COMMANDS}.jsonl: 1 row dropped")
    shown = re.sub(r"\x1b\[(\?25[lh]|2K|1A)", "", out.getvalue())  # of the live lines: cursor, line
    assert "file\ufffd[2J" in shown and not set("\x1b\x07\x9b\x08\u202e\u2028\x85") & set(shown)


def test_what_the_report_shows_is_inert():
    """Of whole pages, reports/test_run_page.py."""
    shown = escape(f"<script>{COMMANDS}</script>\"'&")
    assert not set("\x1b\x07\x9b\x08\u202e<>\"'\r") & set(shown)


# configs and places


@pytest.mark.parametrize("text", ["raise SystemExit(0)", "import sys\nsys.exit('bye')", "\0", "é = '\ud800'"])
def test_a_config_that_ends_the_program_or_is_no_text_is_one_line(tmp_path, capsys, text):
    (tmp_path / "mine.py").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert main.main(["t1jax", f"--config={tmp_path / 'mine.py'}"]) == command_line.EXIT_MISTAKE
    said = capsys.readouterr().err
    assert "mine.py: " in said and "expected a get_config() that works" in said and said.count("\n") == 1


def test_places_with_spaces_and_unicode_work(tmp_path, monkeypatch):
    place = tmp_path / ODD_PLACE
    place.mkdir(parents=True)
    (place / "my config é.py").write_text("from configs import tiny\nget_config = tiny.get_config\n", encoding="utf-8")
    (place / "rows é.jsonl").write_text('{"problem": "2+3?", "answer": "5"}\n', encoding="utf-8")
    argv = ["t1jax", f"--config={place / 'my config é.py'}", f"--workdir={place / 'my workdir'}"]
    cfg, workdir, _, _ = main.parse([*argv, f"--config.data.train={place / 'rows é.jsonl'}"])
    assert workdir == place / "my workdir" and cfg.data.train == str(place / "rows é.jsonl")
    assert [row for _, row in read_rows(cfg.data.train)] == [{"problem": "2+3?", "answer": "5"}]
    monkeypatch.chdir(tmp_path)
    assert [number for number, _ in read_rows(os.path.join(ODD_PLACE, "rows é.jsonl"))] == [1]
    write(place / "a model", byte_level(), {"eos_token_id": [282]}, chat_template=QWEN)
    assert HFTokenizer(place / "a model").has_chat
    write_weights(place / "the weights")
    assert safetensors_files.open_tensors(place / "the weights")

# SPDX-License-Identifier: Apache-2.0
"""Chats come out as transformers writes them; a template cannot do more than write text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hf_folders import CHATS, TEMPLATES, byte_level, change, write
from transformers import AutoTokenizer

from t1jax.config import ConfigError
from t1jax.text.huggingface import HFTokenizer


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "model", byte_level(), {"eos_token_id": 282}, chat_template="")


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json", "a list", "chat_template.json"])
def test_the_chat_template_is_found_where_folders_have_it(folder, where):
    change(folder, "tokenizer_config.json", chat_template=None)
    mine, other = "mine {{ messages[0].content }}", "other"
    if where == "chat_template.jinja":  # before all others
        (folder / where).write_text(mine, encoding="utf-8")
        change(folder, "tokenizer_config.json", chat_template=other)
    elif where == "a list":
        named = [{"name": "tool_use", "template": other}, {"name": "default", "template": mine}]
        change(folder, "tokenizer_config.json", chat_template=named)
    else:
        change(folder, where, chat_template=mine)
    found = HFTokenizer(folder)
    assert found.has_chat
    assert found.chat([{"role": "user", "content": "x"}]) == "mine x"
    if where != "chat_template.json":  # which transformers reads for processors only
        theirs = AutoTokenizer.from_pretrained(folder)
        assert theirs.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "mine x"


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_chats_are_those_of_transformers(folder, template, chat, generate):
    change(folder, "tokenizer_config.json", chat_template=TEMPLATES[template], bos_token="<|endoftext|>")
    ours, theirs = HFTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    text = ours.chat(CHATS[chat], generate=generate)
    assert text == theirs.apply_chat_template(CHATS[chat], tokenize=False, add_generation_prompt=generate)
    ids = theirs.apply_chat_template(CHATS[chat], tokenize=True, add_generation_prompt=generate)["input_ids"]
    assert ours.encode(text) == ids


def test_entries_that_are_null_are_absent_for_a_template(folder):
    change(folder, "tokenizer_config.json", chat_template="{{ 'name' in messages[0] }}{{ messages[0].content }}")
    messages = [{"role": "user", "content": "x", "name": None}]
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(messages, tokenize=False)
    assert HFTokenizer(folder).chat(messages) == theirs == "Falsex"


def test_a_run_does_not_change_its_prompts_at_midnight(folder, monkeypatch):
    change(folder, "tokenizer_config.json", chat_template="{{ strftime_now('%s') }}")
    found = HFTokenizer(folder)
    first = found.chat(CHATS["one"])
    monkeypatch.setattr("t1jax.text.chat.datetime", None)
    assert found.chat(CHATS["one"]) == first and int(first) > 1_600_000_000


ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "attr": "{{ (messages|attr('__class__')).__mro__ }}",
    "globals": "{{ raise_exception.__globals__.os }}",
    "code": "{{ raise_exception.__code__.co_code }}",
    "filter": "{{ tojson.__globals__ }}",
    "clock": "{{ strftime_now.__self__.year }}",
    "init": "{{ cycler.__init__.__globals__.os }}",
    "dict": "{{ dict.__class__.__mro__ }}",
    "format": "{{ '{0.__class__.__mro__}'.format(namespace) }}",
    "namespace": "{% set x = namespace(__class__=1) %}",
    "set": "{% set x = namespace() %}{% set x._a = 1 %}",
    "change": "{{ messages.append(1) }}",
    "unbound": "{{ dict.update(messages[0], role='system') }}",
    "clear": "{{ messages[0].clear() }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.system('true') }}",
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_cannot_leave_the_sandbox(folder, escape):
    change(folder, "tokenizer_config.json", chat_template=ESCAPES[escape])
    with pytest.raises(ConfigError, match="tokenizer_config.json: the chat template refuses .*Error: ") as caught:
        HFTokenizer(folder).chat(CHATS["one"])
    assert "\n" not in str(caught.value)


BAD_TEMPLATES = {
    "{% if %}": "line 1",
    "{{ 1\n +* 2 }}": "line 2",
    "{% for m in messages %}": "line 1",
    "{{ raise_exception('only\n users') }}": "refuses messages of user: only users",
    "{{ messages[3].content.x }}": "UndefinedError",
    "{{ messages[0].content + 1 }}": "TypeError",
    "{{ 1 // 0 }}": "ZeroDivisionError",
    "{% for i in range(1000000) %}{% endfor %}": "OverflowError",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "RecursionError",
    "{% for i in range(90000) %}{% for j in range(9) %}" + "x" * 99 + "{% endfor %}{% endfor %}": "characters came out",
    "x" * (2**20 + 1): "at most 1048576",
}


@pytest.mark.parametrize("template", BAD_TEMPLATES, ids=range(len(BAD_TEMPLATES)))
def test_a_bad_template_is_one_line(folder, template):
    change(folder, "tokenizer_config.json", chat_template=template)
    with pytest.raises(ConfigError, match=f"tokenizer_config.json: .*{BAD_TEMPLATES[template]}") as caught:
        HFTokenizer(folder).chat(CHATS["one"])
    assert "\n" not in str(caught.value)


def test_no_template_is_an_error_only_for_who_asks_for_a_chat(folder):
    change(folder, "tokenizer_config.json", chat_template=None)
    found = HFTokenizer(folder)
    assert not found.has_chat
    with pytest.raises(ConfigError, match=r"no chat template; set data\.chat to False"):
        found.chat(CHATS["one"])

# SPDX-License-Identifier: Apache-2.0
"""Chat templates in their own process: as in this one, once each, and no template takes the machine down."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hf_folders import QWEN

from t1jax.config import ConfigError
from t1jax.text import rendering
from t1jax.text.chat import ChatTemplate
from t1jax.text.rendering import Renderer

ROOT = Path(__file__).parents[2]
ASK = [{"role": "user", "content": "2 + 3 é \ud800"}]
GREEDY = {
    "memory in one call": "{{ ('x' * 10**6).join(messages[0].content.split(',')) }}",
    "memory in a filter": "{{ ('a' * 10**7) | replace('a', 'b' * 10**7) }}",
}


def test_the_text_is_that_of_the_template_in_this_process():
    here, there = ChatTemplate(QWEN, "f"), Renderer(QWEN, "f")
    for generate in (True, False):
        assert there.render(ASK, {"bos_token": "<s>"}, generate) == here.render(ASK, {"bos_token": "<s>"}, generate)
    assert Renderer("{{ bos_token }}", "f").render(ASK, {"bos_token": "<s>"}, True) == "<s>"


@pytest.mark.parametrize("source", ["{% if %}", "x" * (2**20 + 1), "{{ raise_exception('no') }}", "{{ 1 // 0 }}"])
def test_the_errors_are_those_of_the_template_in_this_process(source):
    said = []
    for kind in (ChatTemplate, Renderer):
        with pytest.raises(ConfigError) as caught:
            kind(source, "f").render(ASK, {}, True)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("name", GREEDY)
def test_a_template_that_takes_all_memory_at_once_is_refused_and_the_next_is_rendered(name):
    content = ",".join(["y"] * 10_000)  # 10 GB by the join
    with pytest.raises(ConfigError, match=r"f: .*(MemoryError|SecurityError|more than)"):
        Renderer(GREEDY[name], "f").render([{"role": "user", "content": content}], {}, True)
    assert Renderer("{{ messages[0].role }}", "f").render(ASK, {}, True) == "user"


def test_a_template_that_takes_too_long_is_killed_and_the_next_is_rendered(monkeypatch):
    monkeypatch.setattr(rendering, "PROGRAM", "from t1jax.text import rendering as r; r.SECONDS = 0.3; r.serve()")
    rendering._process.close()
    slow = "{% for i in range(99999) %}{{ messages[0].content | wordcount }}{% endfor %}"
    with pytest.raises(ConfigError, match="f: a chat template that takes more than"):
        Renderer(slow, "f").render([{"role": "user", "content": "a b " * 10**6}], {}, True)
    assert Renderer("{{ messages[0].role }}", "f").render(ASK, {}, True) == "user"
    rendering._process.close()


def test_a_chat_is_rendered_once_and_the_clock_stands_still_also_in_a_new_process(monkeypatch):
    clock = Renderer("{{ strftime_now('%s %f') }}{{ messages[0].content }}", "f")
    first = clock.render(ASK, {}, True)
    assert clock.render([{"role": "user", "content": "other"}], {}, True)[:10] == first[:10]
    rendering._process.close()
    assert clock.render([{"role": "user", "content": "third"}], {}, True)[:17] == first[:17]
    monkeypatch.setattr(rendering._process, "ask", None)
    assert clock.render(ASK, {}, True) == first
    monkeypatch.undo()
    monkeypatch.setattr(rendering, "KEPT", 40)
    for number in range(20):
        clock.render([{"role": "user", "content": str(number)}], {}, True)
    assert len(clock._kept) < 3


def test_threads_get_their_own_answers():
    template = Renderer("{{ messages[0].content }}", "f")

    def ask(number: int) -> str:
        return template.render([{"role": "user", "content": f"{number} " * 10_000}], {}, True)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(64))) == [f"{number} " * 10_000 for number in range(64)]


def test_the_process_ends_with_the_one_that_asks():
    code = (
        "from t1jax.text import rendering\n"
        "rendering.Renderer('x', 'f')\nprint(rendering._process._process.pid, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    child, until = int(done.stdout), time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < until
        os.sched_yield()
        time.sleep(0.05)

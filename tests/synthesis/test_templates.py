# SPDX-License-Identifier: Apache-2.0
"""Templates are filled in once, whatever the texts hold, and each names exactly what it may name."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from t1jax.synthesis import prompts


def text_of(name):
    return (resources.files("t1jax.synthesis") / "templates" / prompts.VERSION / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", prompts.FIELDS)
def test_each_template_names_all_of_its_fields_and_no_other(name):
    assert set(re.findall(r"\{([a-z_]+)\}", text_of(name))) == prompts.FIELDS[name]
    assert all(char.isascii() and (char.isprintable() or char == "\n") for char in text_of(name))


def test_there_is_no_template_that_nobody_reads():
    files = {path.name for path in (resources.files("t1jax.synthesis") / "templates" / prompts.VERSION).iterdir()}
    assert files == {f"{name}.txt" for name in prompts.FIELDS}


def test_what_is_filled_in_is_not_looked_at_again():
    nasty = "\\frac{1}{2} {gold} {attempt} {0} {problem!r} \\g<0> \\1 {{}}"
    shown = prompts.render("critic_wrong", problem=nasty, gold="GOLD", attempt="ATTEMPT", answer="{problem}")
    assert nasty in shown and shown.count("GOLD") == shown.count("ATTEMPT") == 1
    assert "Its final answer is: {problem}\n" in shown


def test_a_field_without_a_value_is_an_error():
    with pytest.raises(KeyError, match="gold"):
        prompts.render("critic_wrong", problem="p", attempt="a", answer="1")


def test_the_critic_of_a_right_attempt_and_the_rewriter_are_not_told_the_answer():
    assert "gold" not in prompts.FIELDS["critic_right"] | prompts.FIELDS["rewrite"] | prompts.FIELDS["attempt"]


def test_the_digest_is_of_every_templates_text(monkeypatch):
    digests = {prompts.digest()}
    original = prompts._text
    for changed in prompts.FIELDS:
        monkeypatch.setattr(prompts, "_text", lambda name, c=changed: original(name) + "." * (name == c))
        prompts.digest.cache_clear()
        digests.add(prompts.digest())
    prompts.digest.cache_clear()
    assert len(digests) == 1 + len(prompts.FIELDS)

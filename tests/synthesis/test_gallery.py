# SPDX-License-Identifier: Apache-2.0
"""The page of chains: what it shows, that nothing in it comes to life, and how it looks in a browser."""

from __future__ import annotations

import browser
import pytest
from scribes import TEXTS, Failure, but, run, script

from t1jax.synthesis import gallery, record

NASTY = "<script>alert(1)</script> <img src=http://127.0.0.1:9/x> \x1b[31m \u202e & " + "long" * 200


def nasty(key, message):
    said = script(key, message)
    return said if isinstance(said, Failure) or not key.startswith("attempt") else f"{NASTY}\n{said}"


def page_of(say):
    stories, _ = run(say)
    return gallery.render(stories, record.summary(stories, "v1 abc", 0)), stories


def test_attempts_have_the_colour_of_their_verdict_and_lie_beside_their_chain():
    page, stories = page_of(but("rewrite", "\\boxed{41}"))
    assert page.count('data-verdict="wrong"') == 6 and page.count('data-verdict="right"') == 3
    wrong = page.index(TEXTS[1]["wrong"].partition("\\boxed")[0])
    assert page.rindex("data-verdict", 0, wrong) == page.rindex('data-verdict="wrong"', 0, wrong)
    assert "no reasoning before the answer" in page and "2</div>" in page
    for story in stories[1:]:
        assert story.response.splitlines()[1].replace("&", "&amp;") in page


def test_nothing_that_a_model_wrote_is_more_than_text():
    page, _ = page_of(nasty)
    assert "<script" not in page and "<img" not in page and "\x1b" not in page and "\u202e" not in page
    assert "&lt;script&gt;" in page and "default-src 'none'" in page


def test_a_run_without_any_chain_has_a_page():
    page, _ = page_of(lambda key, message: Failure("nobody there"))
    assert "None." in page and "a request was given up" in page and ">–<" in page


@browser.needs_browser
@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)])
def test_the_page_fits_the_window_and_asks_nobody(tmp_path, width, dark):
    path = tmp_path / "chains.html"
    path.write_text(page_of(nasty)[0])
    with browser.opened(path, width=width, dark=dark) as page:
        page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.overflow(page) == 0
        assert browser.requests_of(page) == [] and browser.complaints(page) == []
        cards = page.find_elements("css selector", "[data-verdict]")
        assert len(cards) == 9 and all(card.is_displayed() and card.size["height"] > 50 for card in cards)
        colours = {c.get_attribute("data-verdict"): c.value_of_css_property("border-top-color") for c in cards}
        assert len(set(colours.values())) == 2

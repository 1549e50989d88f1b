# SPDX-License-Identifier: Apache-2.0
"""The page to read responses in, as a person meets it in Chromium: filters count, keys move, texts do nothing."""

from __future__ import annotations

import json
import re

import browser
import pytest
import responses_files as made

from t1jax import analyze
from t1jax.behaviour import records as embedded
from t1jax.reports.page import visible

pytestmark = browser.needs_browser

HOSTILE = (
    "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>",
    "<!--<script>\u2028\u202egnp.exe\u0000\x1b[2J \ud800 ]]>",
    "__proto__ javascript:alert(1) ${document.title='owned'}",
    "x" * 100_000,
    "<svg onload=document.title='owned'> 1+1=2, need 5: yes\n" * 200,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a run whose cold start also said what should do nothing."""
    folder = made.workdir(
        tmp_path_factory.mktemp("run") / "<b>run",
        [made.row(100 + i, text, "sft", 0, overlong=True) for i, text in enumerate(HOSTILE)],
    )
    analyze.analyze(folder, folder)
    return folder / "behaviour.html"


@pytest.fixture(scope="module")
def opened(written):
    with browser.opened(written) as page:
        yield page


@pytest.fixture
def page(opened):
    """The page as it is when it is opened."""
    opened.execute_script("location.hash = ''; document.getElementById('clear').click(); document.activeElement.blur()")
    opened.execute_script("state.at = shown[0]; show()")
    return opened


@pytest.fixture(scope="module")
def records(written):
    """What the page holds."""
    (data,) = re.findall(r'id="data">(.*?)</script>', written.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(data)


def count(page):
    return page.find_element("id", "count").text


def press(page, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(page).send_keys(key).perform()


def chip(page, facet, name):
    return next(
        c for c in page.find_elements("css selector", f"#{facet} .chip") if c.text.rsplit("\n", 1)[0].startswith(name)
    )


def times(page, facet, name):
    return int(chip(page, facet, name).find_element("css selector", ".times").text)


def chosen(page):
    return page.execute_script("return idOf(state.at)")


def test_nothing_is_asked_of_a_network_and_nothing_complains(opened):
    assert browser.requests_of(opened) == [] and browser.complaints(opened) == []
    assert opened.title == "<b>run: behaviour"
    assert opened.find_element("tag name", "h1").text == "<b>run"


def test_all_responses_are_there_at_first(page):
    assert count(page) == "115 of 115 responses"
    assert chosen(page) == "sft-000000:0"
    assert page.find_element("css selector", "#reader h3").text == "Problem 0"


def test_filters_count_what_they_leave(page, records):
    """Every chip promises the number of responses that are left when it is pressed."""
    right = sum(record["o"] == 0 for record in records["records"])
    assert times(page, "outcome", "right") == right
    chip(page, "outcome", "right").click()
    assert count(page) == f"{right} of 115 responses"
    promised = times(page, "habit", "recovers")
    chip(page, "habit", "recovers").click()
    assert count(page).startswith(f"{promised} of")
    both = [r for r in records["records"] if r["o"] == 0 and r["h"] >> records["habits"].index("recovers") & 1]
    assert promised == len(both) > 0
    promised = times(page, "stop", "verified")
    chip(page, "stop", "verified").click()
    assert count(page).startswith(f"{promised} of")
    assert page.find_element("id", "strip").text.startswith("100.0 % right")
    assert chip(page, "outcome", "right").get_attribute("aria-pressed") == "true"
    chip(page, "outcome", "wrong").click()  # right or wrong
    assert int(count(page).split()[0]) == sum(
        r["s"] == records["stops"].index("verified") and r["h"] >> records["habits"].index("recovers") & 1 == 1
        for r in records["records"]
        if records["outcomes"][r["o"]] != "unscorable"
    )


def test_an_evaluation_and_a_text_can_be_asked_for(page):
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("id", "evaluation")).select_by_visible_text("rl-000003")
    assert count(page) == "15 of 115 responses" and chosen(page).startswith("rl-000003:")
    Select(page.find_element("id", "evaluation")).select_by_visible_text("all")
    page.find_element("id", "search").send_keys("ONERROR=")
    assert count(page) == "1 of 115 responses" and chosen(page) == "sft-000000:40"
    page.find_element("id", "search").send_keys(" no such text")
    assert count(page) == "0 of 115 responses" and "No response passes" in page.find_element("id", "strip").text
    page.find_element("id", "clear").click()
    assert count(page) == "115 of 115 responses"


def test_keys_move_through_the_responses(page):
    press(page, "j", "j", "k")
    assert chosen(page) == "sft-000000:1"
    press(page, "G")
    assert chosen(page) == "rl-final:39"
    press(page, "j")
    assert chosen(page) == "rl-final:39"  # there is no next one
    press(page, "k", "g", "\ue015")  # arrow down
    assert chosen(page) == "sft-000000:1"
    row = page.find_element("css selector", "[aria-selected=true]")
    assert row.get_attribute("id") == page.find_element("id", "list").get_attribute("aria-activedescendant")
    assert row.get_attribute("aria-posinset") == "2" and row.get_attribute("aria-setsize") == "115"
    press(page, "s")
    assert chosen(page) == "rl-final:1"  # the same problem after RL
    press(page, "s")
    assert chosen(page) == "sft-000000:1"


def test_the_chosen_row_is_always_in_sight(page):
    press(page, "G")
    inside = """const row = document.querySelector('[aria-selected=true]').getBoundingClientRect(),
      list = document.getElementById('list').getBoundingClientRect();
      return row.top >= list.top - 1 && row.bottom <= list.bottom + 1"""
    assert page.execute_script(inside)
    press(page, *"kkk", "g")
    assert page.execute_script(inside)
    assert len(page.find_elements("css selector", ".row")) < 60  # of 115: only what is seen is drawn


def test_keys_reach_search_filters_and_help(page):
    press(page, "/")
    assert page.switch_to.active_element.get_attribute("id") == "search"
    press(page, "j")  # now a letter
    assert page.find_element("id", "search").get_attribute("value") == "j" and chosen(page) == "sft-000000:41"
    press(page, "\ue00c")  # escape
    assert page.switch_to.active_element.get_attribute("id") == "list"
    press(page, "c")
    assert count(page) == "115 of 115 responses"
    press(page, "f")
    assert page.switch_to.active_element.get_attribute("id") == "evaluation"
    press(page, "\ue00c", "?")
    assert page.find_element("id", "help").is_displayed()
    before = chosen(page)
    press(page, "j")
    assert chosen(page) == before  # help is in front
    press(page, "\ue00c")
    assert not page.find_element("id", "help").is_displayed()


def test_an_address_brings_the_view_back(page, written):
    chip(page, "outcome", "right").click()
    page.find_element("id", "search").send_keys("check ")
    press(page, "\ue00c", "j", "j")
    address, text, wanted = page.current_url, count(page), chosen(page)
    assert "o=right" in address and "q=check" in address
    with browser.opened(address) as other:
        assert (count(other), chosen(other)) == (text, wanted)
        assert chip(other, "outcome", "right").get_attribute("aria-pressed") == "true"
        other.execute_script("location.hash = 'e=nowhere&o=constructor&b=__proto__&r=x:1'")
        other.execute_async_script("setTimeout(arguments[0], 50)")
        assert count(other) == "115 of 115 responses"  # an address that means nothing filters nothing
        assert browser.complaints(other) == []


def test_hostile_texts_are_shown_and_do_nothing(page):
    for number, text in enumerate(HOSTILE):
        page.execute_script("go(data.records.find(r => idOf(r) === arguments[0]))", f"sft-000000:{40 + number}")
        shown = page.execute_script(
            "return [...document.querySelectorAll('#reader .line')].map(l => l.textContent).join('\\n')"
        )
        assert shown == visible(text.rstrip("\n"))
        assert page.find_elements("css selector", "#reader img, #reader script, #reader svg") == []
        assert browser.overflow(page) <= 0
    assert page.title == "<b>run: behaviour"
    assert page.execute_script("return document.scripts.length") == 2
    assert browser.requests_of(page) == [] and browser.complaints(page) == []


def test_another_script_would_not_run(written, tmp_path):
    """Were a text ever to break out, the policy would still stop it."""
    path = tmp_path / "broken.html"
    text = written.read_text(encoding="utf-8")
    path.write_text(text.replace("</main>", "<script>document.title='owned'</script></main>"), encoding="utf-8")
    with browser.opened(path) as page:
        assert page.title == "<b>run: behaviour"
        assert any("Content Security Policy" in said for said in browser.complaints(page))


@pytest.mark.parametrize("width, dark", [(360, False), (1280, True)])
def test_it_fits_a_phone_and_the_dark(written, width, dark):
    with browser.opened(written, width=width, dark=dark) as page:
        page.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
        for number in (0, 43):  # 43: a line of 100 kB
            page.execute_script("go(data.records.find(r => idOf(r) === arguments[0]))", f"sft-000000:{number}")
            assert browser.overflow(page) <= 0
        colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 200) == dark
        pictures = page.find_elements("css selector", "#figures img")
        assert len(pictures) == 6
        assert all(page.execute_script("return arguments[0].naturalWidth", one) > 400 for one in pictures)


def test_running_text_has_its_words_marked(tmp_path):
    text = "It is 41. Wait, that's wrong.\nLet me verify: \\boxed{42}"
    made.journal(tmp_path, [(text, "right"), ("No idea.", "wrong")])
    analyze.analyze(tmp_path, tmp_path)
    with browser.opened(tmp_path / "behaviour.html") as page:
        marks = page.find_elements("css selector", "#reader .mark")
        assert [mark.text for mark in marks] == ["Wait", "that's wrong", "Let me verify", "\\boxed{42}"]
        assert page.find_element("css selector", "#reader .ask").text == "What is 6 times 7?"
        press(page, "s")
        assert chosen(page) == "kept.responses:1"  # the other response to the problem


def test_what_there_is_no_room_for_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "MOST", 4 * 1500)
    monkeypatch.setattr(analyze, "pictures", lambda summaries: [])
    folder = made.workdir(tmp_path / "run")
    analyze.analyze(folder, folder)
    with browser.opened(folder / "behaviour.html") as page:
        lead = page.find_element("css selector", "header .lead").text
        kept = int(count(page).split()[0])
        told = [int(number) for number in re.findall(r"its first (\d+) of", lead)]
        assert 4 <= kept < 110 and "Sft-000000: its first" in lead and "of 40 responses are on this page" in lead
        assert sum(told) == kept

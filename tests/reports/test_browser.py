# SPDX-License-Identifier: Apache-2.0
"""The report in a headless Chromium: fits every width, draws every chart, shows the right values, asks nobody."""

from __future__ import annotations

import json
from contextlib import contextmanager

import browser
import pytest
from made_up import write_run

from t1jax import report
from t1jax.host import metrics

pytestmark = browser.needs_browser
EMPTY = """
return [...document.querySelectorAll("figure.chart")].filter((figure) => {
  if (figure.closest("details:not([open])")) return false;
  const lines = [...figure.querySelectorAll("path.line, path.thin")];
  const area = figure.querySelector(".area").getBoundingClientRect();
  return !lines.some((line) => {
    const box = line.getBoundingClientRect();
    return line.getTotalLength() > 0 && line.getAttribute("d").includes("L") && box.width > 0.5 * area.width &&
      getComputedStyle(line).stroke !== "none";
  }) || lines.some((line) => {
    const box = line.getBoundingClientRect();
    return box.left < area.left - 3 || box.right > area.right + 3 || box.top < area.top - 3 ||
      box.bottom > area.bottom + 3;
  });
}).map((figure) => figure.id);
"""
SMALL_LETTERS = """
return [...document.querySelectorAll("figure.chart *")].filter((part) =>
  part.childElementCount === 0 && part.textContent.trim() && !["SCRIPT"].includes(part.tagName) &&
  parseFloat(getComputedStyle(part).fontSize) < 11).length;
"""
TOUCHING = """
let found = 0;
for (const area of document.querySelectorAll(".area")) {
  const labels = [...area.querySelectorAll(".gx")].map((label) => label.getBoundingClientRect());
  const shown = labels.filter((box) => box.width).sort((a, b) => a.left - b.left);
  for (let i = 1; i < shown.length; i++) found += shown[i].left < shown[i - 1].right + 2;
}
return found;
"""
PLACE = """
const area = document.querySelector("#chart-" + arguments[0] + " .area");
area.scrollIntoView({ block: "center" });
const box = area.getBoundingClientRect();
return [box.left + arguments[1] * box.width, box.top + box.height / 2];
"""
LINES_OF = """
const lines = [...document.querySelectorAll(".chart g")].filter((line) => line.dataset.run === arguments[0]);
return lines.filter((line) => line.getBoundingClientRect().width).length;
"""
STATE = """
const figure = document.getElementById("chart-" + arguments[0]), cross = figure.querySelector(".cross");
const area = figure.querySelector(".area").getBoundingClientRect();
const shown = (part) => part.getClientRects().length > 0;
return {
  at: figure.querySelector(".at").textContent,
  values: [...figure.querySelectorAll(".readout b")].filter(shown).map((value) => value.textContent),
  cross: cross && shown(cross) ? (cross.getBoundingClientRect().left - area.left) / area.width : null,
  dots: [...figure.querySelectorAll(".dot")].filter(shown).length,
  said: figure.querySelector(".plot").getAttribute("aria-valuetext"),
};
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    names = ("first", "second-with-a-long-name-that-must-be-cut-somewhere", "open")
    write_run(folder / names[0], cold=900)
    write_run(folder / names[1], cold=5, after=70.0, steps=30, rl__temperature=1.0)
    write_run(folder / names[2], cold=5, steps=10, finished=False)
    assert report.main(["report", str(folder / "first"), f"--out={folder}/run.html"]) == 0
    assert report.main(["report", *(str(folder / name) for name in names), f"--out={folder}/compared.html"]) == 0
    return folder


@pytest.fixture(scope="module")
def driver(pages):
    with browser.opened(pages / "run.html") as page:
        yield page


@contextmanager
def showing(page, path, *, width=1280, dark=False, script=True):
    """The page at `path` in a window of that width, in the browser that is open already."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    media = [{"name": name, "value": value} for name, value in features.items()]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    page.get(path.as_uri())
    yield page
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def hover(page, chart, share):
    """Moves the pointer over a chart, `share` of its width from the left; returns what it shows then."""
    x, y = page.execute_script(PLACE, chart, share)
    page.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
    return page.execute_script(STATE, chart)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, pytest.param(768, marks=pytest.mark.slow), 1280])
@pytest.mark.parametrize("name", ["run", "compared"])
def test_the_page_fits_draws_all_charts_and_asks_nobody(driver, pages, name, width, dark):
    with showing(driver, pages / f"{name}.html", width=width, dark=dark) as page:
        page.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert browser.overflow(page) == 0
        assert page.execute_script("return document.querySelectorAll('figure.chart').length") >= 9
        assert page.execute_script(EMPTY) == []
        assert page.execute_script(SMALL_LETTERS) == 0 and page.execute_script(TOUCHING) == 0
        paper = page.execute_script("return getComputedStyle(document.querySelector('section')).backgroundColor")
        assert paper == ("rgb(23, 28, 36)" if dark else "rgb(255, 255, 255)")
        assert browser.requests_of(page) == [] and browser.complaints(page) == []


def test_pointing_at_a_step_shows_its_values_in_all_charts(driver, pages):
    rows = {row["step"]: row for row in metrics.read_rows(pages / "first") if row["stage"] == "rl"}
    held_out = next(r for r in metrics.read_rows(pages / "first") if r["stage"] == "evaluate" and r["step"] == 18)
    with showing(driver, pages / "run.html") as page:
        still = page.execute_script(STATE, "rl_reward")
        assert still["at"] == "last" and still["cross"] is None and still["dots"] == 0
        shown = hover(page, "rl_reward", 17 / 35 + 0.01)  # steps 1 .. 36: this is next to step 18
        assert shown["at"] == "step 18" and shown["values"] == [f"{rows[18]['reward']:.3g}"]
        assert shown["cross"] == pytest.approx(17 / 35, abs=0.005) and shown["dots"] == 1
        linked = page.execute_script(STATE, "rl_accuracy")  # its axis begins at 0, before RL
        low, high = 100 * held_out["low"], 100 * held_out["high"]
        assert linked["at"] == "step 18" and linked["cross"] == pytest.approx(18 / 36, abs=0.005)
        assert linked["values"] == [
            f"{100 * rows[18]['accuracy']:.1f} %", f"{100 * held_out['accuracy']:.1f} % [{low:.1f}, {high:.1f}]",
        ]  # fmt: skip
        assert page.execute_script(STATE, "rl_entropy")["at"] == "step 18"
        assert page.execute_script(STATE, "scaling")["cross"] is None  # another group
        assert hover(page, "rl_reward", 0.0)["at"] == "step 1"
        assert page.execute_script(STATE, "rl_accuracy")["values"][1] == "–"  # nothing was held out at step 1
        assert hover(page, "scaling", 1.0)["at"] == "budget 180"
        assert page.execute_script(STATE, "rl_reward") == still


def test_keys_move_through_a_chart_and_say_its_values(driver, pages):
    from selenium.webdriver.common.keys import Keys

    with showing(driver, pages / "run.html") as page:
        plot = page.find_element("css selector", "#chart-rl_entropy .plot")
        page.execute_script("arguments[0].focus()", plot)
        assert page.execute_script(STATE, "rl_entropy")["at"] == "step 36"
        plot.send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
        shown = page.execute_script(STATE, "rl_entropy")
        assert shown["at"] == "step 3" and shown["said"] == f"step 3: {shown['values'][0]}"
        assert page.execute_script(STATE, "rl_reward")["at"] == "step 3"
        plot.send_keys(Keys.PAGE_UP, Keys.ARROW_LEFT, Keys.END, Keys.ARROW_RIGHT)
        assert page.execute_script(STATE, "rl_entropy")["at"] == "step 36"
        plot.send_keys(Keys.ESCAPE)
        assert page.execute_script(STATE, "rl_reward")["at"] == "last"


def test_a_finger_points_too(driver, pages):
    with showing(driver, pages / "run.html", width=360) as page:
        x, y = page.execute_script(PLACE, "rl_reward", 0.99)
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        assert page.execute_script(STATE, "rl_reward")["at"] == "step 36"  # and stays when the finger is gone


def test_the_charts_stand_without_script(driver, pages):
    with showing(driver, pages / "run.html", script=False) as page:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})  # the page's own did not run
        assert page.execute_script(EMPTY) == []
        assert page.execute_script("return document.querySelectorAll('.cross').length") == 0
        assert page.execute_script("return document.querySelector('button.theme').hidden")
        assert page.execute_script(STATE, "rl_reward")["values"] == [
            f"{metrics.read_rows(pages / 'first')[-2]['reward']:.3g}"
        ]


def test_the_button_switches_light_and_dark(driver, pages):
    colour = "return getComputedStyle(document.body).backgroundColor"
    with showing(driver, pages / "run.html", dark=True) as page:
        button = page.find_element("css selector", "button.theme")
        dark = page.execute_script(colour)
        assert button.text == "Light"
        button.click()
        assert page.execute_script(colour) == "rgb(244, 246, 248)" != dark and button.text == "Dark"
        button.click()
        assert page.execute_script(colour) == dark


def test_a_switch_hides_a_run_everywhere(driver, pages):
    with showing(driver, pages / "compared.html") as page:
        assert page.execute_script(LINES_OF, "r1") >= 8
        button = page.find_element("css selector", "button.toggle[data-run=r1]")
        button.click()
        assert page.execute_script(LINES_OF, "r1") == 0 and button.get_attribute("aria-pressed") == "false"
        shown = hover(page, "rl_reward", 0.2)
        assert len(shown["values"]) == 2 and shown["dots"] == 2
        assert "first 0." in shown["said"] and "second" not in shown["said"]
        button.click()
        assert page.execute_script(LINES_OF, "r1") >= 8 and hover(page, "rl_reward", 0.2)["dots"] == 3


def test_a_hostile_script_in_the_page_would_not_run(driver, pages, tmp_path):
    """The policy stands even if escaping failed: another script beside ours stays dead."""
    bad = "document.title = 'owned'"
    text = (pages / "run.html").read_text().replace("<main>", f"<main><script>{bad}</script>")
    text = text.replace("<h1>", f'<h1 onclick="{bad}"><img src=x onerror="{bad}">')
    (tmp_path / "owned.html").write_text(text)
    with showing(driver, tmp_path / "owned.html") as page:
        page.find_element("css selector", "h1").click()
        assert page.title == "T1 run report"
        assert hover(page, "rl_reward", 1.0)["at"] == "step 36"  # ours runs
        browser.complaints(page)


def test_the_data_of_the_page_are_those_of_the_run(driver, pages):
    with showing(driver, pages / "run.html") as page:
        text = page.execute_script("return document.querySelector('#chart-sft_loss script').textContent")
    data = json.loads(text)
    assert len(data["x"]) <= 400 and data["at"][0] == "steps 1–3"
    losses = [row["loss"] for row in metrics.read_rows(pages / "first") if row["stage"] == "sft"]
    assert data["series"][0]["text"][1] == f"{sum(losses[3:6]) / 3:.3g}"

# SPDX-License-Identifier: Apache-2.0
"""What moves on the report: the one script of the page, and the style of charts.

The script adds to charts that stand without it (charts.py): values under the pointer, a finger or the arrow keys, at
the same step in all charts of a group; switches that hide a run; a button for light and dark. It writes text and
positions only, never markup, loads nothing and keeps nothing. page.page names its hash in the page's policy, so that
no other script can run.
Deliberately not here: what the charts show (charts.py, curves.py).
"""

from __future__ import annotations

COLOURS = 6  # of lines of several runs; more runs are dashed

THEME_BUTTON = '<button class="theme" type="button" hidden></button>'

SCRIPT = """
(() => {
"use strict";
const root = document.documentElement;
const all = (where, what) => [...where.querySelectorAll(what)];
const make = (kind, name, into) => {
  const made = document.createElement(kind);
  made.className = name;
  into.append(made);
  return made;
};

const off = new Set();
const charts = all(document, "figure.chart").map((figure) => {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector(".plot"), area = plot.querySelector(".area"), at = figure.querySelector(".at");
  const values = all(figure, ".readout b");
  const still = { at: at.textContent, values: values.map((value) => value.textContent) };
  const cross = make("i", "cross", area);
  const dots = data.series.map((series) => make("b", "dot " + series.colour, area));
  const chart = { data, plot, area, at, values, still, cross, dots, index: null };
  plot.tabIndex = 0;
  plot.setAttribute("role", "slider");
  plot.setAttribute("aria-valuemin", 0);
  plot.setAttribute("aria-valuemax", data.x.length - 1);
  clear(chart);
  return chart;
});

function clear(chart) {
  chart.index = null;
  chart.area.classList.remove("live");
  chart.at.textContent = chart.still.at;
  chart.values.forEach((value, i) => { value.textContent = chart.still.values[i]; });
  chart.plot.setAttribute("aria-valuenow", chart.data.x.length - 1);
  chart.plot.setAttribute("aria-valuetext", chart.still.at + ": " + chart.still.values.join("; "));
}

function show(chart, index) {
  const { data } = chart;
  chart.index = index;
  chart.area.classList.add("live");
  chart.cross.style.left = data.left[index] + "%";
  chart.at.textContent = data.at[index];
  data.series.forEach((series, i) => {
    const text = series.text[index], dot = chart.dots[i];
    chart.values[i].textContent = text === null ? "\\u2013" : text;
    dot.hidden = text === null || off.has(series.run);
    if (!dot.hidden) {
      dot.style.left = data.left[index] + "%";
      dot.style.top = series.top[index] + "%";
    }
  });
  chart.plot.setAttribute("aria-valuenow", index);
  const said = data.series.filter((series) => series.text[index] !== null && !off.has(series.run));
  chart.plot.setAttribute("aria-valuetext", data.at[index] + ": " +
    said.map((series) => (series.label + " " + series.text[index]).trim()).join("; "));
}

function nearest(list, value) {
  let best = 0;
  for (let i = 1; i < list.length; i++) {
    if (Math.abs(list[i] - value) < Math.abs(list[best] - value)) best = i;
  }
  return best;
}

function point(chart, index) {
  const x = chart.data.x[index];
  for (const other of charts) {
    if (other.data.group === chart.data.group) show(other, other === chart ? index : nearest(other.data.x, x));
    else if (other.index !== null) clear(other);
  }
}

function leave() {
  charts.forEach((chart) => { if (chart.index !== null) clear(chart); });
}

for (const chart of charts) {
  const { plot, area, data } = chart;
  const under = (event) => {
    const box = area.getBoundingClientRect();
    point(chart, nearest(data.left, 100 * (event.clientX - box.left) / box.width));
  };
  plot.addEventListener("pointermove", under);
  plot.addEventListener("pointerdown", under);
  plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
  plot.addEventListener("focus", () => { if (chart.index === null) point(chart, data.x.length - 1); });
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const last = data.x.length - 1, now = chart.index === null ? last : chart.index;
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, ArrowDown: now - 1, ArrowUp: now + 1, PageDown: now - 10,
      PageUp: now + 10, Home: 0, End: last }[event.key];
    if (event.key === "Escape") leave();
    else if (to !== undefined) {
      event.preventDefault();
      point(chart, Math.max(0, Math.min(last, to)));
    }
  });
}
document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".plot")) leave(); });

for (const button of all(document, "button.toggle")) {
  button.disabled = false;
  button.addEventListener("click", () => {
    const run = button.dataset.run, hide = !off.has(run);
    off[hide ? "add" : "delete"](run);
    button.setAttribute("aria-pressed", String(!hide));
    for (const part of all(document, "figure.chart [data-run]")) {
      if (part.dataset.run === run) part.classList.toggle("off", hide);
    }
    leave();
  });
}

for (const button of all(document, "button.theme")) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const say = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.setAttribute("aria-label", "switch between light and dark");
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    say();
  });
  system.addEventListener("change", say);
  button.hidden = false;
  say();
}
})();
"""

STYLE = """
.s-before { --c: var(--before); } .s-after { --c: var(--after); }
.s-1 { --c: var(--s1); } .s-2 { --c: var(--s2); } .s-3 { --c: var(--s3); }
.s-4 { --c: var(--s4); } .s-5 { --c: var(--s5); } .s-6 { --c: var(--s6); }
.chart { min-width: 0; }
.charts { gap: 0 22px; } .charts .chart { display: grid; grid-template-rows: subgrid; grid-row: span 5; row-gap: 0;
  grid-template-columns: minmax(0, 1fr); padding-bottom: 26px; align-content: start; }
.readout { display: flex; flex-wrap: wrap; align-items: baseline; align-content: flex-start; gap: 0 14px;
  min-height: 1.6em; font-size: .88rem; }
.readout .at { color: var(--faint); min-width: 5.4em; }
.many { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16.5em), 1fr)); }
.many .at { grid-column: 1 / -1; } .many .key { overflow-wrap: anywhere; }
.key b { display: inline-block; font-weight: 650; }
.swatch { display: inline-block; width: 14px; height: 0; margin-right: 6px; border-top: 3px solid var(--c);
  vertical-align: middle; border-radius: 2px; }
.dashed > .swatch { border-top-style: dashed; border-radius: 0; }
.round > .swatch { width: 9px; height: 9px; border: 0; border-radius: 50%; background: var(--c); }
.dashed.round > .swatch { border: 2px solid var(--c); border-radius: 50%; background: none; }
.plot { position: relative; height: 218px; container-type: inline-size; cursor: crosshair; touch-action: pan-y;
  border-radius: 8px; }
.area { position: absolute; inset: 10px 16px 26px 50px; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot path { fill: none; stroke: var(--c); stroke-width: 2.2px; stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke; }
.plot path.band { fill: var(--c); fill-opacity: .16; stroke: none; } .plot path.raw { stroke-width: 1px; opacity: .38; }
.plot path.thin { stroke-width: 1.4px; opacity: .75; } .plot .dashed path.thin { stroke-dasharray: 2 4; }
.plot path.whisker { stroke-width: 2px; opacity: .55; }
.plot path.dots { stroke-width: 7.5px; } .plot path.hole { stroke-width: 3.5px; stroke: var(--card); }
.plot .dashed path.line { stroke-dasharray: 7 5; }
.gy { position: absolute; left: 0; right: 0; border-top: 1px solid var(--line); }
.gy span { position: absolute; right: calc(100% + 8px); top: -.75em; line-height: 1.5; }
.gx { position: absolute; top: calc(100% + 6px); transform: translateX(-50%); line-height: 1.3; }
.gy span, .gx, .xlabel { font-size: .76rem; font-style: normal; color: var(--faint); white-space: nowrap; }
.xlabel { text-align: right; padding-right: 16px; }
@container (max-width: 390px) { .roomy { display: none; } }
.cross, .dot { position: absolute; display: none; pointer-events: none; }
.live > .cross, .live > .dot:not([hidden]) { display: block; }
.cross { top: 0; bottom: 0; margin-left: -.5px; border-left: 1px solid var(--faint); }
.dot { width: 11px; height: 11px; margin: -5.5px 0 0 -5.5px; border-radius: 50%; background: var(--c);
  border: 2px solid var(--card); }
.dense table { font-size: .86rem; } .dense :is(th, td) { padding: 7px 8px; } .left td { text-align: left; }
.off { display: none; } th .key { display: inline-block; min-width: 8em; }
@media (min-width: 1000px) { th .key { white-space: nowrap; } }
.tall .plot { height: 300px; }
button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 99px;
  padding: 4px 14px; }
button:not(:disabled) { cursor: pointer; } button:not(:disabled):hover { border-color: var(--faint); }
:is(button, .plot, a, summary):focus-visible { outline: 2px solid var(--after); outline-offset: 2px; }
.theme { float: right; font-size: .84rem; color: var(--faint); margin: -4px 0 6px 12px; }
.toggles { display: flex; flex-wrap: wrap; gap: 8px; margin: 0 0 14px; }
.toggle { max-width: 100%; overflow-wrap: anywhere; text-align: left; font-size: .9rem; }
.toggle[aria-pressed="false"] { opacity: .5; text-decoration: line-through; }
.story { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 10px 22px; margin: 8px 0 0; }
.story dt { font-weight: 650; } .story dd { margin: 0; max-width: 80ch; }
.warnings { list-style: none; padding: 0; margin: 16px 0 0; display: grid; gap: 8px; }
.warnings li { border-left: 3px solid var(--big); background: var(--big-soft); border-radius: 0 8px 8px 0;
  padding: 8px 14px; overflow-wrap: anywhere; }
@media (max-width: 620px) { .story { grid-template-columns: minmax(0, 1fr); gap: 2px; } .story dd { margin: 0 0 10px; }
  .many { max-height: 11.5em; overflow-y: auto; } .area { left: 46px; right: 12px; } .tall .plot { height: 250px; } }
@media print { .theme, .cross, .dot { display: none; } }
"""

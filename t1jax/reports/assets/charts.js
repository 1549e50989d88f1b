// SPDX-License-Identifier: Apache-2.0
// Optional interaction: values under the pointer, a finger or the arrow keys, at the same step in all charts of a
// group; buttons that hide a run; a button for light and dark. Writes text and positions, never markup; loads and
// stores nothing.

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
    const plot = figure.querySelector(".plot"),
      area = plot.querySelector(".area"),
      at = figure.querySelector(".at");
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
    chart.values.forEach((value, i) => {
      value.textContent = chart.still.values[i];
    });
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
      const text = series.text[index],
        dot = chart.dots[i];
      chart.values[i].textContent = text === null ? "\u2013" : text;
      dot.hidden = text === null || off.has(series.run);
      if (!dot.hidden) {
        dot.style.left = data.left[index] + "%";
        dot.style.top = series.top[index] + "%";
      }
    });
    chart.plot.setAttribute("aria-valuenow", index);
    const said = data.series.filter((series) => series.text[index] !== null && !off.has(series.run));
    chart.plot.setAttribute(
      "aria-valuetext",
      data.at[index] + ": " + said.map((series) => (series.label + " " + series.text[index]).trim()).join("; "),
    );
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
    charts.forEach((chart) => {
      if (chart.index !== null) clear(chart);
    });
  }

  for (const chart of charts) {
    const { plot, area, data } = chart;
    const under = (event) => {
      const box = area.getBoundingClientRect();
      point(chart, nearest(data.left, (100 * (event.clientX - box.left)) / box.width));
    };
    plot.addEventListener("pointermove", under);
    plot.addEventListener("pointerdown", under);
    plot.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") leave();
    });
    plot.addEventListener("focus", () => {
      if (chart.index === null) point(chart, data.x.length - 1);
    });
    plot.addEventListener("blur", leave);
    plot.addEventListener("keydown", (event) => {
      const last = data.x.length - 1,
        now = chart.index === null ? last : chart.index;
      const to = {
        ArrowLeft: now - 1,
        ArrowRight: now + 1,
        ArrowDown: now - 1,
        ArrowUp: now + 1,
        PageDown: now - 10,
        PageUp: now + 10,
        Home: 0,
        End: last,
      }[event.key];
      if (event.key === "Escape") leave();
      else if (to !== undefined) {
        event.preventDefault();
        point(chart, Math.max(0, Math.min(last, to)));
      }
    });
  }
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".plot")) leave();
  });

  for (const button of all(document, "button.toggle")) {
    button.disabled = false;
    button.addEventListener("click", () => {
      const run = button.dataset.run,
        hide = !off.has(run);
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
    const say = () => {
      button.textContent = dark() ? "Light" : "Dark";
    };
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

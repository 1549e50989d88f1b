// SPDX-License-Identifier: Apache-2.0
// Data, state and filters of the page of responses. filters.js, reader.js and keys.js are inlined as one script.
// Responses become text nodes, never HTML.

"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const FACETS = { outcome: data.outcomes, stop: data.stops, habit: data.habits };
const KEYS = { outcome: "o", stop: "s", habit: "b" };
const COLOURS = { right: "yes", wrong: "no", unscorable: "tag", scored: "tag" };
const MARKS = { right: "✓", wrong: "✗", unscorable: "?", scored: "•" };
const COUNTS = ["attempt", "reflection", "backtrack", "verification", "repeated attempt"];
const ROW = 58;
const number = new Intl.NumberFormat("en");
const state = { evaluation: "", search: "", outcome: new Set(), stop: new Set(), habit: new Set(), at: null };
let shown = [];

function element(name, kind, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

const textOf = (record) =>
  (record.text ??= (
    data.prompts[record.q] +
    "\n" +
    record.x
      .map((line) =>
        line
          .slice(1)
          .map((piece) => (typeof piece === "string" ? piece : piece[1]))
          .join(""),
      )
      .join("\n")
  ).toLowerCase());
const idOf = (record) => data.evaluations[record.e] + ":" + record.i;
const many = (count, word) => number.format(count) + " " + word + (count === 1 ? "" : "s");
const percent = (share) => (100 * share).toFixed(1) + " %";

// Whether a record passes all filters except `but`. Outcomes and endings are alternatives; habits must all hold.
function passes(record, but) {
  return (
    (but === "evaluation" || state.evaluation === "" || record.e === +state.evaluation) &&
    (but === "outcome" || !state.outcome.size || state.outcome.has(record.o)) &&
    (but === "stop" || !state.stop.size || state.stop.has(record.s)) &&
    [...state.habit].every((habit) => habit === but || (record.h >> habit) & 1) &&
    (!state.search || textOf(record).includes(state.search.toLowerCase()))
  );
}

function chip(facet, value, name) {
  const button = element("button", "chip", element("span", "", name), element("span", "times"));
  button.type = "button";
  button.addEventListener("click", () => {
    state[facet].has(value) ? state[facet].delete(value) : state[facet].add(value);
    apply();
  });
  return button;
}

function apply() {
  shown = data.records.filter((record) => passes(record));
  for (const [facet, names] of Object.entries(FACETS)) {
    const others = data.records.filter((record) => facet !== "habit" && passes(record, facet));
    names.forEach((_, value) => {
      const count =
        facet === "outcome"
          ? others.filter((record) => record.o === value).length
          : facet === "stop"
            ? others.filter((record) => record.s === value).length
            : shown.filter((record) => (record.h >> value) & 1).length;
      const button = $(facet).children[value];
      button.lastChild.textContent = number.format(count);
      button.setAttribute("aria-pressed", state[facet].has(value));
      button.classList.toggle("none", !count);
    });
  }
  $("evaluation").value = state.evaluation;
  if ($("search").value !== state.search) $("search").value = state.search;
  $("count").textContent = number.format(shown.length) + " of " + many(data.records.length, "response");
  $("strip").textContent = strip();
  if (!shown.includes(state.at)) state.at = shown[0] ?? null;
  show();
}

function strip() {
  if (!shown.length) return "No response passes these filters. Press c to clear them.";
  const scorable = shown.filter((record) => ["right", "wrong"].includes(data.outcomes[record.o]));
  const right = scorable.filter((record) => data.outcomes[record.o] === "right").length;
  const mean = (value) => (shown.reduce((sum, record) => sum + value(record), 0) / shown.length).toFixed(1);
  return (
    (scorable.length ? percent(right / scorable.length) + " right · " : "") +
    mean((record) => record.t) +
    " tokens · " +
    mean((record) => record.c[0]) +
    " attempts a response"
  );
}

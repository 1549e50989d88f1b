# SPDX-License-Identifier: Apache-2.0
"""Script and style of the page to read responses in (browse.py). Texts become text nodes, never HTML.

The list draws only the rows that are seen. What is chosen stands in the address behind #, so it can be linked to:
e, o, s, b: filters; q: search; r: the response, EVALUATION:NUMBER.
Deliberately not here: the document around them and the data (browse.py), the house's style (page.py).
"""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const FACETS = {outcome: data.outcomes, stop: data.stops, habit: data.habits};
const KEYS = {outcome: "o", stop: "s", habit: "b"};
const COLOURS = {right: "yes", wrong: "no", unscorable: "tag"};
const MARKS = {right: "✓", wrong: "✗", unscorable: "?"};
const COUNTS = ["attempt", "reflection", "backtrack", "verification", "repeated attempt"];
const ROW = 58;
const number = new Intl.NumberFormat("en");
const state = {evaluation: "", search: "", outcome: new Set(), stop: new Set(), habit: new Set(), at: null};
let shown = [];

function element(name, kind, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

const textOf = record => record.text ??= (data.prompts[record.q] + "\n" + record.x.map(line =>
  line.slice(1).map(piece => typeof piece === "string" ? piece : piece[1]).join("")).join("\n")).toLowerCase();
const idOf = record => data.evaluations[record.e] + ":" + record.i;
const many = (count, word) => number.format(count) + " " + word + (count === 1 ? "" : "s");
const percent = share => (100 * share).toFixed(1) + " %";

// whether a record passes all filters but one; of a facet with alternatives any will do, of habits all must hold
function passes(record, but) {
  return (but === "evaluation" || state.evaluation === "" || record.e === +state.evaluation)
    && (but === "outcome" || !state.outcome.size || state.outcome.has(record.o))
    && (but === "stop" || !state.stop.size || state.stop.has(record.s))
    && [...state.habit].every(habit => habit === but || record.h >> habit & 1)
    && (!state.search || textOf(record).includes(state.search.toLowerCase()));
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
  shown = data.records.filter(record => passes(record));
  for (const [facet, names] of Object.entries(FACETS)) {
    const others = data.records.filter(record => facet !== "habit" && passes(record, facet));
    names.forEach((_, value) => {
      const count = facet === "outcome" ? others.filter(record => record.o === value).length
        : facet === "stop" ? others.filter(record => record.s === value).length
        : shown.filter(record => record.h >> value & 1).length;
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
  const scorable = shown.filter(record => data.outcomes[record.o] !== "unscorable");
  const right = scorable.filter(record => data.outcomes[record.o] === "right").length;
  const mean = value => (shown.reduce((sum, record) => sum + value(record), 0) / shown.length).toFixed(1);
  return (scorable.length ? percent(right / scorable.length) + " right · " : "") + mean(record => record.t)
    + " tokens · " + mean(record => record.c[0]) + " attempts a response";
}

function show() {
  const place = shown.indexOf(state.at), list = $("list");
  $("rows").style.height = shown.length * ROW + "px";
  if (place >= 0) {
    if (place * ROW < list.scrollTop) list.scrollTop = place * ROW;
    if ((place + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (place + 1) * ROW - list.clientHeight;
  }
  draw();
  read();
  remember();
}

function draw() {
  const list = $("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
  const rows = shown.slice(first, first + Math.ceil(list.clientHeight / ROW) + 12).map((record, i) => {
    const outcome = data.outcomes[record.o];
    const row = element("div", "row",
      element("span", "sign " + COLOURS[outcome], MARKS[outcome]),
      element("span", "what", element("b", "", "Problem " + number.format(record.p)),
        element("span", "where", data.evaluations[record.e])),
      element("span", "how", data.stops[record.s] + " · " + many(record.c[0], "attempt") + " · "
        + many(record.t, "token")));
    row.id = "row-" + (first + i);
    row.style.top = (first + i) * ROW + "px";
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", record === state.at);
    row.setAttribute("aria-setsize", shown.length);
    row.setAttribute("aria-posinset", first + i + 1);
    row.setAttribute("aria-label", outcome + ", problem " + record.p + ", " + data.evaluations[record.e] + ", "
      + row.lastChild.textContent);
    row.addEventListener("click", () => { state.at = record; show(); });
    return row;
  });
  $("rows").replaceChildren(...rows);
  const place = shown.indexOf(state.at);
  if (place < 0) list.removeAttribute("aria-activedescendant");
  else list.setAttribute("aria-activedescendant", "row-" + place);
}

function read() {
  const record = state.at, reader = $("reader");
  if (!record) return reader.replaceChildren();
  const outcome = data.outcomes[record.o];
  const facts = [data.evaluations[record.e], many(record.t, "token")];
  if (record.d !== null) facts.push("difficulty " + record.d);
  if (record.g !== null) facts.push("a right answer: " + record.g);
  const habits = data.habits.filter((_, habit) => record.h >> habit & 1);
  const counts = record.c.map((count, i) => count || !i ? many(count, COUNTS[i]) : "");
  const others = data.records.filter(other => other.q === record.q && other !== record);
  const marked = piece => typeof piece === "string" ? piece
    : element("span", piece[0] === "tag" ? "tag" : "mark " + piece[0], piece[1]);
  const chain = element("div", "chain", ...record.x.map(line =>
    element("span", line[0] ? "line attempt-line" : "line", ...line.slice(1).map(marked))));
  reader.replaceChildren(
    element("div", "head", element("h3", "", "Problem " + number.format(record.p)),
      element("span", "pill " + COLOURS[outcome], outcome), element("span", "pill stop", data.stops[record.s]),
      ...habits.map(habit => element("span", "pill habit", habit))),
    element("div", "facts", facts.join(" · ")),
    element("div", "ask", data.prompts[record.q]), chain,
    element("div", "facts", counts.filter(Boolean).join(" · ")));
  if (others.length) {
    const links = others.slice(0, 40).map(other => {
      const name = data.outcomes[other.o];
      const link = element("button", "chip", element("span", COLOURS[name], MARKS[name]), data.evaluations[other.e]);
      link.type = "button";
      link.setAttribute("aria-label", "the same problem in " + data.evaluations[other.e] + ": " + name);
      link.addEventListener("click", () => go(other));
      return link;
    });
    reader.append(element("div", "same", element("span", "facet-name", "Same problem"), ...links));
  }
  reader.scrollTop = 0;
}

// shows a record, which the filters may hide: then they go
function go(record) {
  if (!record) return;
  if (!passes(record)) forget();
  state.at = record;
  apply();
}

function move(by) {
  if (shown.length) { state.at = shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(state.at) + by))]; show(); }
}

function same() {
  const all = state.at ? data.records.filter(other => other.q === state.at.q) : [];
  go(all[(all.indexOf(state.at) + 1) % all.length]);
}

function forget() {
  Object.assign(state, {evaluation: "", search: ""});
  for (const facet in FACETS) state[facet].clear();
}

function remember() {
  const words = new URLSearchParams();
  if (state.evaluation !== "") words.set("e", data.evaluations[+state.evaluation]);
  for (const facet in FACETS)
    if (state[facet].size) words.set(KEYS[facet], [...state[facet]].map(value => FACETS[facet][value]).join(","));
  if (state.search) words.set("q", state.search);
  if (state.at) words.set("r", idOf(state.at));
  history.replaceState(null, "", "#" + words);
}

function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  forget();
  const evaluation = data.evaluations.indexOf(words.get("e"));
  state.evaluation = evaluation < 0 ? "" : String(evaluation);
  state.search = words.get("q") ?? "";
  for (const facet in FACETS)
    for (const name of (words.get(KEYS[facet]) ?? "").split(","))
      if (FACETS[facet].includes(name)) state[facet].add(FACETS[facet].indexOf(name));
  const wanted = words.get("r");
  state.at = data.records.find(record => idOf(record) === wanted) ?? null;
  apply();
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const field = event.target.closest("input, select, textarea");
  if (event.key === "Escape") { if (field) $("list").focus(); return; }
  if (field) return;
  const arrows = !event.target.closest("#reader, button, summary, a");
  const deeds = {
    j: () => move(1), k: () => move(-1), g: () => move(-shown.length), G: () => move(shown.length), s: same,
    c: () => { forget(); apply(); }, "?": () => $("help").showModal(),
    "/": () => { $("filters").open = true; $("search").focus(); },
    f: () => { $("filters").open = true; $("evaluation").focus(); },
    ...(arrows ? {ArrowDown: () => move(1), ArrowUp: () => move(-1), Home: () => move(-shown.length),
      End: () => move(shown.length)} : {}),
  };
  const deed = Object.hasOwn(deeds, event.key) && deeds[event.key];
  if (deed) { event.preventDefault(); deed(); }
}

for (const [facet, names] of Object.entries(FACETS))
  $(facet).append(...names.map((name, value) => chip(facet, value, name)));
$("evaluation").addEventListener("change", event => { state.evaluation = event.target.value; apply(); });
$("search").addEventListener("input", event => { state.search = event.target.value; apply(); });
$("clear").addEventListener("click", () => { forget(); apply(); });
$("keys").addEventListener("click", () => $("help").showModal());
$("close").addEventListener("click", () => $("help").close());
$("list").addEventListener("scroll", draw, {passive: true});
document.addEventListener("keydown", press);
window.addEventListener("hashchange", recall);
window.addEventListener("resize", draw);
if (window.innerWidth < 620) $("filters").open = false;
recall();
"""

STYLE = """
main { max-width: 1240px; }
header { padding-bottom: 10px; } header h1 { overflow-wrap: anywhere; } #figures h3 { margin-top: 14px; }
#figures figure { min-width: 0; } #figures td .interval { font-size: .78rem; }
.top { display: flex; justify-content: space-between; align-items: center; gap: 12px; }
kbd { font: 600 .78rem/1.4 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; border: 1px solid var(--line);
  border-bottom-width: 2px; border-radius: 5px; padding: 0 6px; background: var(--page); color: var(--ink);
  white-space: nowrap; }
button, select, input { font: inherit; font-size: .92rem; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; padding: 5px 10px; min-height: 36px; max-width: 100%; }
button { cursor: pointer; } button:hover { border-color: var(--after); }
:focus-visible { outline: 3px solid var(--after); outline-offset: 2px; }
.fields { display: flex; flex-wrap: wrap; gap: 10px 14px; align-items: end; }
.fields label { display: grid; gap: 3px; color: var(--faint); font-size: .84rem; min-width: 0; }
.fields .wide { flex: 1 1 220px; } .fields input { width: 100%; min-width: 0; }
.facet { display: flex; gap: 4px 12px; align-items: baseline; margin-top: 10px; }
.facet-name { color: var(--faint); font-size: .84rem; flex: 0 0 5.4em; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; min-width: 0; }
.chip { border-radius: 99px; padding: 2px 12px; min-height: 32px; display: inline-flex; gap: 7px; align-items: center; }
.chip > .yes, .chip > .no, .chip > .tag { background: none; font-weight: 700; }
.chip .times { color: var(--faint); font-size: .82rem; }
.chip[aria-pressed=true] { background: var(--after-soft); border-color: var(--after); color: var(--after);
  font-weight: 600; }
.chip[aria-pressed=true] .times { color: inherit; } .chip.none:not([aria-pressed=true]) { opacity: .5; }
.status { font-weight: 650; margin: 16px 0 0; } .strip { color: var(--faint); font-size: .9rem; margin: 0 0 10px; }
.panes { display: grid; grid-template-columns: minmax(250px, 330px) minmax(0, 1fr); gap: 14px; }
#list, #reader { border: 1px solid var(--line); border-radius: 10px; height: min(74vh, 780px); overflow: auto;
  overscroll-behavior: contain; }
#rows { position: relative; }
.row { position: absolute; left: 0; right: 0; height: 58px; padding: 8px 12px; cursor: pointer; display: grid;
  grid-template: "sign what" "sign how" / 26px minmax(0, 1fr); gap: 0 8px; align-items: center;
  border-bottom: 1px solid var(--line); border-left: 3px solid transparent; line-height: 1.3; }
.row:hover { background: var(--page); }
.row[aria-selected=true] { background: var(--after-soft); border-left-color: var(--after); }
.sign { grid-area: sign; width: 26px; height: 26px; border-radius: 50%; display: grid; place-items: center;
  font-weight: 700; font-size: .86rem; } .sign.tag { background: var(--page); }
.what { grid-area: what; display: flex; justify-content: space-between; gap: 8px; font-size: .92rem; }
.where, .how { color: var(--faint); font-size: .8rem; } .how { grid-area: how; }
.where, .how, .what b { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; } .what b { flex: none; }
#reader { padding: 14px 18px; }
#reader .head { display: flex; flex-wrap: wrap; gap: 6px 8px; align-items: center; }
#reader .head h3 { margin-right: 6px; font-size: 1.08rem; }
.pill.stop { background: var(--page); color: var(--ink); } .pill.habit { background: var(--check-soft);
  color: var(--check); } .pill.tag { background: var(--page); }
.facts { color: var(--faint); font-size: .86rem; margin-top: 6px; overflow-wrap: anywhere; }
#reader .ask { font-weight: 650; margin: 12px 0 6px; overflow-wrap: anywhere; white-space: pre-wrap; }
#reader .chain { padding: 4px 0 6px; max-height: none; overflow: visible; }
.same { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin-top: 14px; padding-top: 12px;
  border-top: 1px solid var(--line); } .same .facet-name { flex: none; margin-right: 4px; }
.reflection { color: var(--big); background: var(--big-soft); }
.backtrack, .giving { color: var(--bad); background: var(--bad-soft); }
.verification { color: var(--check); background: var(--check-soft); }
.legend { margin-top: 14px; }
dialog { border: 1px solid var(--line); border-radius: 14px; background: var(--card); color: var(--ink);
  padding: 20px 26px; max-width: min(92vw, 460px); }
dialog::backdrop { background: rgb(0 0 0 / .45); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 8px 16px; margin: 12px 0 18px; } dd { margin: 0; }
noscript p { color: var(--bad); }
@media (max-width: 820px) {
  .panes { grid-template-columns: minmax(0, 1fr); } #list { height: min(36vh, 300px); }
  #reader { height: auto; overflow: visible; padding: 14px; } .facet { flex-direction: column; }
  .facet-name { flex: none; } .line { padding-left: 2em; } #keys kbd { display: none; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
"""

// SPDX-License-Identifier: Apache-2.0
// Navigation by keys, buttons and links. The state is kept in the address after #, so that a view can be linked to:
// e, o, s, b: filters; q: search; r: the response, EVALUATION:NUMBER.

// Shows a record; clears the filters if they hide it.
function go(record) {
  if (!record) return;
  if (!passes(record)) forget();
  state.at = record;
  apply();
}

function move(by) {
  if (shown.length) {
    state.at = shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(state.at) + by))];
    show();
  }
}

function same() {
  const all = state.at ? data.records.filter((other) => other.q === state.at.q) : [];
  go(all[(all.indexOf(state.at) + 1) % all.length]);
}

function forget() {
  Object.assign(state, { evaluation: "", search: "" });
  for (const facet in FACETS) state[facet].clear();
}

function remember() {
  const words = new URLSearchParams();
  if (state.evaluation !== "") words.set("e", data.evaluations[+state.evaluation]);
  for (const facet in FACETS)
    if (state[facet].size) words.set(KEYS[facet], [...state[facet]].map((value) => FACETS[facet][value]).join(","));
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
  state.at = data.records.find((record) => idOf(record) === wanted) ?? null;
  apply();
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const field = event.target.closest("input, select, textarea");
  if (event.key === "Escape") {
    if (field) $("list").focus();
    return;
  }
  if (field) return;
  const arrows = !event.target.closest("#reader, button, summary, a");
  const deeds = {
    j: () => move(1),
    k: () => move(-1),
    g: () => move(-shown.length),
    G: () => move(shown.length),
    s: same,
    c: () => {
      forget();
      apply();
    },
    "?": () => $("help").showModal(),
    "/": () => {
      $("filters").open = true;
      $("search").focus();
    },
    f: () => {
      $("filters").open = true;
      $("evaluation").focus();
    },
    ...(arrows
      ? {
          ArrowDown: () => move(1),
          ArrowUp: () => move(-1),
          Home: () => move(-shown.length),
          End: () => move(shown.length),
        }
      : {}),
  };
  const deed = Object.hasOwn(deeds, event.key) && deeds[event.key];
  if (deed) {
    event.preventDefault();
    deed();
  }
}

for (const [facet, names] of Object.entries(FACETS))
  $(facet).append(...names.map((name, value) => chip(facet, value, name)));
$("evaluation").addEventListener("change", (event) => {
  state.evaluation = event.target.value;
  apply();
});
$("search").addEventListener("input", (event) => {
  state.search = event.target.value;
  apply();
});
$("clear").addEventListener("click", () => {
  forget();
  apply();
});
$("keys").addEventListener("click", () => $("help").showModal());
$("close").addEventListener("click", () => $("help").close());
$("list").addEventListener("scroll", draw, { passive: true });
document.addEventListener("keydown", press);
window.addEventListener("hashchange", recall);
window.addEventListener("resize", draw);
if (window.innerWidth < 620) $("filters").open = false;
recall();

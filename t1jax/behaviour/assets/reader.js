// SPDX-License-Identifier: Apache-2.0
// The list, of which only the visible rows are drawn, and the open response.

function show() {
  const place = shown.indexOf(state.at),
    list = $("list");
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
  const list = $("list"),
    first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
  const rows = shown.slice(first, first + Math.ceil(list.clientHeight / ROW) + 12).map((record, i) => {
    const outcome = data.outcomes[record.o];
    const row = element(
      "div",
      "row",
      element("span", "sign " + COLOURS[outcome], MARKS[outcome]),
      element(
        "span",
        "what",
        element("b", "", "Problem " + number.format(record.p)),
        element("span", "where", data.evaluations[record.e]),
      ),
      element(
        "span",
        "how",
        data.stops[record.s] + " · " + many(record.c[0], "attempt") + " · " + many(record.t, "token"),
      ),
    );
    row.id = "row-" + (first + i);
    row.style.top = (first + i) * ROW + "px";
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", record === state.at);
    row.setAttribute("aria-setsize", shown.length);
    row.setAttribute("aria-posinset", first + i + 1);
    row.setAttribute(
      "aria-label",
      outcome + ", problem " + record.p + ", " + data.evaluations[record.e] + ", " + row.lastChild.textContent,
    );
    row.addEventListener("click", () => {
      state.at = record;
      show();
    });
    return row;
  });
  $("rows").replaceChildren(...rows);
  const place = shown.indexOf(state.at);
  if (place < 0) list.removeAttribute("aria-activedescendant");
  else list.setAttribute("aria-activedescendant", "row-" + place);
}

function read() {
  const record = state.at,
    reader = $("reader");
  if (!record) return reader.replaceChildren();
  const outcome = data.outcomes[record.o];
  const facts = [data.evaluations[record.e], many(record.t, "token")];
  if (record.d !== null) facts.push("difficulty " + record.d);
  if (record.g !== null) facts.push("a right answer: " + record.g);
  const habits = data.habits.filter((_, habit) => (record.h >> habit) & 1);
  const counts = record.c.map((count, i) => (count || !i ? many(count, COUNTS[i]) : ""));
  const others = data.records.filter((other) => other.q === record.q && other !== record);
  const marked = (piece) =>
    typeof piece === "string" ? piece : element("span", piece[0] === "tag" ? "tag" : "mark " + piece[0], piece[1]);
  const chain = element(
    "div",
    "chain",
    ...record.x.map((line) => element("span", line[0] ? "line attempt-line" : "line", ...line.slice(1).map(marked))),
  );
  reader.replaceChildren(
    element(
      "div",
      "head",
      element("h3", "", "Problem " + number.format(record.p)),
      element("span", "pill " + COLOURS[outcome], outcome),
      element("span", "pill stop", data.stops[record.s]),
      ...habits.map((habit) => element("span", "pill habit", habit)),
    ),
    element("div", "facts", facts.join(" · ")),
    element("div", "ask", data.prompts[record.q]),
    chain,
    element("div", "facts", counts.filter(Boolean).join(" · ")),
  );
  if (others.length) {
    const links = others.slice(0, 40).map((other) => {
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

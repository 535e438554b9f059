"use strict";
// Tables of the class "sortable" can be sorted by a column, filtered by text, and folded to the first rows.
// Nothing is stored and nothing is requested: the page may be in a sandboxed frame.
const make = (name, properties, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

const cellValue = (row, column) => {
  const text = row.cells[column].textContent.trim();
  return /^-?[\d,.]+ ?%?$/.test(text) ? parseFloat(text.replaceAll(",", "")) : text;
};

const compareCells = (a, b) => {
  // Missing values are dashes: they are the last in either order, see sortBy.
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
};

const setUpTable = (table) => {
  const body = table.tBodies[0];
  const limit = Number(table.dataset.fold || 0);
  let rows = [...body.rows];
  let folded = limit > 0 && rows.length > limit + 2;
  const tools = make("div", { className: "tools" });
  const filter = make("input", { type: "search", placeholder: "filter" });
  const more = make("button", { type: "button" });
  const shown = make("span", { className: "quiet" });
  filter.setAttribute("aria-label", "Filter the rows of the table");
  shown.setAttribute("aria-live", "polite");

  const update = () => {
    const wanted = filter.value.trim().toLowerCase();
    const matches = rows.filter((row) => row.textContent.toLowerCase().includes(wanted));
    const visible = new Set(folded && !wanted ? matches.slice(0, limit) : matches);
    for (const row of rows) row.hidden = !visible.has(row);
    shown.textContent = visible.size < rows.length ? `${visible.size} of ${rows.length}` : "";
    more.textContent = folded ? `Show all ${rows.length}` : `Show ${limit}`;
    more.hidden = Boolean(wanted);
  };

  const sortBy = (column, header, direction) => {
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const dash = (value) => value === "\u2013" || value === "";
    const keyed = rows.map((row) => [cellValue(row, column), row]);
    keyed.sort(([a], [b]) => dash(a) - dash(b) || direction * compareCells(a, b));
    rows = keyed.map(([, row]) => row);
    body.append(...rows);
    update();
  };

  [...table.tHead.rows[0].cells].forEach((header, column) => {
    if (!header.textContent.trim()) return;
    const button = make("button", { type: "button" }, ...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      sortBy(column, header, header.getAttribute("aria-sort") === "ascending" ? -1 : 1);
    });
  });
  if (limit > 0 && rows.length > limit + 2) {
    more.addEventListener("click", () => {
      folded = !folded;
      update();
    });
    filter.addEventListener("input", update);
    tools.append(filter, more, shown);
    table.closest(".scroll").before(tools);
  }
  update();
};

for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies.length && table.tBodies[0].rows.length > 1) setUpTable(table);
}

// A list of the class "paged" shows its first entries, and more of them on request.
const setUpList = (list) => {
  const size = Number(list.dataset.page);
  const entries = [...list.children].filter((entry) => !entry.hidden);
  let count = size;
  const shown = make("span", { className: "quiet" });
  const more = make("button", { type: "button" });
  const all = make("button", { type: "button" });
  const update = () => {
    entries.forEach((entry, index) => (entry.hidden = index >= count));
    const left = entries.length - count;
    more.hidden = all.hidden = left <= 0;
    more.textContent = `Show ${Math.min(size, left)} more`;
    all.textContent = `Show all ${entries.length}`;
    shown.textContent = left > 0 ? `${count} of ${entries.length}` : "";
  };
  more.addEventListener("click", () => {
    count += size;
    update();
  });
  all.addEventListener("click", () => {
    count = entries.length;
    update();
  });
  shown.setAttribute("aria-live", "polite");
  if (entries.length > size) list.after(make("div", { className: "tools" }, more, all, shown));
  update();
};

for (const list of document.querySelectorAll(".paged")) setUpList(list);

"use strict";
// The page is complete without this script, which sorts and filters tables and switches the theme.

const FILTER_FROM = 8; // rows; fewer are seen at a glance

function firstLine(cell) {
  const range = document.createRange();
  range.selectNodeContents(cell);
  const lineEnd = cell.querySelector("br");
  if (lineEnd) range.setEndBefore(lineEnd);
  return range.toString().trim();
}

function numberOf(text) {
  const match = text.replaceAll(",", "").match(/[-+−]?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return match ? Number(match[0].replace("−", "-")) : null;
}

function compare(a, b, numeric, sign) {
  if (!numeric) return sign * a.localeCompare(b, undefined, { numeric: true });
  if (a === null || b === null) return (a === null) - (b === null); // cells without a number stay at the end
  return sign * (a - b);
}

function sortBy(table, heading, column) {
  const numeric = heading.classList.contains("number");
  const before = heading.getAttribute("aria-sort");
  const descending = before === "none" ? numeric : before === "ascending"; // the largest number first
  for (const cell of table.tHead.querySelectorAll("[aria-sort]")) cell.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const keyed = [...table.tBodies[0].rows].map((row) => {
    const text = firstLine(row.cells[column]);
    return [numeric ? numberOf(text) : text, row];
  });
  keyed.sort(([a], [b]) => compare(a, b, numeric, descending ? -1 : 1));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(table, heading, column));
  });
}

function makeFilterable(table, box) {
  const rows = [...table.tBodies[0].rows];
  const bar = document.createElement("div");
  bar.className = "filter";
  bar.innerHTML = "<label>Filter rows<input type=search></label><output></output>";
  const [input, count] = [bar.querySelector("input"), bar.querySelector("output")];
  const show = () => {
    const words = input.value.trim().toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  input.addEventListener("input", show);
  box.before(bar);
  show();
}

for (const box of document.querySelectorAll(".table")) {
  const table = box.querySelector("table");
  if (table.tBodies[0].rows.length > 1) makeSortable(table);
  if (table.tBodies[0].rows.length >= FILTER_FROM) makeFilterable(table, box);
}

const THEMES = ["system", "light", "dark"];
const button = document.getElementById("theme");
button.hidden = false;
button.addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % THEMES.length];
  document.documentElement.dataset.theme = theme;
  button.textContent = `Theme: ${theme}`;
});

const contents = document.querySelector("nav details");
const wide = matchMedia("(min-width: 75rem)");
const unfold = () => { contents.open = wide.matches; };
wide.addEventListener("change", unfold);
unfold();

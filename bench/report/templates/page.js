"use strict";
// The page is complete without this script, which sorts and filters tables and switches the theme.

const FILTER_FROM = 8; // rows; fewer are seen at a glance

function numberOf(text) {
  const match = text.replaceAll(",", "").match(/[-+−]?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return match ? Number(match[0].replace("−", "-")) : null;
}

function firstLine(cell) {
  const lineEnd = cell.querySelector("br");
  if (!lineEnd) return cell.textContent.trim();
  const range = document.createRange();
  range.setStart(cell, 0);
  range.setEndBefore(lineEnd);
  return range.toString().trim();
}

function compare(a, b, numeric, sign) {
  if (numeric) {
    if (a === null || b === null) return (a === null) - (b === null); // cells without a number stay at the end
    return sign * (a - b);
  }
  return sign * a.localeCompare(b, undefined, { numeric: true });
}

function sortBy(table, heading, column) {
  const numeric = heading.classList.contains("number");
  const before = heading.getAttribute("aria-sort");
  const descending = before === "none" ? numeric : before === "ascending"; // the largest number first
  for (const cell of table.tHead.querySelectorAll("[aria-sort]")) cell.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => {
    const text = firstLine(row.cells[column]);
    return [numeric ? numberOf(text) : text, row];
  });
  keyed.sort(([a], [b]) => compare(a, b, numeric, descending ? -1 : 1));
  body.append(...keyed.map(([, row]) => row));
}

function sortable(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    if (!heading.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(table, heading, column));
  });
}

function filterable(table, box) {
  const rows = [...table.tBodies[0].rows];
  const bar = document.createElement("div");
  bar.className = "filter";
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "search";
  label.append("Filter rows", input);
  const count = document.createElement("output");
  const show = () => {
    const words = input.value.trim().toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  input.addEventListener("input", show);
  bar.append(label, count);
  box.before(bar);
  show();
}

for (const box of document.querySelectorAll(".table")) {
  const table = box.querySelector("table");
  if (table.tBodies[0].rows.length > 1) sortable(table);
  if (table.tBodies[0].rows.length >= FILTER_FROM) filterable(table, box);
}

const THEMES = ["system", "light", "dark"];
const themeButton = document.getElementById("theme");
function storedTheme() {
  try {
    return localStorage.getItem("augmark-theme");
  } catch {
    return null; // a page opened from a file may have no storage
  }
}
function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  themeButton.textContent = `Theme: ${theme}`;
  themeButton.dataset.theme = theme;
  try {
    localStorage.setItem("augmark-theme", theme);
  } catch {
    // no storage: the choice ends with the page
  }
}
setTheme(THEMES.includes(storedTheme()) ? storedTheme() : "system");
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  setTheme(THEMES[(THEMES.indexOf(themeButton.dataset.theme) + 1) % THEMES.length]);
});

const contents = document.querySelector("nav details");
const wide = matchMedia("(min-width: 75rem)");
const unfold = () => { contents.open = wide.matches; };
wide.addEventListener("change", unfold);
unfold();

const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const headings = [...document.querySelectorAll("main h2")];
function markSection() {
  const above = headings.filter((heading) => heading.getBoundingClientRect().top < innerHeight / 3);
  for (const link of links.values()) link.removeAttribute("aria-current");
  links.get(above.at(-1)?.id)?.setAttribute("aria-current", "true");
}
addEventListener("scroll", markSection, { passive: true });
markSection();

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("main details:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of folded) details.open = false;
});

"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const say = (text) => { document.getElementById("status").textContent = text; };

function button(text, onClick) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  element.addEventListener("click", onClick);
  return element;
}

// A row and its details share a tbody, so they move and hide together.
function bodies(table) { return [...table.tBodies]; }

function cellOf(body, column) { return body.rows[0].cells[column]; }

function compare(column, ascending) {
  return (left, right) => {
    const [a, b] = [cellOf(left, column), cellOf(right, column)];
    const [x, y] = [Number(a.dataset.v), Number(b.dataset.v)];
    if (a.dataset.v !== undefined && b.dataset.v !== undefined) return ascending ? x - y : y - x;
    if (a.dataset.v !== undefined || b.dataset.v !== undefined) return a.dataset.v === undefined ? 1 : -1;
    const order = a.textContent.localeCompare(b.textContent, "en");
    return ascending ? order : -order;
  };
}

function sortBy(head) {
  const table = head.closest("table");
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const cell of table.tHead.rows[0].cells) {
    if (cell.hasAttribute("aria-sort")) cell.setAttribute("aria-sort", "none");
  }
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  table.append(...bodies(table).sort(compare(head.cellIndex, ascending)));
  say(`Sorted by ${head.textContent}, ${ascending ? "ascending" : "descending"}`);
}

function filterRows() {
  const words = document.getElementById("filter").value.trim().toLowerCase();
  const kind = document.getElementById("kind").value;
  let count = 0;
  for (const body of all(".entries > tbody")) {
    body.hidden = !body.dataset.name.toLowerCase().includes(words) || (kind && body.dataset.kind !== kind);
    count += body.hidden ? 0 : 1;
  }
  say(`${count} rows shown`);
}

function toggle(opener, open) {
  opener.setAttribute("aria-expanded", String(open));
  document.getElementById(opener.getAttribute("aria-controls")).hidden = !open;
}

function chooseColumns(tools) {
  const table = tools.parentElement.querySelector(".entries");
  const chooser = document.createElement("details");
  const summary = document.createElement("summary");
  const fields = document.createElement("fieldset");
  summary.textContent = "Columns";
  [...table.tHead.rows[0].cells].slice(2).forEach((head) => {
    const box = document.createElement("input");
    const label = document.createElement("label");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => {
      head.hidden = !box.checked;
      for (const body of bodies(table)) cellOf(body, head.cellIndex).hidden = !box.checked;
    });
    label.append(box, ` ${head.textContent}`);
    fields.append(label);
  });
  chooser.append(summary, fields);
  tools.append(chooser);
}

function download(name, kind) {
  const content = files[name][kind];
  const text = kind === "json" ? JSON.stringify(content, null, 1) + "\n" : content;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
  link.download = `${name}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  say(`${name}.${kind} saved`);
}

const files = JSON.parse(document.getElementById("files").textContent);
for (const head of all(".entries [aria-sort]")) head.firstChild.addEventListener("click", () => sortBy(head));
for (const opener of all(".entries tbody th button")) {
  toggle(opener, false);
  opener.addEventListener("click", () => toggle(opener, opener.getAttribute("aria-expanded") !== "true"));
}
for (const tools of all(".tools")) {
  const name = tools.dataset.file;
  chooseColumns(tools);
  for (const [kind, title] of [["csv", "CSV"], ["json", "JSON"], ["tex", "LaTeX"]]) {
    if (name in files && kind in files[name]) tools.append(button(title, () => download(name, kind)));
  }
}
if (navigator.clipboard) for (const command of all("pre.command")) {
  const text = command.textContent;
  command.append(button("Copy", async (event) => {
    await navigator.clipboard.writeText(text);
    event.target.textContent = "Copied";
  }));
}
document.getElementById("filter").addEventListener("input", filterRows);
document.getElementById("kind").addEventListener("change", filterRows);
document.querySelector(".filter").addEventListener("submit", (event) => event.preventDefault());

// A grid of numbers, coloured by size, in which arrow keys move (ARIA's grid).
import { el } from "./dom.js";
import { number } from "./numbers.js";

// Rows: [{head, cells: [{value, key, label}]}]. The element's `mark(key)` shows which is chosen.
export function grid(title, heads, rows, choose) {
  const most = Math.max(...rows.flatMap((row) => row.cells.map((cell) => cell.value)), 1);
  const cells = rows.map((row) => row.cells.map((cell) => gridCell(cell, most, choose)));
  const key = (event) => {
    const row = cells.findIndex((line) => line.includes(event.target));
    if (row < 0) return;
    const column = cells[row].indexOf(event.target);
    const to = {
      ArrowRight: [row, column + 1],
      ArrowLeft: [row, column - 1],
      ArrowDown: [row + 1, column],
      ArrowUp: [row - 1, column],
      Home: [row, 0],
      End: [row, cells[row].length - 1],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    const node = cells[to[0]]?.[to[1]];
    node?.focus();
    node?.click();
  };
  const lines = rows.map((row, index) => el("tr", { role: "row" }, el("th", { scope: "row", role: "rowheader" }, row.head), cells[index]));
  const top = el("tr", { role: "row" }, el("td", { role: "gridcell" }), heads.map((head) => el("th", { scope: "col", role: "columnheader" }, head)));
  const node = el(
    "div",
    { class: "grid" },
    el("p", { class: "table-title" }, title),
    el(
      "div",
      { class: "scroll" },
      el("table", { role: "grid", "aria-label": title, keydown: key }, el("thead", { role: "rowgroup" }, top), el("tbody", { role: "rowgroup" }, lines)),
    ),
  );
  const all = cells.flat();
  node.mark = (chosen) => {
    const one = all.find((cell) => cell.dataset.key === chosen);
    for (const cell of all) {
      cell.setAttribute("aria-selected", String(cell === one));
      cell.tabIndex = cell === (one ?? all[0]) ? 0 : -1;
    }
    if (one) reveal(one);
  };
  return node;
}

// Scroll the grid, and nothing else, so that the cell is in view beside the heads of row and column.
function reveal(cell) {
  const room = cell.closest(".scroll");
  const [view, box] = [room, cell].map((node) => node.getBoundingClientRect());
  const row = cell.parentNode.firstElementChild.offsetWidth;
  const column = room.querySelector("thead").offsetHeight;
  room.scrollLeft += outside(box.left, box.right, view.left + row, view.left + room.clientWidth);
  room.scrollTop += outside(box.top, box.bottom, view.top + column, view.top + room.clientHeight);
}

// How far from..to lies outside of low..high: below zero before it, above zero behind it.
function outside(from, to, low, high) {
  return from < low ? from - low : Math.max(0, to - high);
}

function gridCell({ value, key, label }, most, choose) {
  const strength = Math.round((100 * value) / most);
  return el(
    "td",
    { role: "gridcell", tabindex: "-1", "data-key": key, "aria-label": label, style: `--strength:${strength}%`, click: () => choose(key) },
    number(value),
  );
}

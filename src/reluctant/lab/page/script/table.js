// A table that scrolls in a region of its own and can be saved as CSV.
import { csvButton } from "./csv.js";
import { el } from "./dom.js";
import { number, share } from "./numbers.js";
import { t } from "./words.js";

const FORMATS = { number, share, text: (value) => value ?? "–" };

// Columns: {title, kind: "text" | "number" | "share", value(row), show(row) for another look, file:
// in the CSV only}.
// `most` limits the rows on screen, which `note` says; the CSV has all of `rows`.
export function table({ title, name, columns, rows, most = rows.length, note = cutNote(rows, most), mark = () => false }) {
  const seen = columns.filter((column) => !column.file);
  const head = seen.map((column, index) =>
    el("th", { scope: "col", class: column.kind === "text" || index === 0 ? null : "number" }, column.title),
  );
  const lines = rows.slice(0, most).map((row) =>
    el("tr", { class: mark(row) ? "marked" : null }, seen.map((column, index) => cell(column, row, index))),
  );
  return el(
    "div",
    { class: "table" },
    el("div", { class: "table-head" }, el("p", { class: "table-title" }, title), csvButton(title, name, columns, rows)),
    el(
      "div",
      { class: "scroll", role: "region", tabindex: "0", "aria-label": title },
      el("table", {}, el("caption", { class: "hidden" }, title), el("thead", {}, el("tr", {}, head)), el("tbody", {}, lines)),
    ),
    note ? el("p", { class: "note" }, note) : null,
  );
}

function cutNote(rows, most) {
  return rows.length > most ? t("common.cut", { n: number(most), all: number(rows.length) }) : null;
}

function cell(column, row, index) {
  const content = column.show ? column.show(row) : FORMATS[column.kind](column.value(row));
  if (index === 0) return el("th", { scope: "row" }, content);
  return el("td", { class: column.kind === "text" ? null : "number" }, content);
}

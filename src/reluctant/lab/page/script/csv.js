// Tables as files for a spreadsheet (RFC 4180).
import { el } from "./dom.js";
import { t } from "./words.js";

// A text that begins like a formula would be run by a spreadsheet: an apostrophe keeps it a text.
function field(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  const text = /^\s*[=+\-@＝＋－＠\t\r]/.test(value) ? `'${value}` : String(value);
  return `"${text.replaceAll('"', '""')}"`;
}

function csv(columns, rows) {
  const lines = [columns.map((column) => column.title), ...rows.map((row) => columns.map((column) => column.value(row)))];
  return lines.map((line) => line.map(field).join(",")).join("\r\n") + "\r\n";
}

export function csvButton(title, name, columns, rows) {
  const save = () => {
    // The mark at the start tells spreadsheets that it is UTF-8.
    const blob = new Blob(["\ufeff", csv(columns, rows)], { type: "text/csv;charset=utf-8" });
    const link = el("a", { href: URL.createObjectURL(blob), download: `${name.replace(/[^\w.-]+/g, "-")}.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  return el("button", { type: "button", class: "csv", click: save, "aria-label": t("common.csv_of", { title }) }, t("common.csv"));
}

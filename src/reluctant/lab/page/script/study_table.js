// A table of a study: a cell is a text, a number, or a mean with its spread.
import { el, quote } from "./dom.js";
import { precise, spread } from "./numbers.js";
import { table } from "./table.js";
import { pick, t } from "./words.js";

function several(cell) {
  return typeof cell === "object" && cell !== null && "mean" in cell;
}

// One run has no spread.
function look(cell) {
  if (!several(cell)) return typeof cell === "number" ? precise(cell) : quote(pick(cell) || "–");
  const runs = cell.values?.length > 1 ? cell.values : [];
  const title = runs.length ? t("study.values", { values: runs.map(precise).join(", ") }) : null;
  if (!(cell.spread > 0) || !runs.length) return el("span", { title }, precise(cell.mean));
  const [mean, by] = spread(cell.mean, cell.spread);
  return el("span", { title }, t("study.spread", { mean, spread: by }));
}

function plain(cell) {
  if (several(cell)) return cell.mean;
  return typeof cell === "number" ? cell : pick(cell);
}

export function studyTable({ title, columns, rows }, name) {
  const shape = columns.flatMap((column, index) => {
    const cells = rows.map((row) => row[index]);
    const text = cells.every((cell) => typeof cell !== "number" && !several(cell));
    const own = { title: pick(column), kind: text ? "text" : "number", value: (row) => plain(row[index]), show: (row) => look(row[index]) };
    if (!cells.some(several)) return [own];
    // On the screen the spread stands in the same cell; in the file it has a column of its own.
    const apart = { title: t("study.spread_column", { title: pick(column) }), value: (row) => (several(row[index]) ? row[index].spread : null), file: true };
    return [own, apart];
  });
  return table({ title: pick(title), name, columns: shape, rows });
}

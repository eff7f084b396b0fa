// One layer, closer: how its density is distributed, by position, by neuron, by token.
import { chart, logTicks, plot } from "./chart.js";
import { announce, el, fill, quote } from "./dom.js";
import { number, share } from "./numbers.js";
import { layerChosen, record } from "./record.js";
import { choose, listen } from "./state.js";
import { table } from "./table.js";
import { t } from "./words.js";

const MOST_TOKENS = 60;
let place = null;
let charts = null;

export function layerSelect(id) {
  const options = record.layers.map((layer) =>
    el("option", { value: layer.name, selected: layer === layerChosen() }, layer.name),
  );
  const choice = el("select", { id, change: (event) => choose({ layer: event.target.value, neuron: "" }) }, options);
  return el("label", { class: "field", for: id }, el("span", {}, t("layers.choose")), choice);
}

export function drawLayer(node) {
  place = node;
  charts = el("div", { class: "charts pairs" });
  fill(place, el("h3", {}, t("layers.one_title")), layerSelect("layer-choice"), charts);
  update();
}

function update() {
  const layer = layerChosen();
  const choice = place.querySelector("select");
  choice.value = layer.name;
  fill(charts, histogram(layer), positions(layer), uses(layer), tokens(layer));
}

function titled(key, layer) {
  return `${t(key)}: ${layer.name}`;
}

function histogram(layer) {
  const bins = layer.density.histogram;
  if (!bins?.counts.length) return null;
  const rows = bins.counts.map((count, index) => ({ index, from: bins.edges[index], to: bins.edges[index + 1], count }));
  const some = rows.slice(rows.findIndex((row) => row.count > 0), rows.findLastIndex((row) => row.count > 0) + 1);
  const first = some[0]?.index ?? 0;
  // Bins are drawn equally wide, with their edges as marks, as many as there is room for.
  const marks = (width) => d3.range(first, first + some.length + 1, Math.ceil(some.length / Math.floor(width / 60)));
  const title = titled("layers.histogram_title", layer);
  return chart({
    title,
    name: "histogram",
    note: t("layers.histogram_note"),
    text: `${title}. ${t("measure.density")}: ${share(layer.density.mean)}`,
    draw: (width) =>
      plot(width, {
        x: { label: t("layers.histogram_x"), tickFormat: (edge) => share(bins.edges[edge]), ticks: marks(width), labelArrow: "none" },
        y: { label: t("layers.histogram_y"), grid: true, ticks: 5, tickFormat: number, labelArrow: "none" },
        marks: [Plot.rectY(some, { x1: "index", x2: (row) => row.index + 1, y: "count", fill: "var(--c1)", inset: 0.5 }), Plot.ruleY([0], { strokeOpacity: 0.3 })],
      }),
    columns: [
      { title: t("layers.from"), kind: "share", value: (row) => row.from },
      { title: t("layers.to"), kind: "share", value: (row) => row.to },
      { title: t("layers.histogram_y"), kind: "number", value: (row) => row.count },
    ],
    rows,
  });
}

function curve({ title, name, note, rows, x, xLabel, yLabel, log, text }) {
  return chart({
    title,
    name,
    note,
    text,
    draw: (width) =>
      plot(width, {
        x: { label: xLabel, ticks: 5, tickFormat: number, labelArrow: "none" },
        y: { label: yLabel, grid: true, ticks: log ? logTicks(rows.map((row) => row.value)) : 5, tickFormat: share, labelArrow: "none", type: log ? "log" : "linear", zero: !log },
        marks: [Plot.lineY(rows, { x, y: "value", stroke: "var(--c1)", strokeWidth: 2, curve: "linear" })],
      }),
    columns: [
      { title: xLabel, kind: "number", value: (row) => row[x] },
      { title: yLabel, kind: "share", value: (row) => row.value },
    ],
    rows,
  });
}

function positions(layer) {
  const rows = layer.density.by_position.map((value, position) => ({ position, value })).filter((row) => row.value !== null);
  if (!rows.length) return null;
  const title = titled("layers.position_title", layer);
  const text = `${title}. ${share(rows[0].value)} – ${share(rows.at(-1).value)}`;
  return curve({ title, name: "positions", rows, x: "position", xLabel: t("layers.position_x"), yLabel: t("measure.density"), text });
}

// Thousands of neurons as two hundred points of the curve.
function uses(layer) {
  if (!layer.use.length) return null;
  const sorted = layer.use.toSorted((one, other) => other - one);
  const every = Math.max(1, Math.floor(sorted.length / 200));
  const rows = sorted
    .map((value, index) => ({ rank: index + 1, value }))
    .filter((row, index) => row.value > 0 && (index % every === 0 || index === sorted.length - 1));
  const title = titled("layers.use_title", layer);
  const note = t("layers.use_note", { never: number(sorted.filter((value) => value === 0).length), all: number(sorted.length) });
  const log = rows.length > 0 && rows.at(-1).value < 0.1 * rows[0].value;
  return curve({ title, name: "use", note, rows, x: "rank", xLabel: t("layers.use_x"), yLabel: t("layers.use_y"), log, text: `${title}. ${note}` });
}

function tokens(layer) {
  const rows = layer.density.by_token.toSorted((one, other) => other.count - one.count);
  if (!rows.length) return null;
  const columns = [
    { title: t("common.token"), kind: "text", value: (row) => row.token, show: (row) => quote(row.token, 40) },
    { title: t("layers.count"), kind: "number", value: (row) => row.count },
    { title: t("measure.density"), kind: "share", value: (row) => row.density },
  ];
  const title = titled("layers.tokens_title", layer);
  return el(
    "div",
    { class: "chart tall" },
    table({ title, name: "tokens", columns, rows, most: MOST_TOKENS }),
    el("p", { class: "note" }, t("layers.tokens_note", { n: number(Math.min(MOST_TOKENS, rows.length)), all: number(rows.length) })),
  );
}

listen(["layer"], () => {
  if (!place) return;
  update();
  announce(titled("layers.one_title", layerChosen()));
});

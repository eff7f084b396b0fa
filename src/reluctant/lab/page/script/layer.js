// One layer, closer: how its density is distributed, by position, by neuron, by token.
import { chart, logAxis, plot } from "./chart.js";
import { announce, el, fill, quote, redraw } from "./dom.js";
import { number, share } from "./numbers.js";
import { layerChosen, record } from "./record.js";
import { choose, listen } from "./state.js";
import { table } from "./table.js";
import { t } from "./words.js";

const MOST_TOKENS = 60;
const MOST_ROWS = 200;
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
  redraw(charts, () => fill(charts, histogram(layer), positions(layer), uses(layer), tokens(layer)));
}

function titled(key, layer) {
  return t("common.named", { name: t(key), text: layer.name });
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
    text: `${title}. ${t("common.named", { name: t("measure.density"), text: share(layer.density.mean) })}`,
    draw: (width) =>
      plot(width, {
        x: { label: t("layers.histogram_x"), tickFormat: (edge) => share(bins.edges[edge]), ticks: marks(width), labelArrow: "none" },
        y: { label: t("layers.histogram_y"), grid: true, ticks: Math.min(5, Math.max(...bins.counts)), tickFormat: number, labelArrow: "none" },
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

// `drawn`: those of the rows that the curve goes through.
function curve({ title, name, note, rows, drawn = rows, columns = [], x, xLabel, yLabel, log, text }) {
  return chart({
    title,
    name,
    note,
    text,
    draw: (width) =>
      plot(width, {
        x: { label: xLabel, ticks: 5, tickFormat: number, labelArrow: "none" },
        y: { label: yLabel, grid: true, tickFormat: share, labelArrow: "none", ...(log ? logAxis(drawn.map((row) => row.value)) : { ticks: 5, zero: true }) },
        marks: [Plot.lineY(drawn, { x, y: "value", stroke: "var(--c1)", strokeWidth: 2, curve: "linear" })],
      }),
    columns: [
      { title: xLabel, kind: "number", value: (row) => row[x] },
      ...columns,
      { title: yLabel, kind: "share", value: (row) => row.value },
    ],
    rows,
    most: MOST_ROWS,
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
  const rows = layer.use
    .map((value, neuron) => ({ neuron, value }))
    .sort((one, other) => other.value - one.value)
    .map((row, index) => ({ ...row, rank: index + 1 }));
  const fired = rows.filter((row) => row.value > 0);
  const every = Math.max(1, Math.floor(fired.length / 200));
  const drawn = fired.filter((_, index) => index % every === 0 || index === fired.length - 1);
  const title = titled("layers.use_title", layer);
  const note = t("layers.use_note", { never: number(rows.filter((row) => row.value === 0).length), all: number(rows.length) });
  const log = drawn.length > 0 && drawn.at(-1).value < 0.1 * drawn[0].value;
  const columns = [{ title: t("common.neuron"), kind: "number", value: (row) => row.neuron }];
  return curve({ title, name: "use", note, rows, drawn, columns, x: "rank", xLabel: t("layers.use_x"), yLabel: t("layers.use_y"), log, text: `${title}. ${note}` });
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
  const note = rows.length > MOST_TOKENS ? t("layers.tokens_note", { n: number(MOST_TOKENS), all: number(rows.length) }) : null;
  return el(
    "div",
    { class: "chart tall" },
    table({ title, name: "tokens", columns, rows, most: MOST_TOKENS, note }),
  );
}

listen(["layer"], () => {
  if (!place) return;
  update();
  announce(titled("layers.one_title", layerChosen()));
});

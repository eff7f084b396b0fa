// Layers beside each other: a chart for each question, and one table with everything.
import { chart, LOOKS, plot } from "./chart.js";
import { byId, el, fill } from "./dom.js";
import { drawLayer } from "./layer.js";
import { allColumns, columnsOf, explanations, nameColumn } from "./measures.js";
import { number, share } from "./numbers.js";
import { layerShort, record } from "./record.js";
import { table } from "./table.js";
import { t } from "./words.js";

const HOLLOW = { ...LOOKS[0], hollow: true };
const RANGE = { colour: "var(--c1)", symbol: "line" };

export function drawLayers() {
  const body = byId("layers-body");
  if (!record.layers.length) return fill(body, el("p", {}, t("layers.empty")));
  const measured = record.layers.some((layer) => layer.saves?.measured);
  const one = el("div", { id: "layer" });
  fill(
    body,
    el("p", { class: "note" }, t("layers.names")),
    el("div", { class: "charts" }, density(), few(), ranks(), updates(), weights(), savings(), measured ? times() : null, dead()),
    table({ title: t("layers.table"), name: "layers", columns: allColumns(), rows: record.layers }),
    explanations(),
    one,
  );
  drawLayer(one);
}

// Where a share of the tokens lies below, by the histogram, in between as if spread evenly.
function quantile({ edges, counts }, level) {
  const goal = level * counts.reduce((sum, count) => sum + count, 0);
  let below = 0;
  for (const [index, count] of counts.entries()) {
    if (count && below + count >= goal) {
      return edges[index] + ((goal - below) / count) * (edges[index + 1] - edges[index]);
    }
    below += count;
  }
  return edges.at(-1);
}

function density() {
  const rows = record.layers.map((layer) => {
    const { histogram, least, most } = layer.density;
    if (!histogram?.counts.some((count) => count > 0)) return { layer, low: null, high: null };
    return { layer, low: Math.max(least, quantile(histogram, 0.05)), high: Math.min(most, quantile(histogram, 0.95)) };
  });
  const columns = [
    { title: t("common.layer"), kind: "text", value: (row) => row.layer.name },
    { title: t("measure.density"), kind: "share", value: (row) => row.layer.density.mean },
    { title: t("layers.low"), kind: "share", value: (row) => row.low },
    { title: t("layers.high"), kind: "share", value: (row) => row.high },
    { title: t("measure.candidates"), kind: "share", value: (row) => row.layer.candidates?.mean },
    { title: t("measure.near"), kind: "share", value: (row) => row.layer.near ?? null },
  ];
  const soft = record.layers.filter((layer) => !layer.exact_zeros).map(layerShort);
  const marks = (x) => [
    Plot.ruleX(rows, { x, y1: "low", y2: "high", stroke: RANGE.colour, strokeWidth: 2, strokeOpacity: 0.55 }),
    Plot.dot(rows, { x, y: (row) => row.layer.candidates?.mean, stroke: "var(--c1)", r: 4.5 }),
    ...(soft.length ? [Plot.dot(rows, { x, y: (row) => row.layer.near, fill: LOOKS[2].colour, symbol: LOOKS[2].symbol, r: 4.5 })] : []),
    Plot.dot(rows, { x, y: (row) => row.layer.density.mean, fill: "var(--c1)", r: 4.5 }),
  ];
  const note = [t("layers.density_note"), soft.length ? t("layers.density_soft", { layers: soft.join(", ") }) : ""].join(" ");
  return layerChart({
    title: t("layers.density_title"),
    name: "density",
    note,
    legend: [
      { label: t("series.mean"), look: LOOKS[0] },
      { label: t("series.range"), look: RANGE },
      { label: t("series.candidates"), look: HOLLOW },
      ...(soft.length ? [{ label: t("measure.near"), look: LOOKS[2] }] : []),
    ],
    percent: true,
    value: (layer) => layer.density.mean,
    draw: (width) => axes(width, rows.map((row) => row.layer), true, marks((row) => layerShort(row.layer))),
    columns,
    rows,
  });
}

function few() {
  return series("few", "layers.few_title", "layers.few_note", true, [
    ["series.ninety", "measure.ninety"],
    ["series.overlap", "measure.overlap"],
  ]);
}

function ranks() {
  return series("ranks", "layers.rank_title", "layers.rank_note", false, [
    ["series.input", "measure.rank_input"],
    ["series.hidden", "measure.rank_hidden"],
    ["series.output", "measure.rank_output"],
  ]);
}

function updates() {
  return series("updates", "layers.update_title", "layers.update_note", false, [["series.ratio", "measure.update"]]);
}

function weights() {
  return series("weights", "layers.weight_title", "layers.weight_note", true, [
    ["series.parameters", "measure.parameters_share"],
    ["series.arithmetic", "measure.flops_share"],
  ]);
}

function savings() {
  return series("savings", "layers.saves_title", "layers.saves_note", true, [
    ["series.bytes", "measure.bytes_read"],
    ["series.arithmetic", "measure.flops_done"],
  ]);
}

function times() {
  const all = ["series.torch", "measure.torch_ms"];
  return series("times", "layers.time_title", "layers.time_note", false, [all, ["series.engine", "measure.engine_ms"]], ["measure.timed_tokens"]);
}

function dead() {
  return series("dead", "layers.dead_title", "layers.dead_note", false, [
    ["series.dead", "measure.dead"],
    ["series.always", "measure.always"],
  ]);
}

// Measures of all layers as dots on thin stems, one form and colour each; null if none is known.
function series(name, title, note, percent, pairs, more = []) {
  const measures = columnsOf(...pairs.map(([, measure]) => measure));
  const known = (value) => typeof value === "number";
  if (!measures.some(({ value }) => record.layers.some((layer) => known(value(layer))))) return null;
  const apart = (index) => (index - (pairs.length - 1) / 2) * 9;
  const marks = measures.flatMap(({ value }, index) => {
    const look = LOOKS[index];
    const place = { x: layerShort, y: value, dx: apart(index) };
    return [
      Plot.ruleX(record.layers, { ...place, y1: 0, y2: value, y: undefined, stroke: look.colour, strokeOpacity: 0.5 }),
      Plot.dot(record.layers, { ...place, fill: look.colour, symbol: look.symbol, r: 4.5 }),
    ];
  });
  return layerChart({
    title: t(title),
    name,
    note: t(note),
    legend: pairs.map(([label], index) => ({ label: t(label), look: LOOKS[index] })),
    percent,
    value: measures[0].value,
    draw: (width) => axes(width, record.layers, percent, [Plot.ruleY([0], { strokeOpacity: 0.3 }), ...marks]),
    columns: [nameColumn(), ...measures, ...columnsOf(...more)],
    rows: record.layers,
  });
}

function axes(width, layers, percent, marks) {
  const names = layers.map(layerShort);
  const every = Math.ceil(names.length / Math.max(1, Math.floor((width - 60) / 30)));
  return plot(width, {
    x: { type: "point", domain: names, label: null, ticks: names.filter((_, index) => index % every === 0), padding: 0.6 },
    y: { label: null, grid: true, nice: true, zero: true, ticks: 5, tickFormat: percent ? share : number },
    marks,
  });
}

// The text of a chart names its extremes.
function layerChart({ value, percent, ...rest }) {
  const known = record.layers.filter((layer) => typeof value(layer) === "number");
  const sorted = known.toSorted((one, other) => value(one) - value(other));
  const show = percent ? share : number;
  const text = sorted.length
    ? t("common.from_to", {
        title: rest.title,
        low: show(value(sorted[0])),
        where_low: sorted[0].name,
        high: show(value(sorted.at(-1))),
        where_high: sorted.at(-1).name,
      })
    : rest.title;
  return chart({ ...rest, text });
}

// Layers beside each other: a chart for each question, and one table with everything.
import { chart, LOOKS, plot } from "./chart.js";
import { byId, el, fill } from "./dom.js";
import { drawLayer } from "./layer.js";
import { allColumns, columnsOf, explanations, nameColumn } from "./measures.js";
import { number, share } from "./numbers.js";
import { layerShort, record } from "./record.js";
import { table } from "./table.js";
import { joined, t } from "./words.js";

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
  const x = (row) => layerShort(row.layer);
  const marks = ({ r }) => [
    Plot.ruleX(rows, { x, y1: "low", y2: "high", stroke: RANGE.colour, strokeWidth: 2, strokeOpacity: 0.55 }),
    Plot.dot(rows, { x, y: (row) => row.layer.candidates?.mean, stroke: "var(--c1)", r }),
    ...(soft.length ? [Plot.dot(rows, { x, y: (row) => row.layer.near, fill: LOOKS[2].colour, symbol: LOOKS[2].symbol, r })] : []),
    Plot.dot(rows, { x, y: (row) => row.layer.density.mean, fill: "var(--c1)", r }),
  ];
  const note = joined(t("layers.density_note"), soft.length ? t("layers.density_soft", { layers: soft.join(", ") }) : "");
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
    draw: (width) => axes(width, t("layers.unit_neurons"), true, marks(room(width, 1))),
    columns,
    rows,
  });
}

function few() {
  return series({ name: "few", title: "layers.few_title", note: t("layers.few_note"), unit: "layers.unit_share", percent: true }, [
    ["series.ninety", "measure.ninety"],
    ["series.overlap", "measure.overlap"],
  ]);
}

function ranks() {
  return series({ name: "ranks", title: "layers.rank_title", note: t("layers.rank_note"), unit: "layers.unit_directions" }, [
    ["series.input", "measure.rank_input"],
    ["series.hidden", "measure.rank_hidden"],
    ["series.output", "measure.rank_output"],
  ]);
}

function updates() {
  return series({ name: "updates", title: "layers.update_title", note: t("layers.update_note"), unit: "layers.unit_lengths" }, [
    ["series.ratio", "measure.update"],
  ]);
}

function weights() {
  return series({ name: "weights", title: "layers.weight_title", note: t("layers.weight_note"), unit: "layers.unit_model", percent: true }, [
    ["series.parameters", "measure.parameters_share"],
    ["series.arithmetic", "measure.flops_share"],
  ]);
}

function savings() {
  return series({ name: "savings", title: "layers.saves_title", note: t("layers.saves_note"), unit: "layers.unit_dense", percent: true }, [
    ["series.bytes", "measure.bytes_read"],
    ["series.arithmetic", "measure.flops_done"],
  ]);
}

// Layers are called with as many tokens as they get at once: only times of one token compare.
function times() {
  const calls = d3.rollup(record.layers, (some) => some.map(layerShort).join(", "), (layer) => layer.saves?.measured?.tokens);
  const key = calls.size > 1 ? "layers.time_tokens" : "layers.time_tokens_all";
  const tokens = [...calls].filter(([count]) => count).map(([count, layers]) => t(key, { count: number(count), layers }));
  const note = joined(t("layers.time_note"), ...tokens);
  const more = ["measure.torch_ms", "measure.engine_ms", "measure.timed_tokens"];
  return series({ name: "times", title: "layers.time_title", note, unit: "layers.unit_time", more }, [
    ["series.torch", "measure.torch_token"],
    ["series.engine", "measure.engine_token"],
  ]);
}

function dead() {
  return series({ name: "dead", title: "layers.dead_title", note: t("layers.dead_note"), unit: "layers.unit_count" }, [
    ["series.dead", "measure.dead"],
    ["series.always", "measure.always"],
  ]);
}

// Measures of all layers as dots on thin stems, one form and colour each; null if none is known.
function series({ name, title, note, unit, percent = false, more = [] }, pairs) {
  const measures = columnsOf(...pairs.map(([, measure]) => measure));
  const known = (value) => typeof value === "number";
  if (!measures.some(({ value }) => record.layers.some((layer) => known(value(layer))))) return null;
  const marks = ({ r, apart }) =>
    measures.flatMap(({ value }, index) => {
      const look = LOOKS[index];
      const place = { x: layerShort, y: value, dx: (index - (pairs.length - 1) / 2) * apart };
      return [
        Plot.ruleX(record.layers, { ...place, y1: 0, y2: value, y: undefined, stroke: look.colour, strokeOpacity: 0.5 }),
        Plot.dot(record.layers, { ...place, fill: look.colour, symbol: look.symbol, r }),
      ];
    });
  return layerChart({
    title: t(title),
    name,
    note,
    legend: pairs.map(([label], index) => ({ label: t(label), look: LOOKS[index] })),
    percent,
    value: measures[0].value,
    draw: (width) => axes(width, t(unit), percent, [Plot.ruleY([0], { strokeOpacity: 0.3 }), ...marks(room(width, pairs.length))]),
    columns: [nameColumn(), ...measures, ...columnsOf(...more)],
    rows: record.layers,
  });
}

// How large dots can be, and how far apart those of one layer, so that layers do not overlap.
function room(width, count) {
  const each = (width - 72) / (record.layers.length + 0.2) / count;
  return { r: Math.max(1.2, Math.min(4.5, 0.42 * each)), apart: Math.min(9, 0.85 * each) };
}

function axes(width, label, percent, marks) {
  const names = record.layers.map(layerShort);
  const every = Math.ceil(names.length / Math.max(1, Math.floor((width - 60) / 30)));
  return plot(width, {
    x: { type: "point", domain: names, label: null, ticks: names.filter((_, index) => index % every === 0), padding: 0.6 },
    y: { label, labelArrow: "none", grid: true, nice: true, zero: true, ticks: 5, tickFormat: percent ? share : number },
    marginBottom: 26,
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

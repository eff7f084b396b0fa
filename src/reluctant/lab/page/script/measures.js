// The measures of a layer: one column each of the table of all layers.
import { el } from "./dom.js";
import { activationName, layerShort, record } from "./record.js";
import { t } from "./words.js";

const MEASURES = [
  ["measure.activation", "text", activationName],
  ["measure.d_model", "number", (layer) => layer.d_model],
  ["measure.d_ff", "number", (layer) => layer.d_ff],
  ["measure.density", "share", (layer) => layer.density?.mean],
  ["measure.least", "share", (layer) => layer.density?.least],
  ["measure.most", "share", (layer) => layer.density?.most],
  ["measure.near", "share", (layer) => layer.near],
  ["measure.candidates", "share", (layer) => layer.candidates?.mean],
  ["measure.slack", "share", (layer) => layer.candidates?.slack],
  ["measure.dead", "number", (layer) => layer.dead],
  ["measure.always", "number", (layer) => layer.always],
  ["measure.ninety", "share", (layer) => layer.neurons_for_90],
  ["measure.overlap", "share", (layer) => layer.overlap],
  ["measure.rank_input", "number", (layer) => layer.effective_rank?.input],
  ["measure.rank_hidden", "number", (layer) => layer.effective_rank?.hidden],
  ["measure.rank_output", "number", (layer) => layer.effective_rank?.output],
  ["measure.update", "number", (layer) => layer.update?.ratio],
  ["measure.cosine", "number", (layer) => layer.update?.cosine],
  ["measure.parameters", "number", (layer) => layer.parameters],
  ["measure.parameters_share", "share", (layer) => layer.parameters_share],
  ["measure.flops", "number", (layer) => layer.flops_per_token],
  ["measure.flops_share", "share", (layer) => layer.flops_share],
  ["measure.bytes_read", "share", (layer) => layer.saves?.computed?.bytes_share],
  ["measure.flops_done", "share", (layer) => layer.saves?.computed?.flops_share],
  ["measure.torch_token", "number", (layer) => ofToken(layer, "torch_ms")],
  ["measure.engine_token", "number", (layer) => ofToken(layer, "engine_ms")],
  ["measure.torch_ms", "number", (layer) => layer.saves?.measured?.torch_ms],
  ["measure.engine_ms", "number", (layer) => layer.saves?.measured?.engine_ms],
  ["measure.timed_tokens", "number", (layer) => layer.saves?.measured?.tokens],
];

const EXPLANATIONS = [
  [["measure.density", "measure.least", "measure.most"], "explain.density"],
  [["measure.near"], "explain.near"],
  [["measure.candidates", "measure.slack"], "explain.candidates"],
  [["measure.dead", "measure.always"], "explain.dead"],
  [["measure.ninety"], "explain.ninety"],
  [["measure.overlap"], "explain.overlap"],
  [["measure.rank_input", "measure.rank_hidden", "measure.rank_output"], "explain.rank"],
  [["measure.update", "measure.cosine"], "explain.update"],
  [["measure.parameters", "measure.parameters_share", "measure.flops", "measure.flops_share"], "explain.parameters"],
  [["measure.bytes_read", "measure.flops_done"], "explain.needed"],
  [["measure.torch_token", "measure.engine_token"], "explain.of_token"],
  [["measure.torch_ms", "measure.engine_ms", "measure.timed_tokens"], "explain.measured"],
];

function ofToken(layer, name) {
  const { [name]: time, tokens } = layer.saves?.measured ?? {};
  return typeof time === "number" && tokens ? time / tokens : null;
}

export function nameColumn() {
  const show = (layer) => [el("span", { class: "long" }, layer.name), el("span", { class: "short" }, layerShort(layer))];
  return { title: t("common.layer"), kind: "text", value: (layer) => layer.name, show };
}

// The column of one measure; several for a chart's own table.
export function columnsOf(...keys) {
  return keys.map((key) => {
    const [, kind, value] = MEASURES.find(([name]) => name === key);
    return { title: t(key), kind, value };
  });
}

// Columns that nothing is known of are left out.
export function allColumns() {
  const known = MEASURES.filter(([, , value]) => record.layers.some((layer) => (value(layer) ?? null) !== null));
  return [nameColumn(), ...columnsOf(...known.map(([key]) => key))];
}

export function explanations() {
  const entries = EXPLANATIONS.map(([keys, text]) => [
    el("dt", {}, keys.map((key) => t(key)).join(" · ")),
    el("dd", {}, t(text)),
  ]);
  return el("details", { class: "wide" }, el("summary", {}, t("layers.explain")), el("dl", { class: "explain" }, entries));
}

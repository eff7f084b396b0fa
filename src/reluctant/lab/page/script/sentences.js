// The sentence view: how many neurons each token used in each layer, and what is said without one.
import { announce, byId, el, fill, isolated, quote, token } from "./dom.js";
import { wordColumns } from "./fired.js";
import { grid } from "./grid.js";
import { number, share } from "./numbers.js";
import { layerNamed, layerShort, neuronLink, record, stackName } from "./record.js";
import { choose, get, listen } from "./state.js";
import { table } from "./table.js";
import { without } from "./without.js";
import { say, t } from "./words.js";

let parts = null;

function sentenceIndex() {
  const index = Number.parseInt(get("sentence") ?? record.walk?.sentence ?? 0, 10);
  return record.sentences[index] ? index : 0;
}

// The chosen cell: a layer of the sentence and the position of a token.
function cell() {
  const sentence = record.sentences[sentenceIndex()];
  const name = get("cell")?.replace(/:\d+$/, "");
  const layer = sentence.layers.find((one) => one.name === name);
  const position = Number(get("cell")?.match(/:(\d+)$/)?.[1]);
  if (layer?.tokens[position]) return { layer, position };
  const first = sentence.layers.find((one) => one.name === record.walk?.layer) ?? sentence.layers[0];
  const same = record.walk?.sentence === sentenceIndex() && first?.name === record.walk.layer;
  return { layer: first, position: same && first.tokens[record.walk.position] ? record.walk.position : 0 };
}

export function drawSentences() {
  const body = byId("sentences-body");
  if (!record.sentences.length) return fill(body, el("p", {}, t("sentences.none")));
  const options = record.sentences.map((sentence, index) =>
    el("option", { value: index, selected: index === sentenceIndex() }, isolated(sentence.text, 90)),
  );
  const select = el("select", { id: "sentence-choice", change: (event) => choose({ sentence: event.target.value, cell: "" }) }, options);
  parts = {
    select,
    said: el("div", { class: "said" }),
    grids: el("div", {}),
    used: el("article", { class: "card" }),
    without: el("div", {}),
  };
  fill(
    body,
    el("label", { class: "field", for: "sentence-choice" }, el("span", {}, t("sentences.choose")), select),
    parts.said,
    parts.grids,
    parts.used,
    parts.without,
  );
  sentenceChanged();
}

function sentenceChanged() {
  const sentence = record.sentences[sentenceIndex()];
  parts.select.value = sentenceIndex();
  fill(
    parts.said,
    el("p", {}, quote(sentence.text, 2000)),
    sentence.output === null ? null : el("p", {}, say("sentences.output", { text: quote(sentence.output, 2000) })),
  );
  const stacks = Object.entries(sentence.parts).filter(([, tokens]) => tokens?.length);
  fill(parts.grids, stacks.map(([stack, tokens]) => stackGrid(sentence, stack, tokens)), el("p", { class: "note" }, t("sentences.grid_keys")));
  cellChanged();
}

function stackGrid(sentence, stack, tokens) {
  const layers = sentence.layers.filter((layer) => layer.stack === stack);
  if (!layers.length) return null;
  const title = t("sentences.grid", { stack: stackName(stack) });
  const rows = layers.map((layer) => ({
    head: [el("span", { class: "long" }, layer.name), el("span", { class: "short" }, layerShort(layerNamed(layer.name)))],
    cells: layer.tokens.map((one, position) => ({
      value: one.active,
      key: `${layer.name}:${position}`,
      label: t("sentences.cell", { token: isolated(tokens[position] ?? ""), layer: layer.name, active: number(one.active) }),
    })),
  }));
  const columns = [
    { title: t("common.token"), kind: "text", value: (row) => row.token, show: (row) => quote(row.token, 40) },
    ...layers.map((layer) => ({ title: layer.name, kind: "number", value: (row) => layer.tokens[row.position]?.active ?? null })),
  ];
  const list = tokens.map((one, position) => ({ token: one, position }));
  const all = t("sentences.all_cells", { stack: stackName(stack) });
  return [
    grid(title, tokens.map((one) => quote(one, 16)), rows, (key) => choose({ cell: key })),
    stack === "decoder" ? el("p", { class: "note" }, t("sentences.decoder_note")) : null,
    el("details", { class: "wide" }, el("summary", {}, t("common.numbers")), table({ title: all, name: `sentence-${stack}`, columns, rows: list })),
  ];
}

function cellChanged() {
  const sentence = record.sentences[sentenceIndex()];
  const { layer, position } = cell();
  for (const node of parts.grids.querySelectorAll(".grid")) node.mark(layer ? `${layer.name}:${position}` : "");
  if (!layer?.tokens.length) return fill(parts.used);
  fill(parts.used, used(layer, sentence.parts[layer.stack]?.[position] ?? "", layer.tokens[position]));
  fill(parts.without, without(layer));
}

function used(layer, text, { active, neurons }) {
  const own = layerNamed(layer.name);
  const columns = [
    { title: t("common.neuron"), kind: "number", value: (one) => one.index, show: (one) => neuronLink(own, one.index, String(one.index)) },
    { title: t("walk.column_h"), kind: "number", value: (one) => one.h },
    { title: t("walk.column_norm"), kind: "number", value: (one) => one.norm },
    ...wordColumns(own),
  ];
  const values = { token: token(text), layer: el("code", {}, layer.name), active: number(active) };
  return [
    el("h3", { id: "used-title" }, say("sentences.used", values)),
    el("p", { class: "note" }, t("sentences.used_note", { share: share(active / own.d_ff) })),
    table({ title: t("sentences.used_table"), name: "used", columns, rows: neurons }),
  ];
}

listen(["sentence", "cell"], (names) => {
  if (!parts) return;
  if (names.includes("sentence")) sentenceChanged();
  else cellChanged();
  const { layer, position } = cell();
  const text = record.sentences[sentenceIndex()].parts[layer?.stack]?.[position] ?? "";
  if (layer) announce(t("sentences.used", { token: isolated(text), layer: layer.name, active: number(layer.tokens[position].active) }));
});

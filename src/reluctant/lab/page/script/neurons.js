// The neuron browser: all neurons of a layer as a field, those with details as a list, one closer.
import { announce, byId, el, fill, redraw, show } from "./dom.js";
import { drawField, fieldCanvas, paintField } from "./field.js";
import { layerSelect } from "./layer.js";
import { listbox } from "./listbox.js";
import { neuronCard } from "./neuron.js";
import { number, share } from "./numbers.js";
import { firedOn, layerChosen, promoted, record } from "./record.js";
import { choose, get, listen } from "./state.js";
import { table } from "./table.js";
import { t } from "./words.js";

const ORDERS = {
  norm: (one, other) => (other.norm_share ?? 0) - (one.norm_share ?? 0),
  use: (one, other) => (other.use ?? 0) - (one.use ?? 0),
  index: (one, other) => one.index - other.index,
};
let order = "norm";
let wanted = "";
let parts = null;

// The chosen neuron; at first the one that adds the most.
function neuronChosen() {
  const layer = layerChosen();
  const index = Number.parseInt(get("neuron"), 10);
  if (index >= 0 && index < layer.d_ff) return index;
  return layer.neurons.toSorted(ORDERS.norm)[0]?.index ?? 0;
}

export function drawNeurons() {
  const body = byId("neurons-body");
  if (!record.layers.length) return fill(body, el("p", {}, t("layers.empty")));
  parts = {
    canvas: fieldCanvas(pointed),
    found: el("p", { class: "note" }),
    list: el("div", {}),
    card: el("article", { class: "card", id: "neuron" }),
    table: el("div", {}),
    layer: layerSelect("neuron-layer"),
    number: el("input", { type: "number", id: "neuron-number", min: 0, inputmode: "numeric", change: goTo }),
    range: el("span", {}),
  };
  fill(
    body,
    el("div", { class: "controls" }, parts.layer, orderSelect(), filterInput(), labelled("neuron-number", parts.range, parts.number)),
    el("div", { class: "neuron-field" }, parts.canvas, el("p", { class: "note" }, t("neurons.field_note"))),
    el("div", { class: "browser" }, el("div", { class: "side" }, parts.found, listHead(), parts.list), parts.card),
    parts.table,
  );
  drawField(parts.canvas, layerChosen, neuronChosen);
  layerChanged();
}

export function paintNeurons() {
  if (parts) paintField();
}

function labelled(id, text, input) {
  return el("label", { class: "field", for: id }, el("span", {}, text), input);
}

function orderSelect() {
  const names = [["norm", t("neurons.sort_norm")], ["use", t("neurons.sort_use")], ["index", t("neurons.sort_index")]];
  const options = names.map(([value, text]) => el("option", { value, selected: value === order }, text));
  const change = (event) => {
    order = event.target.value;
    listChanged();
  };
  return labelled("neuron-order", t("neurons.sort"), el("select", { id: "neuron-order", change }, options));
}

function filterInput() {
  const input = (event) => {
    wanted = event.target.value;
    announce(listChanged());
  };
  const properties = { type: "search", id: "neuron-filter", value: wanted, placeholder: t("neurons.filter_hint"), input };
  return labelled("neuron-filter", t("neurons.filter"), el("input", properties));
}

function goTo(event) {
  if (!event.target.value) return;
  const index = event.target.valueAsNumber;
  if (index >= 0 && index < layerChosen().d_ff) return choose({ neuron: Math.floor(index) });
  parts.number.value = neuronChosen();
  announce(range());
}

function range() {
  return t("neurons.go", { last: number(layerChosen().d_ff - 1) });
}

// Chosen by pointer: on a phone the card stands above the field and the list.
function pointed(index) {
  choose({ neuron: index });
  if (matchMedia("(max-width: 50rem)").matches) show("neuron");
}

function matches(neuron) {
  const word = wanted.trim().toLowerCase();
  if (!word) return true;
  const contexts = neuron.contexts.map((one) => one.before + one.token + one.after);
  const words = [...(neuron.promotes ?? []), ...(neuron.suppresses ?? [])].map((one) => one.token);
  return [...contexts, ...words].some((text) => text.toLowerCase().includes(word));
}

function layerChanged() {
  const layer = layerChosen();
  parts.layer.querySelector("select").value = layer.name;
  parts.number.max = layer.d_ff - 1;
  parts.range.textContent = range();
  const columns = [
    { title: t("common.neuron"), kind: "number", value: (one) => one.index },
    { title: t("neurons.use"), kind: "share", value: (one) => one.use },
    { title: t("neurons.mean"), kind: "number", value: (one) => one.mean },
    { title: t("neurons.norm_share"), kind: "share", value: (one) => one.norm_share },
    { title: t("neurons.value_norm"), kind: "number", value: (one) => one.value_norm },
    { title: t("neurons.key_norm"), kind: "number", value: (one) => one.key_norm },
    { title: t("neurons.bias"), kind: "number", value: (one) => one.bias },
    { title: t("neurons.promotes"), kind: "text", value: (one) => (one.promotes ?? []).map((word) => word.token).join(" "), show: (one) => promoted(layer, one.index) },
  ];
  const title = t("neurons.table", { layer: layer.name });
  const rows = layer.neurons.toSorted(ORDERS.index);
  const details = el("details", { class: "wide" }, el("summary", {}, title), table({ title, name: `neurons-${layer.name}`, columns, rows }));
  redraw(parts.table, () => fill(parts.table, details));
  listChanged();
  neuronChanged();
}

// The list anew; says how many there are.
function listChanged() {
  const layer = layerChosen();
  const some = layer.neurons.filter(matches).toSorted(ORDERS[order]);
  const text = t("neurons.found", { n: number(some.length), all: number(layer.neurons.length) });
  parts.found.textContent = text;
  const most = Math.max(...layer.neurons.map((one) => one.norm_share ?? 0), Number.MIN_VALUE);
  const label = (one) => t("neurons.option", { index: one.index, share: share(one.use) });
  const options = some.map((one) => ({ value: one.index, label: label(one), content: entry(layer, one, most) }));
  const list = listbox(t("neurons.list", { layer: layer.name }), options, neuronChosen(), (index) => choose({ neuron: index }), pointed);
  fill(parts.list, list);
  list.mark(neuronChosen());
  return text;
}

// What stands where in an entry; each option has it in words of its own.
function listHead() {
  const names = ["neurons.column_index", "neurons.column_use", "neurons.column_share", "neurons.column_words"];
  return el("p", { class: "note list-head", "aria-hidden": "true" }, names.map((name) => el("span", {}, t(name))));
}

function entry(layer, one, most) {
  return [
    el("span", { class: "entry-index" }, String(one.index)),
    el("span", { class: "entry-use" }, share(one.use)),
    el("span", { class: "bar-room" }, el("span", { class: "bar-fill", style: `width:${(100 * (one.norm_share ?? 0)) / most}%` })),
    el("span", { class: "entry-words" }, one.promotes ? promoted(layer, one.index) : firedOn(layer, one.index)),
  ];
}

function neuronChanged() {
  const index = neuronChosen();
  parts.number.value = index;
  parts.list.firstElementChild?.mark?.(index);
  fill(parts.card, neuronCard(layerChosen(), index));
  paintField();
}

listen(["layer", "neuron"], (names) => {
  if (!parts) return;
  if (names.includes("layer")) layerChanged();
  else neuronChanged();
  announce(t("neurons.chosen", { index: neuronChosen(), layer: layerChosen().name }));
});

// The record of `reluctant inspect`, and what is asked of it everywhere.
import { el, quote } from "./dom.js";
import { follow } from "./follow.js";
import { address, get } from "./state.js";
import { read, t } from "./words.js";

export const record = read("data");
const byName = new Map(record.layers.map((layer) => [layer.name, layer]));
const details = new Map(
  record.layers.map((layer) => [layer.name, new Map(layer.neurons.map((one) => [one.index, one]))]),
);
const STACKS = { encoder: "E", decoder: "D", model: "L" };
const NAMES = { relu: "ReLU", relu2: "ReLU²", relu6: "ReLU6", gelu: "GELU", gelu_tanh: "GELU", silu: "SiLU", reglu: "ReGLU", geglu: "GEGLU", swiglu: "SwiGLU" };

export function layerNamed(name) {
  return byName.get(name);
}

// The chosen layer; at first that of the walk.
export function layerChosen() {
  return byName.get(get("layer")) ?? byName.get(record.walk?.layer) ?? record.layers[0];
}

export function layerShort(layer) {
  return `${STACKS[layer.stack] ?? "L"}${layer.index}`;
}

export function activationName(layer) {
  return NAMES[layer.activation] ?? layer.activation;
}

export function stackName(stack) {
  if (stack === "encoder") return t("stack.encoder");
  if (stack === "decoder") return t("stack.decoder");
  return t("stack.model");
}

export function detailsOf(layer, index) {
  return details.get(layer.name).get(index);
}

// Words that a neuron's value promotes, if there are any, as a short list of quotes.
export function promoted(layer, index, most = 3) {
  const words = detailsOf(layer, index)?.promotes?.slice(0, most) ?? [];
  return words.map(({ token }) => [quote(token.trim() || token, 24), " "]);
}

// The tokens that it fires most for, each once: what there is to see of a neuron without words.
export function firedOn(layer, index, most = 3) {
  const tokens = detailsOf(layer, index)?.contexts.map((context) => context.token) ?? [];
  const bare = tokens.map((one) => one.trim() || one);
  return [...new Set(bare)].slice(0, most).map((one) => [quote(one, 24), " "]);
}

export function neuronLink(layer, index, text = t("walk.neuron", { index })) {
  const changes = { layer: layer.name, neuron: index };
  const click = (event) => {
    event.preventDefault();
    follow(changes, "neuron");
  };
  return el("a", { href: address(changes), click, class: "neuron" }, text);
}

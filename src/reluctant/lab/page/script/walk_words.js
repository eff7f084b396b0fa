// The walk's sentences and its formula.
import { el, isolated } from "./dom.js";
import { number, share } from "./numbers.js";
import { activationName } from "./record.js";
import { t } from "./words.js";

export const STEPS = 6;
const GATES = { reglu: "ReLU", geglu: "GELU", swiglu: "SiLU" };

export function values(walk, layer) {
  return {
    token: isolated(walk.token),
    d_model: number(layer.d_model),
    d_ff: number(layer.d_ff),
    active: number(walk.active),
    share: share(walk.active / layer.d_ff),
    shown: number(walk.neurons.length),
    activation: activationName(layer),
  };
}

export function stepTitle(step, walk, layer) {
  const fire = layer.exact_zeros ? "walk.fire_title" : "walk.soft_title";
  const keys = ["walk.token_title", "walk.up_title", fire, "walk.add_title", "walk.down_title", "walk.residual_title"];
  return t(keys[step - 1], values(walk, layer));
}

export function stepText(step, walk, layer) {
  const up = layer.gated ? "walk.up_gated" : "walk.up_text";
  const fire = layer.exact_zeros ? "walk.fire_text" : "walk.soft_text";
  const keys = ["walk.token_text", up, fire, "walk.add_text", "walk.down_text", "walk.residual_text"];
  return t(keys[step - 1], values(walk, layer));
}

// FFN(x) = ReLU(x W1 + b1) W2 + b2, each piece with the steps that are about it.
export function formula(layer) {
  const name = (GATES[layer.activation] ?? activationName(layer)) + "(";
  const up = layer.gated
    ? [["(", ""], [name, "3"], ["x", "1 2"], [" Wg + bg", "2"], [")", "3"], [" · (", ""], ["x", "1 2"], [" W1 + b1", "2"], ["))", ""]]
    : [[name, "3"], ["x", "1 2"], [" W1 + b1", "2"], [")", "3"]];
  const pieces = [["FFN(x) = ", ""], ...up, [" W2", "4 5"], [" + b2", "5"]];
  const spans = (all) => all.map(([text, steps]) => el("span", { "data-steps": steps }, subscripts(text)));
  return el(
    "div",
    { class: "formula", role: "group", "aria-label": t("walk.formula") },
    el("p", {}, spans(pieces)),
    el("p", {}, spans([["x + FFN(x)", "6"]])),
  );
}

function subscripts(text) {
  return text.split(/(?<=[Wb])([12g])/).map((piece, index) => (index % 2 ? el("sub", {}, piece) : piece));
}

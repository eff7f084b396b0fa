// The walk's sentences and its formula.
import { el, isolated, token } from "./dom.js";
import { number, share } from "./numbers.js";
import { activationName } from "./record.js";
import { normedBefore } from "./stage.js";
import { say, t } from "./words.js";

export const STEPS = 6;
const GATES = { reglu: "ReLU", geglu: "GELU", swiglu: "SiLU" };

export function values(walk, layer) {
  const biased = hasBiases(layer);
  return {
    token: isolated(walk.token),
    d_model: number(layer.d_model),
    d_ff: number(layer.d_ff),
    active: number(walk.active),
    share: share(walk.active / layer.d_ff),
    shown: number(walk.neurons.length),
    activation: activationName(layer),
    normed: normedBefore(walk) ? t("walk.token_normed") : "",
    up: (biased ? "z = x W₁ + b₁" : "z = x W₁").replaceAll(" ", "\u00a0"),
    sum: t(biased ? "walk.down_biased" : "walk.down_bare"),
  };
}

function hasBiases(layer) {
  return layer.neurons.some((one) => typeof one.bias === "number");
}

export function stepTitle(step, walk, layer) {
  const fire = layer.exact_zeros ? "walk.fire_title" : "walk.soft_title";
  const keys = ["walk.token_title", "walk.up_title", fire, "walk.add_title", "walk.down_title", "walk.residual_title"];
  return t(keys[step - 1], values(walk, layer));
}

export function stepText(step, walk, layer) {
  const up = layer.gated ? "walk.up_gated" : "walk.up_text";
  const fire = layer.exact_zeros ? "walk.fire_text" : "walk.soft_text";
  const keys = ["walk.token_text", up, fire, "walk.add_text", "walk.down_text", residualText(walk)];
  return say(keys[step - 1], { ...values(walk, layer), token: el("mark", {}, token(walk.token)) });
}

function residualText(walk) {
  if (!walk.residual) return "walk.residual_unknown";
  return normedBefore(walk) ? "walk.residual_normed" : "walk.residual_text";
}

// At the end: the lengths of what is added and of the sum.
export function lengths(step, walk) {
  const added = step === STEPS && walk.residual;
  const first = added && normedBefore(walk) ? "r" : "x";
  const lengthOf = (list) => number(Math.hypot(...list));
  const said = { first, a: first === "r" ? lengthOf(walk.residual) : number(walk.x_norm), b: number(walk.y_norm) };
  if (!added) return t("walk.lengths", said);
  return t("walk.lengths_sum", { ...said, c: lengthOf(walk.out) });
}

// FFN(x) = ReLU(x W1 + b1) W2 + b2, each piece with the steps that are about it; below it the norm
// and the residual add, if they are known.
export function formula(walk, layer) {
  const plus = (bias) => (hasBiases(layer) ? ` + ${bias}` : "");
  const name = (GATES[layer.activation] ?? activationName(layer)) + "(";
  const map = (weights, bias) => [["x", "1 2"], [` ${weights}${plus(bias)}`, "2"]];
  const up = layer.gated
    ? [["(", ""], [name, "3"], ...map("Wg", "bg"), [")", "3"], [" · (", ""], ...map("W1", "b1"), ["))", ""]]
    : [[name, "3"], ...map("W1", "b1"), [")", "3"]];
  const first = [["FFN(x) = ", ""], ...up, [" W2", "4 5"], [plus("b2"), "5"]];
  const second = normedBefore(walk) ? [["x = norm(r)", "1"], ["r + FFN(x)", "6"]] : [["x + FFN(x)", "6"]];
  const line = (pieces) => el("p", {}, pieces.map(([text, steps]) => el("span", { "data-steps": steps }, subscripts(text))));
  return el(
    "div",
    { class: "formula", role: "group", "aria-label": t("walk.formula") },
    line(first),
    walk.residual ? line(second) : null,
  );
}

function subscripts(text) {
  return text.split(/(?<=[Wb])([12g])/).map((piece, index) => (index % 2 ? el("sub", {}, piece) : piece));
}

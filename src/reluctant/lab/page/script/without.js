// What the model says without one neuron, beside what it says with it.
import { el } from "./dom.js";
import { number } from "./numbers.js";
import { layerNamed, neuronLink } from "./record.js";
import { visible } from "./visible.js";
import { say, t } from "./words.js";

export function without(layer) {
  if (!layer.without?.length) return [];
  const own = layerNamed(layer.name);
  return [
    el("h3", {}, t("sentences.without")),
    el("p", { class: "note" }, say("sentences.without_note", { layer: el("code", {}, layer.name) })),
    el("ul", { class: "without" }, layer.without.map((one) => el("li", { class: "card" }, entry(own, one)))),
  ];
}

function entry(own, { neuron, fired, before, after, change }) {
  const words = typeof before === "string" && typeof after === "string";
  const key = words ? "sentences.change_words" : "sentences.change_vector";
  const effect = {
    fired: fired ? t("sentences.fired") : t("sentences.silent"),
    change: typeof change === "number" ? t(key, { change: number(change) }) : "",
  };
  const lines = [
    el("h4", {}, say("sentences.without_one", { neuron: neuronLink(own, neuron) })),
    el("p", { class: "note" }, t("sentences.effect", effect)),
  ];
  if (!words) return lines;
  if (before === after) return [...lines, line(t("sentences.with"), [before], []), el("p", { class: "note" }, t("sentences.same"))];
  const [here, there] = [before, after].map((text) => text.split(/(?<=\s)/));
  return [...lines, line(t("sentences.with"), here, there), line(t("sentences.minus"), there, here)];
}

// A line of words; those that the other line lacks are marked.
function line(name, words, other) {
  const left = new Map();
  for (const word of other) left.set(word.trim(), (left.get(word.trim()) ?? 0) + 1);
  const pieces = words.map((word) => {
    const count = left.get(word.trim()) ?? 0;
    left.set(word.trim(), count - 1);
    return !other.length || count > 0 ? visible(word) : el("mark", {}, visible(word));
  });
  return el("p", { class: "line" }, el("span", { class: "tag" }, name), el("bdi", { dir: "auto", translate: "no" }, pieces));
}

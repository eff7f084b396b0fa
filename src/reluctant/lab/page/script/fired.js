// The neurons that fired for the walk's token: the strongest as bars, all of them as a table.
import { el, isolated } from "./dom.js";
import { number } from "./numbers.js";
import { firedOn, neuronLink, promoted } from "./record.js";
import { table } from "./table.js";
import { current, say, t } from "./words.js";

const BARS = 5;

// The strongest few: how long what each one added is. `follow(index, link)` gives its link, marked
// in the drawing while it is pointed at.
export function bars(walk, layer, follow) {
  const most = walk.neurons[0]?.norm || 1;
  const row = (one) =>
    el(
      "li",
      {},
      follow(one.index, neuronLink(layer, one.index)),
      el("span", { class: "bar-room" }, el("span", { class: "bar-fill", style: `width:${(100 * one.norm) / most}%` })),
      el("span", { class: "number" }, number(one.norm)),
      firesOn(firedOn(layer, one.index)),
    );
  return [
    el("p", { class: "note", id: "bars-title" }, t("walk.bars")),
    el("ul", { class: "bars", "aria-labelledby": "bars-title" }, walk.neurons.slice(0, BARS).map(row)),
  ];
}

function firesOn(words) {
  if (!words.length) return null;
  return el("p", { class: "note" }, say("walk.fires_on", { tokens: listed(words) }));
}

function listed(words) {
  if (!words.length) return "–";
  const comma = current() === "zh" ? "、" : ", ";
  return words.map(([word], index) => [index ? comma : "", "“", word, "”"]);
}

export function firedTable(walk, layer, follow) {
  const title = walk.active > walk.neurons.length ? t("walk.most") : t("walk.fired");
  const columns = [
    { title: t("common.neuron"), kind: "number", value: (one) => one.index, show: (one) => follow(one.index, neuronLink(layer, one.index, String(one.index))) },
    { title: t("walk.column_z"), kind: "number", value: (one) => one.z },
    { title: t("walk.column_h"), kind: "number", value: (one) => one.h },
    { title: t("walk.column_norm"), kind: "number", value: (one) => one.norm },
    { title: t("walk.column_share"), kind: "share", value: (one) => one.share },
    ...wordColumns(layer),
  ];
  return el(
    "details",
    { class: "wide" },
    el("summary", {}, `${title} (${number(walk.neurons.length)})`),
    table({ title: `${title}: ${isolated(walk.token)}, ${layer.name}`, name: "fired", columns, rows: walk.neurons }),
  );
}

// Of a table of neurons: what each fires on and, where it is known, what its value promotes.
export function wordColumns(layer) {
  const text = (words) => words.map(([word]) => word.textContent).join(" ");
  const column = (title, words) => ({
    title,
    kind: "text",
    value: (one) => text(words(layer, one.index)),
    show: (one) => listed(words(layer, one.index)),
  });
  const speaks = layer.neurons.some((one) => one.promotes);
  return [column(t("walk.column_fires"), firedOn), ...(speaks ? [column(t("walk.column_promotes"), promoted)] : [])];
}

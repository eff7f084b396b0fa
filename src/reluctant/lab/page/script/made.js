// How the record was made, and what to bear in mind.
import { byId, el, fill, option, quote } from "./dom.js";
import { number, share, short } from "./numbers.js";
import { record } from "./record.js";
import { checkWords, english, reasonWords, whatWords } from "./record_words.js";
import { gap, say, t } from "./words.js";

function kind(name) {
  if (name === "encoder-decoder") return t("head.encoder_decoder");
  if (name === "encoder") return t("head.encoder");
  if (name === "decoder") return t("head.decoder");
  return t("head.other");
}

export function drawFacts() {
  const { model, totals, text } = record;
  const part = (one, all) => share(typeof one === "number" && all ? one / all : null);
  const facts = say("head.facts", {
    name: el("strong", {}, quote(model.name)),
    kind: kind(model.kind),
    parameters: short(totals.parameters ?? model.parameters),
    share: part(totals.feed_forward_parameters, totals.parameters),
    flops: part(totals.feed_forward_flops_per_token, totals.flops_per_token),
  });
  fill(byId("facts"), facts, gap(), whatWasRead(text));
}

function whatWasRead({ name, tokens, by_stack: stacks, target }) {
  const text = quote(name ?? "–", 80);
  if (typeof stacks?.encoder !== "number" || typeof stacks.decoder !== "number") return say("head.read", { tokens: number(tokens), text });
  const values = { encoder: number(stacks.encoder), decoder: number(stacks.decoder), text };
  return target === "given" ? say("head.read_given", values) : say("head.read_translated", values);
}

// Every reason for what is not known, with what it is and the layers that it is said of.
function reasons() {
  const found = [];
  for (const layer of record.layers) {
    for (const [key, why] of Object.entries(layer)) {
      if (!key.endsWith("_why") || typeof why !== "string") continue;
      const what = key.slice(0, -"_why".length);
      const same = found.find((one) => one.what === what && one.why === why);
      if (same) same.layers.push(layer.name);
      else found.push({ what, why, layers: [layer.name] });
    }
  }
  return found;
}

function notes() {
  const soft = record.layers.filter((layer) => !layer.exact_zeros).map((layer) => layer.name);
  const why = reasons().map((one) =>
    say("made.why", { what: whatWords(one.what), layers: one.layers.join(", "), why: reasonWords(one.why) }),
  );
  return [
    record.text.whole === false ? t("made.partial") : null,
    record.text.stopped ? say("made.stopped", { by: quote(record.text.stopped) }) : null,
    record.text.replaced ? t("made.replaced", { n: number(record.text.replaced) }) : null,
    record.text.target === "translated" ? t("made.translated") : null,
    soft.length ? t("made.soft", { layers: soft.join(", ") }) : null,
    record.shortened ? say("made.shortened", { ...record.shortened, json: option("--json") }) : null,
    ...why,
  ].filter((note) => note !== null);
}

// Layers that were left out, and what had to hold for the figures to mean something.
function lists() {
  const left = (record.left ?? []).map((one) =>
    el("li", {}, say("common.named", { name: el("code", {}, one.name), text: english(one.reason) })),
  );
  const checks = (record.checks ?? []).map((one) => {
    const name = el("strong", {}, one.holds ? t("made.holds") : t("made.fails"));
    return el("li", {}, say("common.named", { name, text: checkWords(one.says) }));
  });
  return [
    left.length ? [el("h3", {}, t("made.left")), el("ul", {}, left)] : [],
    checks.length ? [el("h3", {}, t("made.checks")), el("ul", {}, checks)] : [],
  ];
}

function pairs(entries) {
  return el("dl", { class: "explain" }, entries.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

export function drawMade() {
  const { text, model } = record;
  const facts = {
    name: quote(text.name ?? "–", 80),
    bytes: number(text.bytes),
    sequences: number(text.sequences),
    tokens: number(text.tokens),
    seconds: number(text.seconds),
  };
  const list = notes();
  fill(
    byId("made-body"),
    pairs([
      [t("made.command"), el("code", {}, quote(record.command ?? "–", 500))],
      [t("made.version"), `reluctant ${record.reluctant ?? "–"}`],
      [t("made.machine"), quote(record.machine ?? "–")],
      [t("made.model"), say("made.model_facts", { name: quote(model.name), class: quote(model.class ?? "–") })],
      [t("made.text"), say("made.text_facts", facts)],
    ]),
    list.length ? [el("h3", {}, t("made.notes")), el("ul", {}, list.map((note) => el("li", {}, note)))] : [],
    lists(),
    el("p", {}, say("made.source", { json: option("--json") })),
  );
}

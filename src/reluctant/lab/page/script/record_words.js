// What a record says in English, in the page's language where it is one of the usual sentences.
import { el, quote } from "./dom.js";
import { number } from "./numbers.js";
import { stackName } from "./record.js";
import { say, t } from "./words.js";

export function english(text) {
  return el("span", { lang: "en" }, quote(text));
}

// The name of what is not known.
export function whatWords(name) {
  if (name === "update") return t("measure.update");
  if (name === "promotes") return t("made.what_promotes");
  return el("code", {}, name);
}

// Patterns of the usual reasons and checks, each with what says the same.
const REASONS = [
  [/^the model has no output projection$/, () => t("made.why_no_head")],
  [/^the output projection does not read the (\w+)$/, ([, stack]) => t("made.why_other_stack", { stack: stackName(stack) })],
  [/^the output projection reads vectors of another length$/, () => t("made.why_other_length")],
  [/^no norm reads what comes after the layer$/, () => t("made.why_no_norm")],
  [/^the next norm reads neither the layer's input plus its output, /, () => t("made.why_other_norm")],
];
const CHECKS = [
  [
    /^the output while the layers are watched is (\S+) from the untouched model's$/,
    ([, apart]) => t("made.check_watching", { apart: number(Number.parseFloat(apart)) }),
  ],
  [/^all (\d+) layers computed what the model's own code computes$/, ([, n]) => t("made.check_layers", { n })],
  [/^(\d+) of (\d+) layers were put back: (.*)$/s, ([, n, all, names]) => say("made.check_lost", { n, all, names: quote(names) })],
];

function translated(patterns, text) {
  for (const [pattern, words] of patterns) {
    const found = pattern.exec(text);
    if (found) return words(found);
  }
  return english(text);
}

export function reasonWords(why) {
  return translated(REASONS, why);
}

export function checkWords(says) {
  return translated(CHECKS, says);
}

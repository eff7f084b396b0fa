// One neuron: when it fires, in which contexts, and what it then adds.
import { csvButton } from "./csv.js";
import { el, option, shown, token } from "./dom.js";
import { number, share } from "./numbers.js";
import { detailsOf, neuronLink } from "./record.js";
import { visible } from "./visible.js";
import { say, t } from "./words.js";

export function neuronCard(layer, index) {
  const neuron = detailsOf(layer, index);
  const head = el("h3", { id: "neuron-title", tabindex: "-1" }, t("neurons.heading", { index }), " ", el("small", {}, t("neurons.of_layer", { layer: layer.name })));
  const use = t("neurons.use_of", { share: share(neuron?.use ?? layer.use[index]) });
  if (!neuron) {
    return [head, facts([[t("neurons.use"), use]]), el("p", { class: "note" }, say("neurons.bare", { n: number(layer.neurons.length), option: option("--neurons") }))];
  }
  return [
    head,
    facts([
      [t("neurons.use"), use],
      [t("neurons.mean"), number(neuron.mean)],
      [t("neurons.norm_share"), [share(neuron.norm_share), el("small", {}, t("neurons.norm_share_note"))]],
      [t("neurons.value_norm"), number(neuron.value_norm)],
      [t("neurons.key_norm"), number(neuron.key_norm)],
      [t("neurons.bias"), number(neuron.bias)],
    ]),
    contexts(layer, neuron),
    words(neuron),
    neighbours(layer, neuron),
  ];
}

function facts(pairs) {
  return el("dl", { class: "facts-list" }, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function contexts(layer, neuron) {
  if (!neuron.contexts.length) return el("p", { class: "note" }, t("neurons.no_contexts"));
  const most = Math.max(...neuron.contexts.map((one) => Math.abs(one.value)), Number.MIN_VALUE);
  const items = neuron.contexts.map((one) =>
    el(
      "li",
      {},
      el("span", { class: "number" }, number(one.value)),
      el(
        "bdi",
        { dir: "auto", class: "context", translate: "no" },
        visible(one.before.trimStart(), 200),
        el("mark", { style: `--strength:${Math.round((100 * Math.abs(one.value)) / most)}%` }, shown(one.token, 80)),
        visible(one.after, 200),
      ),
    ),
  );
  const columns = [
    { title: t("neurons.value"), value: (one) => one.value },
    { title: t("neurons.before"), value: (one) => one.before },
    { title: t("common.token"), value: (one) => one.token },
    { title: t("neurons.after"), value: (one) => one.after },
  ];
  const title = t("neurons.contexts");
  const button = csvButton(title, `contexts-${layer.name}-${neuron.index}`, columns, neuron.contexts);
  return [el("div", { class: "table-head" }, el("h4", {}, title), button), el("ol", { class: "contexts" }, items)];
}

function words(neuron) {
  if (!neuron.promotes && !neuron.suppresses) return el("p", { class: "note" }, t("neurons.no_words"));
  const list = (title, all, kind) => [
    el("h4", {}, title),
    el("ul", { class: `chips ${kind}` }, (all ?? []).map((one) => el("li", {}, token(one.token), el("span", { class: "number" }, number(one.score))))),
  ];
  return el(
    "div",
    { class: "words" },
    el("div", {}, list(t("neurons.promotes"), neuron.promotes, "for")),
    el("div", {}, list(t("neurons.suppresses"), neuron.suppresses, "against")),
  );
}

function neighbours(layer, neuron) {
  const links = neuron.neighbours.map(({ index, cosine }) =>
    el("li", {}, neuronLink(layer, index, t("neurons.similar", { index, cosine: number(cosine) }))),
  );
  return [el("h4", {}, t("neurons.neighbours")), links.length ? el("ul", { class: "chips" }, links) : el("p", { class: "note" }, t("neurons.no_neighbours"))];
}

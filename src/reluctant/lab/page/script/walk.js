// The first screen: one token, step by step up through the layer and down again.
import { byId, calm, el, fill, isolated, quote, token } from "./dom.js";
import { number } from "./numbers.js";
import { layerNamed, neuronLink, promoted, record } from "./record.js";
import { amounts, between, layout, paint } from "./stage.js";
import { choose, get, listen } from "./state.js";
import { table } from "./table.js";
import { formula, stepText, stepTitle, STEPS, values } from "./walk_words.js";
import { say, t } from "./words.js";

const walk = record.walk;
const layer = walk && layerNamed(walk.layer);
let shown = amounts(0); // what the drawing shows now, between two steps
let marked = null; // the neuron that the pointer or the keyboard is on
let parts = {};

function step() {
  return Math.max(1, Math.min(STEPS, Number(get("step")) || 1));
}

export function drawWalk() {
  if (!walk || !layer) return fill(byId("walk-body"), el("p", {}, t("walk.none")));
  parts = {
    canvas: el("canvas", { role: "img", class: "stage-canvas" }),
    labels: el("div", { class: "labels", "aria-hidden": "true" }),
    text: el("div", { class: "step-text", "aria-live": "polite" }),
    back: el("button", { type: "button", click: () => go(-1) }, t("walk.back")),
    next: el("button", { type: "button", class: "main", click: () => go(1) }, t("walk.next")),
    formula: formula(layer),
  };
  const stage = el("div", { class: "stage" }, parts.canvas, parts.labels);
  fill(
    byId("walk-body"),
    sentence(),
    el(
      "div",
      { class: "walk" },
      stage,
      el(
        "div",
        { class: "panel" },
        parts.formula,
        parts.text,
        el("div", { class: "steps" }, parts.back, parts.next, el("span", { class: "note" }, t("walk.keys"))),
      ),
    ),
    firedTable(),
    why(),
  );
  new ResizeObserver(() => place(stage.clientWidth)).observe(stage);
  update(false);
}

export function paintWalk() {
  if (parts.place) paint(parts.canvas, parts.place, walk, shown, marked);
}

function place(width) {
  if (width < 60 || parts.place?.width === width) return;
  parts.place = layout(width, layer.d_model, layer.d_ff);
  label();
  paintWalk();
}

function label() {
  const { x, field, y, out } = parts.place;
  const texts = [
    [x.top - 24, "walk.label_x"],
    [(x.bottom + field.top) / 2 - 22, "walk.label_up"],
    [field.top - 22, "walk.label_field"],
    [(field.bottom + y.top) / 2 - 16, "walk.label_down"],
    [y.top - 22, "walk.label_y"],
    [out.bottom + 5, walk.out ? "walk.label_sum" : "walk.label_unknown"],
  ];
  if (walk.out) texts.push([(y.bottom + out.top) / 2 - 18, "walk.label_residual", out.right - 30]);
  const nodes = texts.map(([top, key, left = parts.place.middle]) =>
    el("span", { style: `top:${top}px;left:${left}px` }, t(key, values(walk, layer))),
  );
  fill(parts.labels, nodes);
}

function sentence() {
  const said = record.sentences[walk.sentence]?.parts[layer.stack] ?? [walk.token];
  const at = record.sentences[walk.sentence] ? walk.position : 0;
  const tokens = said.map((one, index) =>
    el(index === at ? "mark" : "span", {}, quote(one, 40)),
  );
  return el(
    "div",
    { class: "sentence" },
    el("p", { class: "note" }, say("walk.where", { token: token(walk.token), layer: el("code", {}, layer.name) })),
    el("p", { class: "tokens", "aria-label": t("walk.sentence"), role: "group" }, tokens),
  );
}

function go(by) {
  choose({ step: Math.max(1, Math.min(STEPS, step() + by)) });
}

function update(moving) {
  const now = step();
  parts.back.setAttribute("aria-disabled", String(now === 1));
  parts.next.setAttribute("aria-disabled", String(now === STEPS));
  for (const piece of parts.formula.querySelectorAll("[data-steps]")) {
    piece.classList.toggle("now", piece.dataset.steps.split(" ").includes(String(now)));
  }
  fill(
    parts.text,
    el("p", { class: "count" }, t("walk.step", { n: now, all: STEPS })),
    el("h2", {}, stepTitle(now, walk, layer)),
    el("p", {}, stepText(now, walk, layer)),
    now === 4 ? bars() : null,
    now >= 5 ? el("p", { class: "note" }, t("walk.lengths", { x: number(walk.x_norm), y: number(walk.y_norm) })) : null,
  );
  const picture = { ...values(walk, layer), n: now };
  parts.canvas.setAttribute("aria-label", t("walk.picture", picture));
  animate(amounts(now), moving && !calm());
}

let frame = 0;
function animate(goal, moving) {
  cancelAnimationFrame(frame);
  const from = shown;
  const start = performance.now();
  const tick = (time) => {
    const part = moving ? Math.max(0, Math.min(1, (time - start) / 600)) : 1;
    shown = between(from, goal, part * (2 - part));
    paintWalk();
    if (part < 1) frame = requestAnimationFrame(tick);
  };
  tick(start);
}

// The strongest few, in the panel: what each one added, as a bar.
function bars() {
  const most = walk.neurons[0]?.norm || 1;
  return el(
    "ul",
    { class: "bars" },
    walk.neurons.slice(0, 7).map((one) =>
      el(
        "li",
        {},
        follow(one.index, neuronLink(layer, one.index, String(one.index))),
        el("span", { class: "bar-room" }, el("span", { class: "bar-fill", style: `width:${(100 * one.norm) / most}%` })),
        el("span", { class: "number" }, number(one.norm)),
      ),
    ),
  );
}

// The drawing marks the neuron whose link is pointed at or has the focus.
function follow(index, link) {
  const mark = (value) => () => {
    marked = value;
    paintWalk();
  };
  for (const name of ["mouseenter", "focus"]) link.addEventListener(name, mark(index));
  for (const name of ["mouseleave", "blur"]) link.addEventListener(name, mark(null));
  return link;
}

function firedTable() {
  const title = walk.active > walk.neurons.length ? t("walk.most") : t("walk.fired");
  const columns = [
    { title: t("common.neuron"), kind: "number", value: (one) => one.index, show: (one) => follow(one.index, neuronLink(layer, one.index, String(one.index))) },
    { title: t("walk.column_z"), kind: "number", value: (one) => one.z },
    { title: t("walk.column_h"), kind: "number", value: (one) => one.h },
    { title: t("walk.column_norm"), kind: "number", value: (one) => one.norm },
    { title: t("walk.column_share"), kind: "share", value: (one) => one.share },
  ];
  const words = (one) => promoted(layer, one.index);
  if (layer.neurons.some((one) => one.promotes)) {
    const value = (one) => words(one).map(([node]) => node.textContent).join(" ");
    columns.push({ title: t("walk.column_promotes"), kind: "text", value, show: words });
  }
  return el(
    "details",
    { class: "wide" },
    el("summary", {}, `${title} (${number(walk.neurons.length)})`),
    table({ title: `${title}: ${isolated(walk.token)}, ${layer.name}`, name: "fired", columns, rows: walk.neurons }),
  );
}

function why() {
  const items = ["walk.why_linear", "walk.why_wide", "walk.why_same", "walk.why_combine"].map((key) => el("li", {}, t(key)));
  return el("details", { class: "wide" }, el("summary", {}, t("walk.why_title")), el("ol", {}, items), el("p", { class: "note" }, t("walk.why_study")));
}

if (walk && layer) {
  listen(["step"], () => update(true));
  document.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const inside = event.target === document.body || event.target.closest?.(".walk");
    if (!by || !inside || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go(by);
  });
}

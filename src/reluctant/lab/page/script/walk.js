// The first screen: one token, step by step up through the layer and down again.
import { byId, calm, el, fill, quote, token } from "./dom.js";
import { bars, firedTable } from "./fired.js";
import { layerNamed, record } from "./record.js";
import { amounts, between, layout, paint } from "./stage.js";
import { choose, get, listen } from "./state.js";
import { formula, lengths, stepText, stepTitle, STEPS, values } from "./walk_words.js";
import { say, t } from "./words.js";

const AROUND = 10; // tokens of the sentence shown before and after the one that is followed
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
    head: el("div", { class: "step-head", "aria-live": "polite" }),
    text: el("div", { class: "step-text", "aria-live": "polite" }),
    back: el("button", { type: "button", click: () => go(-1) }, t("walk.back")),
    next: el("button", { type: "button", class: "main", click: () => go(1) }, t("walk.next")),
    formula: formula(walk, layer),
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
        el("div", { class: "steps" }, parts.back, parts.next, el("span", { class: "note" }, t("walk.keys"))),
        parts.head,
        parts.text,
      ),
    ),
    firedTable(walk, layer, follow),
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
  parts.place = layout(width, walk, layer);
  label();
  paintWalk();
}

function label() {
  const { r, x, field, y, out, gap } = parts.place;
  const over = (part) => part.top - 20;
  const under = (part) => part.bottom + (gap - 34) / 4;
  const texts = [
    [over(x), "walk.label_x"],
    [under(x), "walk.label_up"],
    [over(field), "walk.label_field"],
    [under(field), "walk.label_down"],
    [over(y), "walk.label_y"],
    [out.bottom + 5, walk.out ? "walk.label_sum" : "walk.label_unknown"],
  ];
  if (r) texts.push([over(r), "walk.label_r"], [under(r), "walk.label_norm"]);
  if (walk.out) texts.push([(y.bottom + out.top) / 2 - 18, "walk.label_residual", out.right - 30]);
  const nodes = texts.map(([top, key, left = parts.place.middle]) =>
    el("span", { style: `top:${top}px;left:${left}px` }, t(key, values(walk, layer))),
  );
  fill(parts.labels, nodes);
}

function sentence() {
  const said = record.sentences[walk.sentence]?.parts[layer.stack] ?? [walk.token];
  const at = record.sentences[walk.sentence] ? walk.position : 0;
  const from = Math.max(0, at - AROUND);
  const tokens = said.slice(from, at + AROUND + 1).map((one, index) =>
    el(from + index === at ? "mark" : "span", {}, quote(one, 40)),
  );
  if (from > 0) tokens.unshift(el("span", {}, "…"));
  if (said.length > at + AROUND + 1) tokens.push(el("span", {}, "…"));
  return el(
    "div",
    { class: "sentence" },
    el("p", { class: "note" }, say("walk.where", { token: token(walk.token), layer: el("code", {}, layer.name) })),
    el("p", { class: "tokens", "aria-label": t("walk.sentence"), role: "group" }, tokens),
  );
}

function go(by) {
  choose({ step: Math.max(1, Math.min(STEPS, step() + by)) });
  if (matchMedia("(max-width: 50rem)").matches) parts.formula.scrollIntoView({ behavior: calm() ? "auto" : "smooth" });
}

function update(moving) {
  const now = step();
  parts.back.setAttribute("aria-disabled", String(now === 1));
  parts.next.setAttribute("aria-disabled", String(now === STEPS));
  for (const piece of parts.formula.querySelectorAll("[data-steps]")) {
    piece.classList.toggle("now", piece.dataset.steps.split(" ").includes(String(now)));
  }
  fill(
    parts.head,
    el("p", { class: "count" }, t("walk.step", { n: now, all: STEPS })),
    el("h2", {}, stepTitle(now, walk, layer)),
  );
  fill(
    parts.text,
    el("p", {}, stepText(now, walk, layer)),
    now === 4 ? bars(walk, layer, follow) : null,
    now >= 5 ? el("p", { class: "note" }, lengths(now, walk)) : null,
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

function why() {
  const items = ["walk.why_linear", "walk.why_wide", "walk.why_same", "walk.why_combine"].map((key) => el("li", {}, t(key)));
  return el("details", { class: "wide" }, el("summary", {}, t("walk.why_title")), el("ol", {}, items), el("p", { class: "note" }, t("walk.why_study")));
}

function inView(node) {
  const { top, bottom } = node.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

if (walk && layer) {
  listen(["step"], () => update(true));
  document.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const inside = event.target === document.body || event.target.closest?.(".walk");
    if (!by || !inside || !inView(byId("walk").querySelector(".walk")) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go(by);
  });
}

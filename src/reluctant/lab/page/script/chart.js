// A chart with its title, its legend, its text for screen readers, and its numbers as a table.
import { el } from "./dom.js";
import { table } from "./table.js";
import { t } from "./words.js";

// Looks of series: told apart by form as well as colour.
export const LOOKS = [
  { colour: "var(--c1)", symbol: "circle" },
  { colour: "var(--c2)", symbol: "square" },
  { colour: "var(--c3)", symbol: "triangle" },
  { colour: "var(--c4)", symbol: "diamond" },
  { colour: "var(--c5)", symbol: "star" },
  { colour: "var(--c6)", symbol: "cross" },
  { colour: "var(--c7)", symbol: "wye" },
];

const drawn = new WeakMap();
const resized = new ResizeObserver((entries) => {
  for (const entry of entries) redraw(entry.target);
});

function redraw(place) {
  const { draw, text, width } = drawn.get(place);
  const now = Math.floor(place.clientWidth);
  if (now === width || now < 40) return;
  drawn.get(place).width = now;
  const svg = draw(now);
  // The chart is one picture with one text: what the library says of its parts is left out.
  for (const part of svg.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", text);
  place.replaceChildren(svg);
}

// `draw(width)` gives an SVG element; `columns`, `rows` and `most` are the table beside it.
export function chart({ title, name, text, note, legend = [], draw, columns, rows, most }) {
  const place = el("div", { class: "plot" });
  drawn.set(place, { draw, text, width: 0 });
  resized.observe(place);
  const keys = legend.map(({ label, look }) => el("li", {}, swatch(look), label));
  return el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, title),
    keys.length > 1 ? el("ul", { class: "legend" }, keys) : null,
    place,
    note ? el("p", { class: "note" }, note) : null,
    el("details", {}, el("summary", {}, t("common.numbers")), table({ title, name, columns, rows, most })),
  );
}

function swatch({ colour, symbol, hollow }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "-8 -8 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", symbol === "line" ? "M0,-7V7" : d3.symbol(shape(symbol), 70)());
  path.setAttribute("style", hollow || symbol === "line" ? `fill:none;stroke:${colour};stroke-width:2` : `fill:${colour}`);
  svg.append(path);
  return svg;
}

function shape(name) {
  return d3[`symbol${name[0].toUpperCase()}${name.slice(1)}`];
}

// A logarithmic axis with room for its marks.
export function logAxis(values) {
  if (!values.length) return { type: "log" };
  const ticks = logTicks(values);
  return { type: "log", ticks, domain: d3.extent([...values, ...ticks]) };
}

// Powers of ten, or 1, 2 and 5 of them where there are few, or the ends and the middle.
function logTicks(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const powers = d3.range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)) + 1).map((power) => 10 ** power);
  const steps = powers.length > 3 ? [1] : [1, 2, 5];
  const marks = powers.flatMap((power) => steps.map((step) => step * power)).filter((mark) => low <= mark && mark <= high);
  if (marks.length > 1) return marks.filter((_, index) => index % Math.ceil(marks.length / 6) === 0);
  return [...new Set([low, Math.sqrt(low * high), high].map((mark) => Number(mark.toPrecision(2))))];
}

// Of a logarithmic axis the library shows some labels only (no 8): there we say each of them.
function labels(axis, { type, ticks, tickFormat: text, label, labelArrow, tickSize, tickPadding }) {
  return type === "log" && text ? axis(ticks, { text, label, labelArrow, tickSize, tickPadding }) : null;
}

// What all charts share with each other; marks and scales are the chart's own.
export function plot(width, { x: across, y: up, marks, ...options }) {
  const [x, y] = [{ tickSize: 4, ...across }, { tickSize: 0, tickPadding: 8, ...up }];
  return Plot.plot({
    width,
    x,
    y,
    marks: [labels(Plot.axisX, x), labels(Plot.axisY, y), ...marks],
    marginTop: up.label ? 26 : 12,
    height: Math.round(Math.max(180, Math.min(260, width * 0.55))),
    marginLeft: 52,
    marginBottom: 44,
    style: { background: "none", color: "inherit", fontFamily: "inherit", fontSize: "12px", overflow: "visible" },
    ...options,
  });
}

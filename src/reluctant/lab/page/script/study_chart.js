// A chart of a study: series of points with the spread over seeds.
import { chart, logAxis, LOOKS, plot } from "./chart.js";
import { number, precise } from "./numbers.js";
import { pick, t } from "./words.js";

function look(series) {
  return LOOKS[series % LOOKS.length];
}

function axis({ label }) {
  const tickFormat = (value) => (typeof value === "number" ? number(value) : value);
  return { label: pick(label), labelArrow: "none", tickFormat };
}

// All points in one list. An x that is a text, or {en, zh}, is a place by its name.
function flat(series) {
  return series.flatMap(({ name, points }, index) =>
    points.map((point) => ({ ...point, x: typeof point.x === "number" ? point.x : pick(point.x), name: pick(name), series: index })),
  );
}

// A logarithmic axis has no place for zero.
function fits(value, { log }) {
  return typeof value === "number" && (!log || value > 0);
}

export function studyChart({ title, x, y, series }, name) {
  const rows = flat(series);
  const points = rows.filter((row) => fits(row.y, y) && (typeof row.x !== "number" || fits(row.x, x)));
  const bars = points.filter((row) => fits(row.low, y) && row.high > row.low);
  const texts = series.map((one, index) => {
    const values = rows.filter((row) => row.series === index && typeof row.y === "number").map((row) => row.y);
    if (!values.length) return pick(one.name);
    const [low, high] = [Math.min(...values), Math.max(...values)].map(precise);
    return t("study.series_text", { name: pick(one.name), low, high });
  });
  return chart({
    title: pick(title),
    name,
    text: t("study.chart_text", { title: pick(title), series: texts.join(" ") }),
    note: bars.length ? t("study.bars") : null,
    legend: series.map((one, index) => ({ label: pick(one.name), look: look(index) })),
    draw: (width) => draw(width, { x, y, count: series.length, points, bars }),
    columns: [
      { title: t("study.series"), kind: "text", value: (row) => row.name },
      { title: pick(x.label), kind: "number", value: (row) => row.x, show: (row) => (typeof row.x === "number" ? number(row.x) : row.x) },
      { title: pick(y.label), kind: "number", value: (row) => row.y },
      { title: t("study.low"), kind: "number", value: (row) => row.low ?? null },
      { title: t("study.high"), kind: "number", value: (row) => row.high ?? null },
    ],
    rows,
  });
}

function draw(width, { x, y, count, points, bars }) {
  const places = [...new Set(points.map((row) => row.x))];
  const named = places.some((place) => typeof place !== "number");
  const heights = [...points.map((row) => row.y), ...bars.flatMap((row) => [row.low, row.high])];
  const scale = named ? { type: "point", padding: 0.6, domain: places } : { ...across(places, x.log, width), inset: 8 };
  const names = Plot.axisX({ lineWidth: Math.max(4, width / Math.max(1, places.length) / 8), tickSize: 4 });
  return plot(width, {
    x: { ...axis(x), ...scale },
    y: { ...axis(y), grid: true, ...(y.log ? logAxis(heights) : { nice: true, ticks: 5 }) },
    marginBottom: named ? 60 : 44,
    marks: [named ? names : null, ...d3.range(count).flatMap((series) => marks(series, { points, bars, count, named }))],
  });
}

// Doublings, or layers, have a mark each where there is room; else round numbers.
function across(places, log, width) {
  const scale = (log ? d3.scaleLog : d3.scaleLinear)(d3.extent(places), [60, width - 28]);
  const at = places.map(scale).sort(d3.ascending);
  if (d3.pairs(at).every(([one, next]) => next - one >= 34)) return { type: log ? "log" : "linear", ticks: places };
  return log ? logAxis(places) : { nice: true, ticks: Math.max(2, Math.floor(width / 90)) };
}

// The marks of one series; beside those of the others where places have names.
function marks(series, { points, bars, count, named }) {
  const { colour, symbol } = look(series);
  const own = (rows) => rows.filter((row) => row.series === series);
  const dx = named ? (series - (count - 1) / 2) * 7 : 0;
  return [
    Plot.ruleX(own(bars), { x: "x", y1: "low", y2: "high", stroke: colour, strokeWidth: 2, strokeOpacity: 0.6, dx }),
    named ? null : Plot.lineY(own(points), { x: "x", y: "y", stroke: colour, strokeOpacity: 0.7 }),
    Plot.dot(own(points), { x: "x", y: "y", fill: colour, symbol, r: 4.5, dx }),
  ];
}

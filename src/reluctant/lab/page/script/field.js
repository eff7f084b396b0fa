// All neurons of a layer as dots, coloured by how often each fires.
import { block, colours, dot, even, sized, spacing } from "./dots.js";
import { el } from "./dom.js";
import { number } from "./numbers.js";
import { detailsOf } from "./record.js";
import { t } from "./words.js";

const HEIGHT = 200;
const REACH = 12; // pixels around a finger
const SELDOM = 1e-4; // a use from which on a dot is more than silent
let place = null;
let field = null;
let layerNow = null;
let chosenNow = null;

export function fieldCanvas(choose) {
  const click = (event) => {
    const box = event.target.getBoundingClientRect();
    const point = [event.clientX - box.left, event.clientY - box.top];
    // Dots are smaller than a finger: what is likely meant is a neuron that has details.
    const index = (event.pointerType === "mouse" ? null : closest(point)) ?? place?.nearest(...point);
    if (index !== null && index !== undefined) choose(index);
  };
  return el("canvas", { role: "img", class: "field-canvas", click });
}

// The neuron with details that is closest to a point, within reach of it.
function closest([x, y]) {
  const away = ({ index }) => Math.hypot(place.at(index)[0] - x, place.at(index)[1] - y);
  const near = layerNow().neurons.filter((one) => away(one) <= REACH);
  return d3.least(near, away)?.index;
}

// `layer()` and `chosen()` say what to draw each time.
export function drawField(canvas, layer, chosen) {
  field = canvas;
  layerNow = layer;
  chosenNow = chosen;
  new ResizeObserver(paintField).observe(canvas.parentElement);
}

export function paintField() {
  const width = Math.floor(field?.parentElement?.clientWidth ?? 0);
  if (width < 40) return;
  const layer = layerNow();
  const count = layer.d_ff;
  const { pitch } = spacing(count, width - 16, HEIGHT);
  place = block(count, even(count, (width - 16) / pitch), pitch, width / 2, 8);
  const context = sized(field, width, place.height + 16);
  field.setAttribute("aria-label", t("neurons.field", { d_ff: number(count), layer: layer.name, n: number(layer.neurons.length) }));
  const [warm, soft, silent, ink] = colours("warm", "soft", "silent", "ink");
  for (let index = 0; index < count; index += 1) {
    const use = layer.use[index] ?? 0;
    const strength = use > SELDOM ? 1 - Math.log(use) / Math.log(SELDOM) : 0;
    const special = detailsOf(layer, index) !== undefined;
    context.globalAlpha = 1;
    context.fillStyle = silent;
    dot(context, place.at(index), pitch * 0.3);
    context.globalAlpha = special ? 0.45 + 0.55 * strength : strength;
    context.fillStyle = special ? warm : soft;
    dot(context, place.at(index), special ? Math.max(2, pitch * 0.5) : pitch * 0.34);
  }
  context.globalAlpha = 1;
  context.strokeStyle = ink;
  context.lineWidth = 2;
  context.beginPath();
  context.arc(...place.at(chosenNow()), Math.max(5, pitch * 0.8), 0, 2 * Math.PI);
  context.stroke();
}

// The drawing of the walk: x above, the wide field in the middle, y below, and the residual path.
import { block, colours, dot, even, scale, signed, sized, spacing } from "./dots.js";

const GAPS = { narrow: 38, wide: 58 }; // between the parts, for lines and labels
const EDGE = 30; // at the sides, for the residual path
// How strongly each part shows at each step, from 0 to 1.
const PARTS = ["field", "lit", "beams", "y", "out"];
const FIRST = { field: 2, lit: 3, beams: 4, y: 5, out: 6 };

export function amounts(step) {
  return Object.fromEntries(PARTS.map((part) => [part, step >= FIRST[part] ? 1 : 0]));
}

export function between(from, to, share) {
  return Object.fromEntries(PARTS.map((part) => [part, from[part] + (to[part] - from[part]) * share]));
}

// With a norm before the layer, what goes round it is not x but r, which x was made from.
export function normedBefore({ x, residual }) {
  if (!residual) return false;
  return residual.some((value, index) => Math.abs(value - x[index]) > 1e-3 * (1e-3 + Math.abs(value)));
}

// Where everything lies for a drawing `width` pixels wide.
export function layout(width, walk, { d_model: dModel, d_ff: dFf }) {
  const middle = width / 2;
  const gap = width < 500 ? GAPS.narrow : GAPS.wide;
  // A layer that widens little has large ends: all of it smaller then.
  const tall = (width < 500 ? 95 : 170) * (dFf < 8 * dModel ? 0.7 : 1);
  const { pitch, columns } = spacing(dFf, width - 2 * EDGE, tall);
  const narrow = even(dModel, Math.min(columns * 0.6, Math.sqrt(dModel * 16)));
  const r = normedBefore(walk) ? block(dModel, narrow, pitch, middle, 24) : null;
  const x = block(dModel, narrow, pitch, middle, r ? r.bottom + gap : 24);
  const field = block(dFf, columns, pitch, middle, x.bottom + gap);
  const y = block(dModel, narrow, pitch, middle, field.bottom + gap);
  const out = block(dModel, narrow, pitch, middle, y.bottom + gap);
  const most = scale(walk.x, walk.y, walk.residual ?? [], walk.out ?? []);
  return { width, height: out.bottom + 28, middle, gap, most, r, x, field, y, out };
}

// `part` says how much of each part shows; `walk.out`, what leaves the residual add, may be unknown.
export function paint(canvas, place, walk, part, marked) {
  const context = sized(canvas, place.width, place.height);
  if (place.r) {
    signed(context, place.r, walk.residual, 1, place.most);
    trapezoid(context, place.r, place.x, 1);
  }
  signed(context, place.x, walk.x, 1, place.most);
  trapezoid(context, place.x, place.field, 0.35 + 0.65 * part.field);
  silent(context, place.field, 0.3 + 0.7 * part.field - 0.35 * part.lit);
  trapezoid(context, place.field, place.y, 0.35 + 0.65 * part.beams);
  beams(context, place, walk.neurons, part.beams, marked);
  lit(context, place.field, walk.neurons, part.lit, marked);
  signed(context, place.y, walk.y, 0.12 + 0.88 * part.y, place.most);
  if (!walk.out) return;
  residual(context, place, 0.12 + 0.88 * part.out);
  signed(context, place.out, walk.out, 0.12 + 0.88 * part.out, place.most);
}

function trapezoid(context, from, to, strength) {
  const [fan] = colours("fan");
  context.globalAlpha = strength;
  context.fillStyle = fan;
  context.beginPath();
  context.moveTo(from.left, from.bottom + 3);
  context.lineTo(from.right, from.bottom + 3);
  context.lineTo(to.right, to.top - 3);
  context.lineTo(to.left, to.top - 3);
  context.fill();
  context.globalAlpha = 1;
}

function silent(context, field, strength) {
  const [colour] = colours("silent");
  context.fillStyle = colour;
  context.globalAlpha = strength;
  for (let index = 0; index < field.count; index += 1) dot(context, field.at(index), field.pitch * 0.3);
  context.globalAlpha = 1;
}

function strongest(neurons) {
  return Math.max(...neurons.map((one) => one.norm ?? 0), Number.MIN_VALUE);
}

function lit(context, field, neurons, strength, marked) {
  const [warm, ink] = colours("warm", "ink");
  const most = strongest(neurons);
  for (const one of neurons) {
    const size = Math.sqrt((one.norm ?? 0) / most);
    const radius = Math.max(2, Math.min(9, field.pitch * (0.45 + 0.9 * size)));
    context.fillStyle = warm;
    context.globalAlpha = 0.16 * strength;
    dot(context, field.at(one.index), radius * (field.pitch > 8 ? 1.6 : 2.4));
    context.globalAlpha = strength;
    dot(context, field.at(one.index), radius);
    if (one.index !== marked) continue;
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(...field.at(one.index), radius + 4, 0, 2 * Math.PI);
    context.stroke();
  }
  context.globalAlpha = 1;
}

// From each lit neuron to the sum: as strong as its share of it.
function beams(context, { field, y }, neurons, strength, marked) {
  const [warm] = colours("warm");
  const most = strongest(neurons);
  context.strokeStyle = warm;
  for (const one of neurons) {
    const [fromX, fromY] = field.at(one.index);
    const toX = y.left + ((fromX - field.left) / field.width) * y.width;
    const size = (one.norm ?? 0) / most;
    const chosen = one.index === marked;
    context.globalAlpha = strength * (chosen ? 1 : 0.12 + 0.5 * size);
    context.lineWidth = chosen ? 2.5 : 0.6 + 1.6 * size;
    context.beginPath();
    context.moveTo(fromX, fromY);
    context.bezierCurveTo(fromX, (fromY + y.top) / 2 + 20, toX, (fromY + y.top) / 2 + 10, toX, y.top - 3);
    context.stroke();
  }
  context.globalAlpha = 1;
}

// What goes round the layer, and is added to what comes out of it.
function residual(context, { width, r, x, y, out, middle }, strength) {
  const [ink] = colours("soft");
  const from = r ?? x;
  const side = width - 10;
  const level = (y.bottom + out.top) / 2;
  const start = (from.top + from.bottom) / 2;
  context.globalAlpha = strength;
  context.strokeStyle = ink;
  context.fillStyle = ink;
  context.lineWidth = 1.5;
  context.beginPath();
  context.moveTo(from.right + 8, start);
  context.lineTo(side - 14, start);
  context.quadraticCurveTo(side, start, side, start + 14);
  context.lineTo(side, level - 14);
  context.quadraticCurveTo(side, level, side - 14, level);
  context.lineTo(middle + 13, level);
  context.moveTo(middle, y.bottom + 4);
  context.lineTo(middle, level - 11);
  context.moveTo(middle, level + 11);
  context.lineTo(middle, out.top - 4);
  context.stroke();
  context.beginPath();
  context.arc(middle, level, 11, 0, 2 * Math.PI);
  context.moveTo(middle - 5, level);
  context.lineTo(middle + 5, level);
  context.moveTo(middle, level - 5);
  context.lineTo(middle, level + 5);
  context.stroke();
  context.beginPath();
  context.moveTo(middle + 11, level);
  context.lineTo(middle + 19, level - 4.5);
  context.lineTo(middle + 19, level + 4.5);
  context.fill();
  context.globalAlpha = 1;
}

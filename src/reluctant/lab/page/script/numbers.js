// Numbers as people read them, in the chosen language; what is unknown is a dash.
import { current } from "./words.js";

const formatters = new Map();

function format(value, name, options) {
  if (typeof value !== "number") return "–";
  const key = `${current()} ${name}`;
  if (!formatters.has(key)) formatters.set(key, new Intl.NumberFormat(current(), options));
  return formatters.get(key).format(value);
}

export function share(value) {
  return format(value, "share", { style: "percent", maximumSignificantDigits: 3 });
}

export function number(value) {
  return digits(value, 3);
}

// For what differs little: losses.
export function precise(value) {
  return digits(value, 4);
}

function digits(value, most) {
  if (Number.isInteger(value)) return format(value, "whole", {});
  const notation = Math.abs(value) < 1e-4 ? "scientific" : "standard";
  return format(value, `number ${most} ${notation}`, { maximumSignificantDigits: most, notation });
}

// A mean with as many decimals as two digits of its spread have, and that spread.
export function spread(mean, by) {
  const decimals = Math.max(0, Math.min(12, 1 - Math.floor(Math.log10(by))));
  const options = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return [mean, by].map((value) => format(value, `spread ${decimals}`, options));
}

export function short(value) {
  return format(value, "short", { notation: "compact", maximumSignificantDigits: 3 });
}

// Numbers as people read them, in the chosen language; what is unknown is a dash.
import { current } from "./words.js";

const formatters = new Map();
const SMALL = 1e-5; // below it a share has no digits that say anything
const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function format(value, name, options) {
  if (typeof value !== "number") return "–";
  const key = `${current()} ${name}`;
  if (!formatters.has(key)) formatters.set(key, new Intl.NumberFormat(current(), options));
  return formatters.get(key).format(value);
}

export function share(value) {
  const options = { style: "percent", maximumSignificantDigits: 3 };
  if (value > 0 && value < SMALL) return `< ${format(SMALL, "share", options)}`;
  return format(value, "share", options);
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
  if (typeof value === "number" && Math.abs(value) < 1e-4) return power(value, most);
  return format(value, `number ${most}`, { maximumSignificantDigits: most });
}

// 2.25 × 10⁻⁷
function power(value, most) {
  const [mantissa, exponent] = value.toExponential(most - 1).split("e").map(Number);
  const ten = `10${[...String(exponent)].map((one) => RAISED[one]).join("")}`;
  return mantissa === 1 ? ten : `${format(mantissa, `number ${most}`, { maximumSignificantDigits: most })} × ${ten}`;
}

// A mean with as many decimals as two digits of its spread have, and that spread.
export function spread(mean, by) {
  const decimals = Math.max(0, Math.min(12, 1 - Math.floor(Math.log10(by))));
  const options = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return [mean, by].map((value) => format(value, `spread ${decimals}`, options));
}

export function short(value) {
  const text = format(value, "short", { notation: "compact", maximumSignificantDigits: 3 });
  return text.replace(/(?<=\d)(?=\p{Script=Han})/u, " ");
}

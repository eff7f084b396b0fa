// Elements. Text comes in as text nodes only: nothing here reads a string as HTML.
import { visible } from "./visible.js";

export function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(key, value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

// The name of a command's option.
export function option(name) {
  return el("code", { class: "option-name" }, name);
}

export function byId(id) {
  return document.getElementById(id);
}

export function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null));
}

// Draw anew what is in `node`; parts that were opened are open again.
export function redraw(node, draw) {
  const all = () => [...node.querySelectorAll("details")];
  const open = all().map((one) => one.open);
  draw();
  const now = all();
  if (now.length === open.length) now.forEach((one, index) => (one.open = open[index]));
}

// What changed, for screen readers.
export function announce(text) {
  byId("said").textContent = text;
}

// Text of a model or a user that stands alone: also spaces, and nothing at all, can be seen.
export function shown(text, most) {
  const seen = visible(text, most);
  return /\S/.test(seen) ? seen : seen.replace(/\s/g, "␣") || "∅";
}

// The same, isolated from the text around it: it may run from right to left.
export function quote(text, most) {
  return el("bdi", { dir: "auto", class: "quote", translate: "no" }, shown(text, most));
}

// A token by itself, in a sentence of ours: without the space that it may begin with.
export function token(text) {
  return quote(text.trim() || text, 40);
}

// For places that hold no elements: between isolating marks.
export function isolated(text, most = 60) {
  return `\u2068${shown(text.trim() || text, most)}\u2069`;
}

export function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

// Go to an element, and to its title with the keyboard.
export function show(id, behavior = calm() ? "instant" : "smooth") {
  const target = byId(id);
  target.scrollIntoView({ behavior, block: "start" });
  (byId(`${id}-title`) ?? target).focus({ preventScroll: true });
}

// Elements. Text comes in as text nodes only: nothing here reads a string as HTML.

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

// What changed, for screen readers.
export function announce(text) {
  byId("said").textContent = text;
}

// Text of a model or a user as it can be seen: control characters as their pictures, and no more
// than `most` characters of it.
export function shown(text, most = 300) {
  const all = Array.from(String(text).toWellFormed());
  const cut = all.length > most ? [...all.slice(0, most), "…"] : all;
  return cut
    .join("")
    .replace(/\n/g, "↵")
    .replace(/[\0-\x1f]/g, (one) => String.fromCharCode(0x2400 + one.charCodeAt(0)))
    .replace(/[\x7f-\x9f]/g, "␡");
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

export function show(id) {
  const target = byId(id);
  target.scrollIntoView({ behavior: calm() ? "auto" : "smooth", block: "start" });
  (byId(`${id}-title`) ?? target).focus({ preventScroll: true });
}

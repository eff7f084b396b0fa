// The page's words in the chosen language, and what was given in both.

export function read(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

const words = read("words");
let language = "en";

export function current() {
  return language;
}

export function speak(name) {
  language = name === "zh" ? "zh" : "en";
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const node of document.querySelectorAll("[data-word]")) {
    node.textContent = t(node.dataset.word);
  }
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
  }
}

// A sentence with its {names} filled in. Values are put in once and never read as sentences.
export function t(key, values = {}) {
  return words[key][language].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

// The same as a list of strings and nodes, so that a value may be a node.
export function say(key, values) {
  return words[key][language]
    .split(/\{(\w+)\}/)
    .map((piece, index) => (index % 2 ? values[piece] : piece));
}

// A text given as {en, zh}, or in no language.
export function pick(text) {
  if (text === null || text === undefined) return "";
  return typeof text === "object" ? (text[language] ?? text.en ?? "") : String(text);
}

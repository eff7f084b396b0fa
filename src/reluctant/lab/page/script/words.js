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
  return say(key, values).map(String).join("");
}

// The same as a list of strings and nodes, so that a value may be a node.
export function say(key, values = {}) {
  const pieces = words[key][language].split(/\{(\w+)\}/).map((piece, index) => (index % 2 ? values[piece] : piece));
  return pieces.map((piece, index) => (index % 2 ? piece : close(piece, pieces[index - 1], pieces[index + 1])));
}

// In Chinese a space parts a number or a name from the words around it, but not words from words.
function close(text, before, after) {
  const han = (value, pattern) => typeof value === "string" && pattern.test(value);
  const start = han(before, /\p{Script=Han}$/u) ? text.replace(/^ /, "") : text;
  return han(after, /^\p{Script=Han}/u) ? start.replace(/ $/, "") : start;
}

// What stands between two sentences.
export function gap() {
  return language === "zh" ? "" : " ";
}

export function joined(...sentences) {
  return sentences.filter(Boolean).join(gap());
}

// A text given as {en, zh}, or in no language.
export function pick(text) {
  if (text === null || text === undefined) return "";
  return typeof text === "object" ? (text[language] ?? text.en ?? "") : String(text);
}

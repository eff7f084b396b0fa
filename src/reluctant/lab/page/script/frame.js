// What both pages share: language, theme, the way to a section.
import { byId, redraw, show } from "./dom.js";
import { markNav } from "./nav.js";
import { choose, destination, get, listen } from "./state.js";
import { speak, t } from "./words.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  return get("theme") ?? (dark.matches ? "dark" : "light");
}

// The dark colours are a style of their own, which the browser's wish turns on until a choice does.
function dress() {
  byId("dark").media = theme() === "dark" ? "all" : "not all";
  const word = theme() === "dark" ? "nav.light" : "nav.dark";
  byId("theme").dataset.word = word;
  byId("theme").textContent = t(word);
}

// `draw` builds all that depends on the language; `paint` what depends on colours alone; `places`
// has the element that shows a choice by the choice's name.
export function frame(draw, paint, places = {}) {
  const wanted = () => get("lang") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
  const all = () => {
    speak(wanted());
    byId("language").lang = wanted() === "zh" ? "en" : "zh-Hans";
    dress();
    redraw(document.body, draw);
    markNav();
  };
  const colours = () => {
    dress();
    paint();
  };
  byId("language").addEventListener("click", () => choose({ lang: wanted() === "zh" ? "en" : "zh" }));
  byId("theme").addEventListener("click", () => choose({ theme: theme() === "dark" ? "light" : "dark" }));
  listen(["lang"], all);
  listen(["theme"], colours);
  dark.addEventListener("change", colours);
  // A jump within the page leaves the address to what is chosen.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    const id = link?.getAttribute("href").slice(1);
    if (!id || id.includes("=") || !byId(id)) return;
    event.preventDefault();
    show(id);
  });
  all();
  arrive(places);
}

// A page that is opened by a link begins where the link leads to; one that is loaded again stays.
function arrive(places) {
  if (performance.getEntriesByType("navigation")[0]?.type !== "navigate") return;
  const to = destination(Object.keys(places));
  const id = places[to] ?? to;
  // Charts take their height once they know their width: a frame later.
  if (byId(id)) requestAnimationFrame(() => requestAnimationFrame(() => show(id, "instant")));
}

// What both pages share: language, theme, the way to a section.
import { byId, show } from "./dom.js";
import { choose, get, listen } from "./state.js";
import { speak, t } from "./words.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  return get("theme") ?? (dark.matches ? "dark" : "light");
}

function dress() {
  document.documentElement.dataset.theme = theme();
  const word = theme() === "dark" ? "nav.light" : "nav.dark";
  byId("theme").dataset.word = word;
  byId("theme").textContent = t(word);
}

// `draw` builds all that depends on the language; `paint` what depends on colours alone.
export function frame(draw, paint) {
  const wanted = () => get("lang") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
  const all = () => {
    speak(wanted());
    byId("language").lang = wanted() === "zh" ? "en" : "zh-Hans";
    dress();
    draw();
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
}

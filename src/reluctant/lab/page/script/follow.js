// Links within the page: the browser's Back leads to where one was followed.
import { show } from "./dom.js";
import { choose } from "./state.js";

export function follow(changes, id) {
  history.replaceState({ top: scrollY }, "");
  const before = location.hash;
  choose(changes, true);
  if (location.hash === before) history.pushState(null, ""); // chosen already
  show(id);
}

// What is drawn above that place may have had another height until now.
addEventListener("hashchange", () => {
  const top = history.state?.top;
  if (top !== undefined) scrollTo({ top, behavior: "instant" });
});

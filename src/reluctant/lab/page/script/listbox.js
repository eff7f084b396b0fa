// A list of which one is chosen, by pointer or arrow keys (ARIA's listbox).
import { el } from "./dom.js";

// Options: [{value, content, label}]. The element's `mark(value)` shows another choice.
// `choose` is told of keys, `point` of clicks.
export function listbox(label, options, chosen, choose, point) {
  const id = (value) => `option-${value}`;
  const items = options.map(({ value, content, label }) =>
    el("div", { role: "option", id: id(value), class: "option", "aria-label": label, click: () => point(value) }, content),
  );
  const at = () => options.findIndex(({ value }) => value === list.chosen);
  const key = (event) => {
    const last = options.length - 1;
    const to = { ArrowDown: at() + 1, ArrowUp: at() - 1, Home: 0, End: last, PageDown: at() + 8, PageUp: at() - 8 }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    choose(options[Math.max(0, Math.min(last, to))].value);
  };
  const list = el("div", { role: "listbox", tabindex: "0", class: "listbox", "aria-label": label, keydown: key }, items);
  list.hidden = !options.length;
  list.mark = (value) => {
    list.chosen = value;
    for (const [index, item] of items.entries()) {
      const is = options[index].value === value;
      item.setAttribute("aria-selected", String(is));
      // Scrolls the list alone, never the page.
      if (is && list.clientHeight) {
        const over = item.offsetTop + item.offsetHeight - list.scrollTop - list.clientHeight;
        if (over > 0) list.scrollTop += over;
        if (item.offsetTop < list.scrollTop) list.scrollTop = item.offsetTop;
      }
    }
    if (at() < 0) list.removeAttribute("aria-activedescendant");
    else list.setAttribute("aria-activedescendant", id(value));
  };
  list.mark(chosen);
  return list;
}

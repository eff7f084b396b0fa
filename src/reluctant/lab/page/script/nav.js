// The links in the bar: which of their sections is on the screen, and whether there are more of them.
import { byId } from "./dom.js";

function mark() {
  const nav = byId("nav");
  const links = [...nav.querySelectorAll("a")];
  const bottom = scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
  const reached = (link) => byId(link.hash.slice(1))?.getBoundingClientRect().top < innerHeight / 3;
  const now = bottom ? links.at(-1) : links.findLast(reached);
  const before = nav.querySelector("[aria-current]");
  if (now !== before) {
    before?.removeAttribute("aria-current");
    now?.setAttribute("aria-current", "true");
    // Moves the bar alone, never the page.
    if (now) nav.scrollLeft = now.offsetLeft - nav.offsetLeft - (nav.clientWidth - now.offsetWidth) / 2;
  }
  more();
}

// The bar fades out on the side where more links are.
function more() {
  const nav = byId("nav");
  nav.classList.toggle("more-before", nav.scrollLeft > 1);
  nav.classList.toggle("more-after", nav.scrollLeft + nav.clientWidth < nav.scrollWidth - 1);
}

// Call once; and again after the links were drawn anew.
export function markNav() {
  byId("nav").onscroll = more;
  addEventListener("scroll", mark, { passive: true });
  addEventListener("resize", mark);
  mark();
}

// What is chosen, kept in the page's address (after #) and nowhere else: a link shows the same.

const listeners = [];
let { anchor, state } = parse();

// `#place&name=value`: a bare name is a place on the page, all others are choices.
function parse() {
  const pieces = location.hash.slice(1).split("&");
  const choices = pieces.filter((piece) => piece.includes("=")).join("&");
  return {
    anchor: pieces.find((piece) => piece && !piece.includes("=")) ?? "",
    state: Object.fromEntries(new URLSearchParams(choices)),
  };
}

export function get(name) {
  return state[name];
}

// Where the address leads to: a place that it names, or the last of `names` that was chosen.
export function destination(names) {
  return anchor || Object.keys(state).findLast((name) => names.includes(name) && state[name]);
}

export function address(changes) {
  return `#${new URLSearchParams({ ...state, ...changes })}`;
}

// Choose, tell who listens, and note it in the address. `followed`: a link was followed, and the
// browser's Back leads to where it was.
export function choose(changes, followed = false) {
  const names = Object.keys(changes).filter((name) => state[name] !== String(changes[name]));
  if (!names.length && !followed) return;
  // What was chosen last stands last.
  for (const name of Object.keys(changes)) {
    delete state[name];
    state[name] = String(changes[name]);
  }
  if (followed) anchor = "";
  const hash = anchor ? address({}).replace("#", `#${anchor}&`) : address({});
  history[followed ? "pushState" : "replaceState"](null, "", hash);
  tell(names);
}

export function listen(names, listener) {
  listeners.push({ names, listener });
}

function tell(names) {
  for (const one of listeners) {
    if (one.names.some((name) => names.includes(name))) one.listener(names);
  }
}

addEventListener("hashchange", () => {
  const before = state;
  ({ anchor, state } = parse());
  tell(Object.keys({ ...before, ...state }).filter((name) => state[name] !== before[name]));
});

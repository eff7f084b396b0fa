// What is chosen, kept in the page's address (after #) and nowhere else: a link shows the same.

const listeners = [];
let state = parse();

function parse() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

export function get(name) {
  return state[name];
}

export function address(changes) {
  return `#${new URLSearchParams({ ...state, ...changes })}`;
}

// Choose, tell who listens, and note it in the address.
export function choose(changes) {
  const names = Object.keys(changes).filter((name) => state[name] !== String(changes[name]));
  if (!names.length) return;
  for (const name of names) state[name] = String(changes[name]);
  history.replaceState(null, "", address({}));
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
  state = { ...before, ...parse() };
  tell(Object.keys(state).filter((name) => state[name] !== before[name]));
});

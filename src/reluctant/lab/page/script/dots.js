// Numbers as dots on a canvas: where each lies, and how it is drawn.

// A canvas of `width` x `height` CSS pixels, sharp on dense screens.
export function sized(canvas, width, height) {
  const scale = globalThis.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

export function colours(...names) {
  const style = getComputedStyle(document.documentElement);
  return names.map((name) => style.getPropertyValue(`--${name}`).trim());
}

// `count` dots in rows of at most `columns`, `pitch` apart, centred on x = `middle`.
export function block(count, columns, pitch, middle, top) {
  const across = Math.max(1, Math.min(count, columns));
  const width = across * pitch;
  const height = Math.ceil(count / across) * pitch;
  const left = middle - width / 2;
  const at = (index) => [left + ((index % across) + 0.5) * pitch, top + (Math.floor(index / across) + 0.5) * pitch];
  const nearest = (x, y) => {
    const column = Math.floor((x - left) / pitch);
    const index = Math.floor((y - top) / pitch) * across + column;
    return column >= 0 && column < across && index >= 0 && index < count ? index : null;
  };
  return { count, pitch, left, top, width, height, bottom: top + height, right: left + width, at, nearest };
}

// Distance and columns of `count` dots so that they fill about `width` x `height`.
export function spacing(count, width, height) {
  const pitch = Math.max(1.5, Math.min(14, Math.sqrt((width * height) / Math.max(1, count))));
  return { pitch, columns: even(count, Math.min(Math.floor(width / pitch), Math.ceil(Math.sqrt(count * 5)))) };
}

// At most `columns`, and a few less where that fills the last row.
export function even(count, columns) {
  const most = Math.max(1, Math.floor(columns));
  for (let fewer = most; fewer > 0.88 * most; fewer -= 1) if (count % fewer === 0) return fewer;
  return most;
}

export function dot(context, [x, y], radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

// One scale for several lists of numbers: the largest size, but for the one in a hundred beside
// which all the others would look pale.
export function scale(...lists) {
  const sizes = lists.flat().map(Math.abs).sort((one, other) => one - other);
  return Math.max(sizes[Math.floor(0.99 * (sizes.length - 1))] ?? 0, Number.MIN_VALUE);
}

// Signed numbers: warm above zero, cool below, the stronger the larger, up to `most`.
export function signed(context, where, values, strength, most) {
  const [warm, cool, silent] = colours("warm", "cool", "silent");
  values.forEach((value, index) => {
    const size = Math.min(1, Math.abs(value) / most);
    context.globalAlpha = strength;
    context.fillStyle = silent;
    dot(context, where.at(index), where.pitch * 0.3);
    context.globalAlpha = strength * Math.sqrt(size);
    context.fillStyle = value < 0 ? cool : warm;
    dot(context, where.at(index), where.pitch * 0.44);
  });
  context.globalAlpha = 1;
}

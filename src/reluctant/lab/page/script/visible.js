// Text of a model or a user as it can be seen: nothing in it is invisible, and nothing turns the
// text around it.

// Joiners that change the look of their neighbours: in emoji, and in scripts that need them.
const EMOJI = "\\p{Extended_Pictographic}";
const SCRIPTS = ["Arab", "Syrc", "Nkoo", "Mong", "Deva", "Beng", "Guru", "Gujr", "Orya", "Taml", "Telu", "Knda", "Mlym", "Sinh"];
const LETTER = `[${SCRIPTS.map((script) => `\\p{scx=${script}}`).join("")}]`;
const JOINERS = [`(?<=[${EMOJI}\\p{Emoji_Modifier}\\ufe0f])\\u200d(?=${EMOJI})`, `(?<=${LETTER})[\\u200c\\u200d](?=${LETTER})`];
const HIDDEN = "[\\u0080-\\u009f\\u00ad\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff]";
const EITHER = new RegExp(`(${JOINERS.join("|")})|${HIDDEN}`, "gu");

function code(character) {
  return `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

// Control characters as their pictures, other hidden ones by their number; at most `most` characters.
export function visible(text, most = 300) {
  const all = Array.from(String(text).toWellFormed());
  const cut = all.length > most ? [...all.slice(0, most), "…"] : all;
  return cut
    .join("")
    .replace(/\n/g, "↵")
    .replace(/[\0-\x1f]/g, (one) => String.fromCharCode(0x2400 + one.charCodeAt(0)))
    .replace(/\x7f/g, "␡")
    .replace(EITHER, (one, joiner) => joiner ?? code(one));
}

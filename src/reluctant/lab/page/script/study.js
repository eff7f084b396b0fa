// The page of the documents' claims, measured.
import { announce, byId, el, fill, option, quote } from "./dom.js";
import { frame } from "./frame.js";
import { studyChart } from "./study_chart.js";
import { studyTable } from "./study_table.js";
import { pick, read, say, t } from "./words.js";

const study = read("data");

function paragraphs(text) {
  return pick(text)
    .split(/\n\s*\n/)
    .filter((one) => one.trim())
    .map((one) => el("p", {}, one.trim()));
}

function part(word, text) {
  const body = paragraphs(text);
  return body.length ? [el("h3", {}, t(word)), body] : [];
}

// One text, or a list of them.
function list(word, texts) {
  const body = texts.length > 1 ? el("ul", {}, texts.map((one) => el("li", {}, pick(one)))) : texts.map(paragraphs);
  return texts.length ? [el("h3", {}, t(word)), body] : [];
}

function claimSection(claim, index) {
  const id = `claim-${claim.key}`;
  return el(
    "section",
    { id, "aria-labelledby": `${id}-title`, class: "claim" },
    el("p", { class: "count" }, t("study.number", { n: index + 1 })),
    el("h2", { id: `${id}-title`, tabindex: "-1" }, pick(claim.title)),
    el("blockquote", {}, paragraphs(claim.claim)),
    study.quick ? null : el("div", { class: "verdict card" }, part("study.verdict", claim.verdict)),
    part("study.done", claim.done),
    list("study.found", claim.found),
    el("div", { class: "charts pairs" }, (claim.charts ?? []).map((chart, at) => studyChart(chart, `${claim.key}-chart-${at + 1}`))),
    (claim.tables ?? []).map((one, at) => studyTable(one, `${claim.key}-${at + 1}`)),
    part("study.literature", claim.literature),
    part("study.limits", claim.limits),
    claim.commands?.length
      ? [el("h3", {}, t("study.commands")), el("pre", { tabindex: "0", role: "region", "aria-label": t("common.named", { name: t("study.commands"), text: pick(claim.title) }) }, el("code", {}, claim.commands.join("\n")))]
      : [],
  );
}

function glance() {
  const rows = study.glance.rows.map(([title, verdict, figures], index) => [
    el("dt", {}, el("a", { href: `#claim-${study.claims[index].key}` }, pick(title))),
    el("dd", {}, el("strong", {}, pick(verdict)), " ", pick(figures)),
  ]);
  return el("section", { id: "glance", "aria-labelledby": "glance-title" }, el("h2", { id: "glance-title", tabindex: "-1" }, pick(study.glance.title)), el("dl", { class: "explain" }, rows));
}

function contents() {
  const links = study.claims.map((claim) => el("a", { href: `#claim-${claim.key}` }, pick(claim.title)));
  fill(byId("nav"), links);
}

function draw() {
  document.title = `${t("study.title")} · reluctant study`;
  contents();
  fill(
    byId("study-body"),
    study.quick ? el("p", { class: "quick", role: "note" }, t("study.quick")) : null,
    study.claims.length && !study.quick ? glance() : null,
    study.claims.length ? study.claims.map(claimSection) : el("p", {}, t("study.empty")),
  );
  fill(
    byId("made-body"),
    el(
      "dl",
      { class: "explain" },
      [
        [t("made.machine"), quote(study.machine ?? "–")],
        ...(study.reluctant ? [[t("made.version"), `reluctant ${study.reluctant}`]] : []),
        [t("study.seeds"), (study.seeds ?? []).join(", ")],
      ].map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
    ),
    el("p", {}, say("study.source", { out: option("--out") })),
  );
  if (study.quick) announce(t("study.quick"));
}

frame(draw, () => {});

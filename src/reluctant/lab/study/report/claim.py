"""What all claims have in common."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reluctant.lab.study.report.figures import Results
from reluctant.lab.study.report.say import MISSING, Two, joined, opening, two
from reluctant.lab.study.report.texts import texts

NOTHING = two("Not run yet.", "尚未运行。")
NO_VERDICT = two("No conclusion.", "不下结论。")


@dataclass(frozen=True)
class Claim:
    """key: as `--only` has it, and the name of its words. groups: of pieces, that it is made of.

    figures: the ones that decide, in a sentence. found: sentences; None says nothing. verdict:
    whether the figures agree with the claim.
    """

    key: str
    groups: Sequence[str]
    figures: Two | None
    found: Iterable[Two | None]
    verdict: Two
    tables: Sequence[dict[str, Any]]
    charts: Sequence[dict[str, Any]] = ()

    def to_json(self, results: Results) -> dict[str, Any]:
        """As `document` has it; without conclusions where there can be none."""
        words, common = texts(self.key, results.plan), texts("common", results.plan)
        there, total = results.done(*self.groups)
        found = [each for each in (*self.found, _diverged(results, self.groups)) if each]
        verdict, decides = self.verdict, self.figures or MISSING
        if not there:
            found, verdict, decides = [NOTHING], NO_VERDICT, MISSING
        elif results.plan.quick:
            found, verdict, decides = [common["smoke"]], NO_VERDICT, MISSING
        elif there < total:
            missing = two(
                f"Not finished: {there} of {total} pieces are there.",
                f"尚未完成：{total} 件中已有 {there} 件。",
            )
            found, verdict = [missing, *found], joined([missing, NO_VERDICT])
        return {
            "key": self.key,
            "title": words["title"],
            "claim": words["claim"],
            "glance": [opening(verdict), decides],
            "done": joined([words["done"], common["sizes"]]),
            "found": found,
            "literature": words["literature"],
            "verdict": verdict,
            "limits": joined([words["limits"], common["small"]]),
            "tables": [each for each in self.tables if each["rows"]],
            "charts": [each for each in self.charts if each["series"]],
            "commands": results.commands(*self.groups),
        }


def _diverged(results: Results, groups: Sequence[str]) -> Two | None:
    models = ", ".join(results.diverged(*groups))
    if not models:
        return None
    return two(f"Training diverged: {models}.", f"训练发散：{models}。")


def verdict(how: int | None, agrees: Two, contradicts: Two) -> Two:
    """how: as `sign` says, 1 where the figures agree with the claim."""
    if how is None:
        return NO_VERDICT
    if how == 0:
        return two("Undecided: the difference is within the spread.", "未定：差异未超出差幅。")
    lead = two("Agrees.", "一致。") if how > 0 else two("Contradicts.", "相悖。")
    return joined([lead, agrees if how > 0 else contradicts])

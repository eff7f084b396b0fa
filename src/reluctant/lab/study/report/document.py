"""Result files as one document for people: claims with sentences, tables and charts."""

from pathlib import Path
from typing import Any

from reluctant.errors import ReluctantError
from reluctant.lab.study.report import applied, combination, nonlinearity, residual, width
from reluctant.lab.study.report.figures import Results
from reluctant.lab.study.report.say import table, two

FORMAT = 1
CLAIMS = (nonlinearity.write, width.write, residual.write, combination.write, applied.write)


def document(folder: Path) -> dict[str, Any]:
    """What the results in a folder say, as JSON; of an empty or missing one, what would be done.

    {"format", "machine", "quick", "seeds", "glance", "claims": [{"key", "title", "claim", "done",
    "found", "literature", "verdict", "limits", "tables", "charts", "commands"}]}: texts are {"en",
    "zh"}, "found" is a list of them; a table's cell is a text, a number, or {"mean", "spread",
    "values"} over the seeds; a chart's points have "x", "y", and the "low" and "high" of the seeds.
    "glance" is a table of all claims.

    Raises ReluctantError for files that are no results, or do not go together.
    """
    results = Results(folder)
    try:
        claims = [write(results).to_json(results) for write in CLAIMS]
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, ArithmeticError) as error:
        raise ReluctantError(
            f"expected results of this version in {folder}; one of them lacks what it should have "
            f"({error!r}): move them away, and run the study again"
        ) from error
    machines = dict.fromkeys(each.made.machine for each in results.all)
    return {
        "format": FORMAT,
        "machine": ", ".join(machines),
        "quick": results.plan.quick,
        "seeds": list(results.plan.seeds),
        "glance": table(
            two("At a glance", "一览"),
            [two("claim", "论断"), two("verdict", "结论"), two("figures", "数字")],
            [[each["title"], *each.pop("glance")] for each in claims],
        ),
        "claims": claims,
    }

"""The parts of the document that do not depend on what was found: TOML files beside this one."""

import tomllib
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

from reluctant.lab.study.neurons import FIRES, TIMES
from reluctant.lab.study.plan import Plan
from reluctant.lab.study.report.equal import label
from reluctant.lab.study.report.say import Two, two


def texts(name: str, plan: Plan) -> dict[str, Two]:
    """Those of a claim, or "common": by their names, with the plan's numbers.

    >>> texts("applied", Plan())["title"]["en"]
    'How it is applied'
    """
    values: dict[str, Any] = {**asdict(plan), "seed_count": len(plan.seeds)}
    values |= {"ratio_list": ", ".join(map(label, plan.ratios))}
    values |= {"fires": FIRES, "times": TIMES}
    return {
        key: two(each["en"].format(**values), each["zh"].format(**values))
        for key, each in _read(name).items()
    }


@cache
def _read(name: str) -> dict[str, dict[str, str]]:
    file = files("reluctant.lab.study.report") / "words" / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))

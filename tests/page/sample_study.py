"""A study that looks like a real one, with a text that no page must fall for."""

from typing import Any

from tests.page.sample import SCRIPT


def study(*, quick: bool = False) -> dict[str, Any]:
    """A study in format 1, of one claim, with a hostile text."""

    def both(text: str) -> dict[str, str]:
        return {"en": text, "zh": f"中文 {text}"}

    points = [
        {"x": 2.0**at, "y": 3 - at / 9, "low": 2.9 - at / 9, "high": 3.1 - at / 9}
        for at in range(6)
    ]
    charts = [
        {
            "title": both("Loss by width"),
            "x": {"label": both("d_ff / d_model"), "log": True},
            "y": {"label": both("loss"), "log": False},
            "series": [
                {"name": both("equal parameters"), "points": points},
                {
                    "name": both("equal time"),
                    "points": [{**one, "y": one["y"] + 0.2, "low": None} for one in points],
                },
            ],
        },
        {
            "title": both("By variant"),
            "x": {"label": both("variant"), "log": False},
            "y": {"label": both("loss"), "log": False},
            "series": [
                {
                    "name": "loss",
                    "points": [
                        {"x": name, "y": 1.0, "low": 0.9, "high": 1.1} for name in ("ReLU", SCRIPT)
                    ],
                }
            ],
        },
    ]
    # A logarithmic axis with zeros, and more series than there are looks.
    depth = [
        {"x": at, "y": 10.0**-at if at < 3 else 0.0, "low": 0.0, "high": 1.0} for at in range(4)
    ]
    many = [{"name": f"model {at}", "points": depth} for at in range(8)]
    axes = {"x": {"label": both("layers"), "log": False}, "y": {"label": both("r"), "log": True}}
    charts.append({"title": both("Rank by depth"), **axes, "series": many})
    rows = [
        ["ReLU", {"mean": 2.8, "spread": 0.02, "values": [2.78, 2.8, 2.82]}, 3],
        [both(SCRIPT), {"mean": 3.1, "spread": None, "values": [3.1]}, None],
    ]
    texts = ("claim", "done", "literature", "verdict", "limits")
    claim = {
        "key": "nonlinearity",
        "title": both("Non-linearity"),
        **{key: both(f"The {key}.") for key in texts},
    }
    claim["found"] = [both("The found."), both(SCRIPT)]
    claim |= {"commands": ["reluctant study nonlinearity"], "charts": charts}
    claim["tables"] = [
        {
            "title": both("Losses"),
            "columns": [both("variant"), both("loss"), both("runs")],
            "rows": rows,
        }
    ]
    second = {
        **claim,
        "key": "width",
        "title": both("Width <b>"),
        "charts": [],
        "tables": [],
        "found": [both("One.\n\nTwo.")],
    }
    return {
        "format": 1,
        "machine": "a machine",
        "quick": quick,
        "seeds": [1, 2, 3],
        "glance": {
            "title": both("At a glance"),
            "columns": [both("claim"), both("verdict"), both("figures")],
            "rows": [[both("Width <b>"), both("Undecided."), both(SCRIPT)]],
        },
        "claims": [claim, second],
    }

"""Result files: one a piece, written when it is done, with all that it takes to make it again."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reluctant.errors import ReluctantError
from reluctant.files import write_json
from reluctant.lab.study.pieces import Piece, pieces
from reluctant.lab.study.plan import FULL, QUICK, Plan

FORMAT = 1
_LARGEST = 1 << 20  # bytes: results have some thousand


@dataclass(frozen=True)
class Made:
    """By which command, on what, with which settings.

    command: that was typed. machine: the processor. threads: of torch. versions: of packages. text:
    the fingerprint of what was learned from.
    """

    command: str
    machine: str
    threads: int
    versions: Mapping[str, str]
    text: str
    plan: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """seconds: that the piece took; cpu_seconds: of all threads."""

    piece: Piece
    made: Made
    seconds: float
    cpu_seconds: float
    result: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """What its file holds."""
        return {
            "format": FORMAT,
            "kind": self.piece.kind,
            "name": self.piece.name,
            "seed": self.piece.seed,
            "command": self.made.command,
            "machine": self.made.machine,
            "threads": self.made.threads,
            "versions": dict(self.made.versions),
            "text": self.made.text,
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
            "plan": dict(self.made.plan),
            "result": rounded(self.result),
        }


def rounded(value: Any) -> Any:
    """Numbers with six digits, which is more than any of them is good for.

    >>> rounded({"loss": [3.14159265]})
    {'loss': [3.14159]}
    """
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def is_finite(value: Any) -> bool:
    """Whether all numbers in a result are.

    >>> is_finite({"loss": [3.1, None]}), is_finite({"loss": [float("nan")]})
    (True, False)
    """
    if isinstance(value, Mapping | list):
        return all(map(is_finite, value.values() if isinstance(value, Mapping) else value))
    return not isinstance(value, float) or math.isfinite(value)


def write(folder: Path, result: Result) -> None:
    """Write a piece's file, atomically, into the folder, which is made if need be.

    Raises ReluctantError if it cannot be written, or if a number of the result is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_json(folder / result.piece.file, result.to_json())
    except ReluctantError:
        raise
    except ValueError as error:
        raise ReluctantError(
            f"{result.piece.file}: expected finite numbers, got others ({error}); nothing was "
            "written"
        ) from error


def read(folder: Path) -> list[Result]:
    """All results in a folder, in the study's order; other files are left alone.

    Raises ReluctantError for a file with a result's name that is none, and for results of different
    texts or plans, which do not go together.
    """
    names = [path.name for path in folder.glob("m*-*.json")] if folder.is_dir() else []
    found = {name: _read(folder / name) for name in sorted(names)}
    if not found:
        return []
    first_name, first = next(iter(found.items()))
    for name, each in found.items():
        if (each.made.text, each.made.plan) != (first.made.text, first.made.plan):
            raise ReluctantError(
                f"{folder}: expected results of one text and one plan; {name} has another than "
                f"{first_name}: keep studies in folders of their own"
            )
    known = {piece: each for each in found.values() for piece in [each.piece]}
    order = [piece for piece in pieces(plan_of(first)) if piece in known]
    return [known[piece] for piece in order]


def plan_of(result: Result) -> Plan:
    """Of the seeds, ratios and sizes that the result's study has."""
    try:
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in result.made.plan.items()
        }
        plan = Plan(**given)
        _check(plan)
    except (TypeError, ValueError) as error:
        raise ReluctantError(
            f"{result.piece.file}: expected the plan of a study of this version: {error}; move the "
            "results of other versions to a folder of their own"
        ) from error
    return plan


def _check(plan: Plan) -> None:
    """Compare the types with those of the plans that there are."""
    for name, value in plan.to_json().items():
        wanted: Any = FULL.to_json()[name]
        parts: Sequence[Any] = value if isinstance(wanted, list) else [value]
        whole = isinstance(QUICK.to_json()[name], int)
        for part in parts:
            number = isinstance(part, int if whole else int | float) and math.isfinite(part)
            if isinstance(wanted, bool) != isinstance(part, bool) or not number:
                raise ValueError(f"{name} is {value!r}")


def _read(file: Path) -> Result:
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refused)
        return _result(file.name, values)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ReluctantError(
            f"expected a result of `reluctant study` in {file}: {error!r}; remove the file, and "
            "the next run makes it again"
        ) from error


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _result(name: str, values: Any) -> Result:
    if values["format"] != FORMAT:
        raise ValueError(f"its format is {values['format']!r}, not {FORMAT}")
    piece = Piece(
        _typed(values, "kind", str), _typed(values, "name", str), _typed(values, "seed", int)
    )
    made = Made(
        *(_typed(values, "command", str), _typed(values, "machine", str)),
        *(_typed(values, "threads", int), _typed(values, "versions", dict)),
        *(_typed(values, "text", str), _typed(values, "plan", dict)),
    )
    seconds, cpu = (float(values[key]) for key in ("seconds", "cpu_seconds"))
    result = Result(piece, made, seconds, cpu, _typed(values, "result", dict))
    if piece.file != name or piece not in pieces(plan_of(result)):
        raise ValueError(f"it says that it is {piece.file}, a piece that this study does not have")
    return result


def _typed(values: Any, key: str, kind: type) -> Any:
    value = values[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise ValueError(f"{key} is {value!r}")
    return value

"""A run as a picture: the loss, and the share of active neurons of each layer."""

from pathlib import Path

from reluctant.errors import ReluctantError
from reluctant.translation.journal import Journal

WINDOW = 50  # steps that the loss is smoothed over


def draw(journal: Journal, file: Path) -> None:
    """Draw it, as SVG or what the file's suffix says, atomically.

    Raises ReluctantError for a run without steps; ImportError if matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  an extra

    if not journal.steps:
        raise ReluctantError("expected a run with some steps to draw, got one without")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = [line for line in journal.steps if line["loss"] is not None]
    steps = [line["step"] for line in lines]
    left.plot(steps, smooth([line["loss"] for line in lines]), label="training, smoothed")
    if journal.validations:
        known = [line for line in journal.validations if line["validation"] is not None]
        points = [line["step"] for line in known], [line["validation"] for line in known]
        left.plot(*points, "o-", markersize=3, label="validation")
        if any("bleu" in line for line in known):
            other = left.twinx()
            other.plot(points[0], [line.get("bleu") for line in known], "g.--", label="BLEU")
            other.set_ylabel("BLEU of validation sentences", color="g")
            other.set_ylim(bottom=0)
    left.set(xlabel="step", ylabel="loss, nats a token")
    left.legend()
    counted = [line for line in journal.steps if any((line.get("density") or {}).values())]
    for name in counted[-1]["density"] if counted else []:
        shares = [(line["density"].get(name) or float("nan")) * 100 for line in counted]
        label = name.replace(".layers.", " ")
        style = "-" if name.startswith("encoder") else "--"
        right.plot([line["step"] for line in counted], shares, style, label=label)
    right.set(xlabel="step", ylabel="active neurons, %", ylim=(0, None))
    if counted:
        right.legend(fontsize="small")
    partial = file.with_name(f".{file.name}")
    figure.savefig(partial, format=file.suffix.removeprefix(".") or "svg")
    partial.replace(file)


def smooth(numbers: list[float], window: int = WINDOW) -> list[float]:
    """The mean of each number and up to `window` - 1 before it.

    >>> smooth([1, 2, 3, 4], window=2)
    [1.0, 1.5, 2.5, 3.5]
    """
    found, total = [], 0.0
    for i, number in enumerate(numbers):
        total += number - (numbers[i - window] if i >= window else 0.0)
        found.append(total / min(i + 1, window))
    return found

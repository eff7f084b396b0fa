"""The runs as a table in Markdown, and how far their losses are apart."""

from tools.lm.record import WINDOW, Record

COLUMNS = (
    *("run", "steps", "seconds", "tokens/s", "steps/s to torch's", "training loss"),
    *("validation loss", "active", "memory before", "peak", "last steps'"),
)


def page(runs: list[Record]) -> str:
    """Both, for the runs of one folder. Memory is in MiB."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(_row(run, runs)) + " |" for run in runs]
    apart = [_apart(run, twin) for run in runs for twin in [_twin(run, runs)] if twin is not None]
    lines += ["", f"The largest difference of losses, as means of {WINDOW} steps:", "", *apart]
    return "\n".join(lines)


def _row(run: Record, runs: list[Record]) -> list[str]:
    seconds, tokens = run.seconds()[-1], sum(line["tokens"] for line in run.steps)
    twin = _twin(run, runs)
    ratio = "" if twin is None or not run.settings["engine"] else f"{_ratio(run, twin):.2f}"
    shares = run.densities()
    active = f"{_mean(shares[-1][1]):.1%}" if shares else ""
    validation = run.validations.get(run.steps[-1]["step"])
    late = max(line["memory"] for line in run.steps[-WINDOW:])
    before, peak = (
        f"{size / 2**20:.0f}" for size in (run.header["memory"], run.end.get("peak_memory", 0))
    )
    return [
        *(run.label, str(len(run.steps)), f"{seconds:.0f}", f"{tokens / seconds:.0f}", ratio),
        *(f"{run.losses()[-1]:.4f}", "" if validation is None else f"{validation:.4f}"),
        *(active, before, peak, str(late)),
    ]


def _ratio(run: Record, twin: Record) -> float:
    """Steps a second over the twin's, over all the steps that both have."""
    steps = min(len(run.steps), len(twin.steps))
    return twin.seconds()[steps - 1] / run.seconds()[steps - 1]


def _twin(run: Record, runs: list[Record]) -> Record | None:
    """The run in plain torch that it is compared with: it differs in the engine, or the threads."""
    free = ("engine", "threads", "stop")
    for other in runs:
        same = all(other.settings[k] == v for k, v in run.settings.items() if k not in free)
        engines = run.settings["engine"], other.settings["engine"]
        threads = run.settings["threads"] == other.settings["threads"]
        if same and other.text == run.text and engines == (threads, False) and other is not run:
            return other if threads or run.settings["threads"] == 1 else None
    return None


def _apart(run: Record, twin: Record) -> str:
    steps = min(len(run.steps), len(twin.steps))
    said = f"- {run.label} and {twin.label}: {difference(run, twin, steps):.4f} in {steps} steps"
    early = min(60, steps)
    return said + (f", {difference(run, twin, early):.4f} in the first {early}" * (early < steps))


def difference(run: Record, other: Record, steps: int) -> float:
    """The largest of the smoothed losses, in so many steps."""
    last = max(steps - WINDOW + 1, 1)
    pairs = zip(run.losses()[:last], other.losses()[:last], strict=True)
    return max(abs(a - b) for a, b in pairs)


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)

"""The pieces of a study, one after the other; what is there is not done again.

Several processes may work in one folder, each with some groups of its own.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reluctant.errors import ReluctantError
from reluctant.files import check_writable
from reluctant.lab.study import store
from reluctant.lab.study.bench import Bench
from reluctant.lab.study.learn import Stopped
from reluctant.lab.study.pieces import pieces
from reluctant.lab.study.plan import Plan
from reluctant.lab.study.text import Text


@dataclass(frozen=True)
class Outcome:
    """done: pieces that there are; total: that there should be; interrupted: by Ctrl-C."""

    done: int
    total: int
    interrupted: bool = False


def run(
    plan: Plan,
    text: Text,
    out: Path,
    weights: Path,
    *,
    only: Sequence[str] = (),
    minutes: float | None = None,
    on_progress: Callable[[str, int, int], object] = lambda what, done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Do what is missing of a study, and write each result when it is done.

    out: gets the result files. weights: gets trained models, which measurements are made on; what
    is missing there is trained again. only: some groups of `pieces.GROUPS`. minutes: no piece is
    begun that would end later, if it took as long as the longest so far; at least one is done.
    on_progress: told what is being done, and how many pieces are done of how many. stop: asked
    often whether to end; the piece that goes on is then lost, and no other.

    Raises ReluctantError for a folder with results of another plan or text, and if it cannot be
    written to; and, when all others are done, for pieces whose numbers were not finite.
    """
    wanted = pieces(plan, only)
    there = {each.piece: each for each in store.read(out)}
    made = made_now(plan, text)
    for each in there.values():
        if (each.made.text, each.made.plan) != (made.text, made.plan):
            raise ReluctantError(
                f"{out} holds results of another text or plan ({each.piece.file}): go on with "
                "what it was begun with, or name another --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    check_writable(out / "result.json")

    def telling(done: int) -> Callable[[str], object]:
        return lambda what: on_progress(what, done, len(wanted))

    missing = [piece for piece in wanted if piece not in there]
    done, began, longest = len(wanted) - len(missing), time.monotonic(), 0.0
    refused: list[str] = []
    for number, piece in enumerate(missing):
        late = minutes is not None and time.monotonic() - began + longest > 60 * minutes
        if number and late:
            break
        if (out / piece.file).exists():  # of another process, which began beside this one
            done += 1
            continue
        bench = Bench(plan, text, weights, telling(done), stop)
        start, cpu = time.monotonic(), time.process_time()
        try:
            bench.check()
            found = piece.do(bench)
        except Stopped:
            return Outcome(done, len(wanted), interrupted=True)
        seconds = time.monotonic() - start
        longest = max(longest, seconds)
        result = store.Result(piece, made, seconds, time.process_time() - cpu, found)
        if not store.is_finite(found):
            refused.append(piece.file)
            continue
        store.write(out, result)
        done += 1
        on_progress(piece.file, done, len(wanted))
    if refused:
        raise ReluctantError(
            f"expected finite numbers, got others in {', '.join(refused)}: nothing was written of "
            "them; all else is there"
        )
    return Outcome(done, len(wanted))


def made_now(plan: Plan, text: Text) -> store.Made:
    """What a result says of how it was made."""
    import torch  # noqa: PLC0415

    from reluctant.machine import cpu_model, versions  # noqa: PLC0415  loads torch

    program = Path(sys.argv[0]).name
    command = " ".join(["reluctant" if program == "__main__.py" else program, *sys.argv[1:]])
    return store.Made(
        command,
        cpu_model(),
        torch.get_num_threads(),
        versions("reluctant", "torch", "numba", "tokenizers"),
        text.fingerprint,
        plan.to_json(),
    )

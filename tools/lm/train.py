"""One run: steps, a line of figures for each, and a checkpoint to go on from.

The same seed means the same weights to begin with and the same text at each step, with the engine
and without. Only forward pass, backward pass and optimizer are timed; the engine's kernels are
compiled before.
"""

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reluctant.errors import ReluctantError
from tools.lm import plain, record
from tools.lm.memory import Memory, resident
from tools.lm.model import LanguageModel, Shape
from tools.lm.text import Text

COUNTED_EVERY = 10  # steps: the density in plain torch


@dataclass(frozen=True)
class Settings:
    """What a run's figures depend on.

    stop: the steps that are done of those that the learning rate is planned for. penalty, ramp: as
    in `reluctant.activity_penalty`; every: steps between two checkpoints, and between validations.
    """

    engine: bool = False
    penalty: float = 0.0
    ramp: int = 0
    steps: int = 300
    stop: int = 300
    batch: int = 8
    length: int = 256
    seed: int = 0
    lr: float = 1e-3
    warm_up: int = 30
    threads: int = 2
    every: int = 100
    shape: Shape = field(default_factory=Shape)

    @property
    def name(self) -> str:
        """Of its files.

        >>> Settings(engine=True, penalty=0.1).name, Settings(threads=1).name
        ('engine-penalty', 'torch-1-thread')
        """
        name = "engine" if self.engine else "torch"
        name += "-penalty" if self.penalty else ""
        return name + ("-1-thread" if self.threads == 1 else "")

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 1 on: it grows, then falls as a cosine to a tenth."""
        if step <= self.warm_up:
            return self.lr * step / self.warm_up
        done = (step - self.warm_up) / max(self.steps - self.warm_up, 1)
        return self.lr * (0.55 + 0.45 * math.cos(math.pi * done))


class Penalty(Protocol):
    """`reluctant.ActivityPenalty`, or `plain.PlainPenalty`."""

    steps: int

    def __call__(self) -> Tensor:
        """The term of this step."""


def compile_kernels() -> float:
    """Have the engine compile what it trains with, or load it: the seconds that this takes."""
    from reluctant.precompile import compile_step  # noqa: PLC0415  not for plain torch to load

    began = perf_counter()
    compile_step(torch.float32, gated=False)
    return perf_counter() - began


class Learner:
    """A model with its optimizer, and its engine and penalty if there are any."""

    def __init__(self, settings: Settings, text: Text) -> None:
        self.settings, self.text = settings, text
        torch.manual_seed(settings.seed)
        self.model = LanguageModel(settings.shape, text.vocabulary, settings.length)
        self.first = self.model.fingerprint()
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() == 1]
        groups: Any = [{"params": matrices, "weight_decay": 0.1}, {"params": others}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.memory = Memory()
        self.penalty: Penalty | None = None
        if settings.engine:
            import reluctant  # noqa: PLC0415

            reluctant.optimize(self.model, parts=("feed_forward",))
            if settings.penalty:
                weight, ramp = settings.penalty, settings.ramp
                self.penalty = reluctant.activity_penalty(self.model, weight, ramp=ramp)
        elif settings.penalty:
            self.penalty = plain.PlainPenalty(self.model, settings.penalty, settings.ramp)

    def step(self, number: int) -> dict[str, Any]:
        """The figures of a step; the first has number 1."""
        settings = self.settings
        ids, targets = self.text.batch(number - 1, settings.batch, settings.length, settings.seed)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(number)
        density = self._counted(number, ids)
        self.memory.restart()
        began = perf_counter()
        self.optimizer.zero_grad()
        loss = _loss(self.model, ids, targets)
        term = None if self.penalty is None else self.penalty()
        (loss if term is None else loss + term).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        seconds = perf_counter() - began
        if settings.engine:
            import reluctant  # noqa: PLC0415

            density = list(reluctant.density(self.model).values())
        return {
            "step": number,
            "loss": round(loss.item(), 5),
            "penalty": 0 if term is None else float(f"{term.item():.4g}"),
            "seconds": round(seconds, 4),
            "tokens": ids.numel(),
            "memory": round(self.memory.since() / 2**20),
            "density": [None if each is None else round(each, 4) for each in density],
        }

    def _counted(self, number: int, ids: Tensor) -> list[float | None]:
        """What plain torch does not know by itself."""
        due = number % COUNTED_EVERY == 1 or number == self.settings.stop
        return list(plain.density(self.model, ids)) if due and not self.settings.engine else []

    @torch.no_grad()
    def validate(self) -> float:
        """The mean loss over the text for validation."""
        losses, tokens = 0.0, 0
        for ids, targets in self.text.validation(self.settings.batch, self.settings.length):
            losses += _loss(self.model, ids, targets).item() * ids.numel()
            tokens += ids.numel()
        return losses / tokens

    def state(self) -> dict[str, Any]:
        """All that changes. There is no dropout, and a step's text follows from its number."""
        steps = 0 if self.penalty is None else self.penalty.steps
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return parts | {"penalty": steps}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.penalty is not None:
            self.penalty.steps = state["penalty"]


def _loss(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())


def train(
    settings: Settings,
    text: Text,
    folder: Path,
    command: str = "",
    on_step: Callable[[dict[str, Any]], bool] = lambda line: True,
) -> bool:
    """Do a run, or what is left of it; its figures go to `folder/name.jsonl`.

    on_step: is shown each step's line; False ends the run after a checkpoint. Returns whether it is
    done. Raises ReluctantError if the folder holds a run of this name with other settings.
    """
    torch.set_num_threads(settings.threads)
    folder.mkdir(parents=True, exist_ok=True)
    file, kept = folder / f"{settings.name}.jsonl", folder / f"{settings.name}.pt"
    before = record.read(file) if file.exists() else None
    given = asdict(settings)
    if before is not None and (before.settings, before.text) != (given, text.fingerprint):
        raise ReluctantError(
            f"expected {file} to be of a run with these settings and this text, or not to be "
            f"there: remove it and {kept.name}, or name another --out"
        )
    if before is not None and before.ended:
        return True
    compiled = compile_kernels() if settings.engine else 0.0
    learner, done = Learner(settings, text), 0
    if before is not None and kept.exists():
        state = torch.load(kept, mmap=True)
        learner.load(state)
        done = state["step"]
        record.cut(file, done)
        record.append(file, {"resumed": done})
    else:
        facts: record.Line = {"text": text.fingerprint, "weights": learner.first}
        facts |= {"compiled_seconds": round(compiled, 1), "memory": resident()}
        record.begin(file, command, given, facts)
    for number in range(done + 1, settings.stop + 1):
        line = learner.step(number)
        record.append(file, line)
        goes_on, last = on_step(line), number == settings.stop
        if number % settings.every == 0 or last:
            record.append(file, {"step": number, "validation": round(learner.validate(), 5)})
        if not last and (number % settings.every == 0 or not goes_on):
            save(kept, learner.state() | {"step": number})
        if not goes_on and not last:
            return False
    peak = learner.memory.highest
    record.append(file, {"peak_memory": peak, "weights": learner.model.fingerprint()})
    kept.unlink(missing_ok=True)
    return True


def save(path: Path, state: dict[str, Any]) -> None:
    """Write it whole or not at all, without a copy in memory."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise

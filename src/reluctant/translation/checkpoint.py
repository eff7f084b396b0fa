"""A run's state in one file, written whole or not at all: what goes on from it has the same bits.

And the weights of the last checkpoints beside it, of which the model is the mean.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.files import write_atomic
from reluctant.translation import sharded
from reluctant.translation.learner import Learner, moments

NAME = "checkpoint.safetensors"


@dataclass
class Progress:
    """How far a run is.

    step: the last one done. epoch, position: the next batch. seconds: of all its processes so
    far. best, best_step: the lowest validation loss, and of which checkpoint. waited: validations
    since then. validated: the step of the last one.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    validated: int = 0


def save(folder: Path, learner: Learner, progress: Progress) -> None:
    """Write what a run needs to go on, atomically; a part by each rank where it is sharded.

    Raises ReluctantError if the disk is full, or the folder cannot be written to.
    """
    tensors, facts = _tensors(learner), {"progress": asdict(progress)}
    if learner.ranks.alike or not learner.ranks.sharded:
        tensors |= _random(learner)
    if learner.ranks.sharded:
        sharded.write(folder, learner.ranks, tensors, facts, progress.step)
    elif learner.ranks.first:
        write(folder / NAME, tensors, facts)
    learner.ranks.barrier()


def load(folder: Path, learner: Learner) -> Progress:
    """Go on from there: with one process the bits are those of a run that never stopped.

    Raises ReluctantError for a file that is not of such a run.
    """
    own, random = _tensors(learner), {}
    if learner.ranks.alike or not learner.ranks.sharded:
        random = _random(learner)
    own |= random
    if learner.ranks.sharded:
        facts = sharded.read(folder, own)
    else:
        tensors, facts = read(folder / NAME)
        if missing := sorted(own.keys() - tensors.keys()):
            raise ReluctantError(f"expected {missing[0]} in {folder / NAME}: it is of another run")
        try:
            with torch.no_grad():
                for name, tensor in own.items():
                    tensor.copy_(tensors[name])
        except RuntimeError as error:
            raise ReluctantError(f"{folder / NAME} is of another model: {error}") from error
    try:
        progress = Progress(**facts["progress"])
    except (KeyError, TypeError) as error:
        raise ReluctantError(f"{folder} is of another version of reluctant: {error}") from error
    for parameter in learner.parameters.values():
        learner.optimizer.state[parameter]["step"].fill_(progress.step)
    if not learner.ranks.alike:
        learner.ranks.seed(learner.settings.seed + progress.step)
        return progress
    torch.set_rng_state(random["random"])
    if (device := _device(learner)) is not None:
        device.set_rng_state(random["random.device"], learner.settings.device)
    return progress


def _random(learner: Learner) -> dict[str, Tensor]:
    """The state of what draws dropout's masks: a copy."""
    found = {"random": torch.get_rng_state()}
    if (device := _device(learner)) is not None:
        found["random.device"] = device.get_rng_state(learner.settings.device)
    return found


def _device(learner: Learner) -> Any:
    """torch's module of the device that dropout is drawn on; None: of the CPU."""
    kind = torch.device(learner.settings.device)
    return None if kind.type == "cpu" else torch.get_device_module(kind)


def _tensors(learner: Learner) -> dict[str, Tensor]:
    """All that AdamW changes, in place: weights, and two running means of each."""
    found: dict[str, Tensor] = {}
    placed = learner.ranks.placed
    for name, parameter in learner.parameters.items():
        mean, square = moments(learner, name)
        kinds = {"weight": parameter.detach(), "mean": mean, "square": square}
        found |= {f"{kind}.{name}": placed(name, tensor) for kind, tensor in kinds.items()}
    return found


def save_weights(folder: Path, weights: Mapping[str, Tensor], step: int) -> None:
    """Keep the weights of a step."""
    write(_file(folder, step), dict(weights), {})


def mean_weights(folder: Path, steps: list[int]) -> dict[str, Tensor]:
    """The mean of the weights that were kept of these steps, added up in their order."""
    sums: dict[str, Tensor] = {}
    for step in steps:
        for name, tensor in read(_file(folder, step))[0].items():
            sums[name] = sums[name].add_(tensor) if name in sums else tensor.clone()
    return {name: tensor.div_(len(steps)) for name, tensor in sums.items()}


def kept(folder: Path) -> list[int]:
    """The steps whose weights are there, in order."""
    return sorted(int(file.stem.removeprefix("weights-")) for file in files(folder))


def forget(folder: Path, steps: list[int]) -> None:
    """Remove the weights of these steps."""
    for step in steps:
        _file(folder, step).unlink(missing_ok=True)


def write(file: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """A safetensors file, atomically. Raises ReluctantError if it cannot be written."""
    from safetensors.torch import save as serialised  # noqa: PLC0415  an extra

    content = serialised(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        {name: json.dumps(value) for name, value in facts.items()},
    )
    write_atomic(file, content)


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote. Raises ReluctantError for another file."""
    from safetensors import safe_open  # noqa: PLC0415

    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            facts = opened.metadata() or {}
        return tensors, {name: json.loads(value) for name, value in facts.items()}
    except Exception as error:  # safetensors has errors of its own, and Rust's
        raise ReluctantError(f"expected {file} to be a file of `reluctant train`: {error}") from (
            error
        )


def files(folder: Path) -> Iterator[Path]:
    """Those weights."""
    return folder.glob("weights-*.safetensors")


def _file(folder: Path, step: int) -> Path:
    return folder / f"weights-{step:07d}.safetensors"

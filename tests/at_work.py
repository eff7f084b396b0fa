"""What a process of a distributed training run does, for tests to start several."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from learning import TINY, some_data
from reluctant import ways
from reluctant.translation.distributed import ranks_of
from reluctant.translation.settings import Settings
from reluctant.translation.train import Run, Watch

EXACT = replace(TINY, dropout=0.0, penalty=0.2, ramp=2, steps=6, accumulate=2)


def settings_of(mode: str) -> Settings:
    """Of a run in this mode, and alone: tensor ranks draw dropout alike, as one process does."""
    return replace(EXACT, dropout=0.2) if mode == "tensor" else EXACT


COMMANDS = ("gloo:all_reduce", "gloo:all_gather", "gloo:reduce_scatter", "gloo:broadcast")


def rank(number: int, size: int, folder: str, modes: tuple[str, ...], port: int) -> None:
    """One process of `size`, which does a run in each of the modes."""
    torch.set_num_threads(1)
    ways.training_limits = lambda dtype, weights, tokens: (2.0, 0.0)  # the engine, always
    place = Path(folder)
    own = place / f"text-{number}"
    own.mkdir()
    for i, mode in enumerate(modes):
        os.environ |= {"RANK": str(number), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port + i)}
        settings = replace(settings_of(mode), parallel=mode)
        data = some_data(own)
        with ranks_of(settings) as ranks:
            run = Run(place / mode, data, settings, ranks)
            stop = Watch(stop=lambda run=run: run.progress.step == 4)  # type: ignore[misc]
            assert not run.train(stop)
            again = Run(place / mode, data, settings, ranks)
            assert again.progress.step == 4
            assert again.train()
            (place / f"{mode}-{number}.txt").write_text(str(moved(again)))


def moved(run: Run) -> int:
    """Bytes that a step hands to gloo, the numbers that all agree on aside."""
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    run.settings = Settings(**{**vars(run.settings), "accumulate": 1})
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        run._step()
    total = 0
    for event in found.events() or []:
        shapes: Any = event.input_shapes
        if event.name in COMMANDS and shapes and shapes[0]:
            total += 4 * math.prod(shapes[0])
    return total

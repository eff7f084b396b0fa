"""A run's state where each rank holds a part of it, by `torch.distributed.checkpoint`.

Each is a folder of its own, which gets its name when it is whole: so there is always one to go on
from. It can be read by another number of ranks.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.files import write_json
from reluctant.translation.ranks import Ranks

_FACTS = "facts.json"


def folders(folder: Path) -> list[Path]:
    """Those that are whole, the last one last."""
    return sorted(folder.glob("checkpoint-*[0-9]"))


def write(
    folder: Path, ranks: Ranks, tensors: dict[str, Tensor], facts: Mapping[str, Any], step: int
) -> None:
    """Write a folder, and remove the one before. Called by all ranks at once."""
    from torch.distributed.checkpoint.state_dict_saver import save  # noqa: PLC0415  slow

    place = folder / f"checkpoint-{step:07d}"
    partial = place.with_suffix(".partial")
    if ranks.first and not place.exists():
        shutil.rmtree(partial, ignore_errors=True)
    ranks.barrier()
    if place.exists():
        return
    try:
        save(tensors, checkpoint_id=str(partial))
    except Exception as error:  # of every rank at once: a CheckpointException says which
        raise ReluctantError(
            f"expected room for a checkpoint at {partial}: {error}. The one before is as it was"
        ) from error
    if ranks.first:
        write_json(partial / _FACTS, dict(facts))
        partial.rename(place)
        for old in folders(folder):
            if old != place:
                shutil.rmtree(old)
    ranks.barrier()


def read(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Fill tensors, this rank's parts, from the last folder; gives the facts.

    Raises ReluctantError if it is of another model.
    """
    from torch.distributed.checkpoint.state_dict_loader import load  # noqa: PLC0415

    place = folders(folder)[-1]
    try:
        load(tensors, checkpoint_id=str(place))
        return dict(json.loads((place / _FACTS).read_text(encoding="utf-8")))
    except Exception as error:  # of many kinds, CheckpointException among them
        raise ReluctantError(f"expected {place} to be of a run like this one: {error}") from error

"""What a model makes of padding, tried out before anything counts.

A short sequence is read alone, and padded beside a longer one. If its tokens then come to any layer
as something else, or it is not known which rows they are, the model has to read sequences one by
one.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.lab.inspect.answer import ROUNDING
from reluctant.lab.inspect.reading import Call, Reading
from reluctant.lab.inspect.subject import Batch, Item

Inputs = dict[str, list[Tensor]]  # of each layer, by its name: x of its tokens, call by call


def padding_counts_nowhere(reading: Reading, item: Item) -> bool:
    """Whether sequences may be padded; `reading` learns how the layers are called.

    False, too, if a layer is not called: who knows what would come to it.
    """
    whole, short = both = item_and_half(item)
    try:
        alone = [_alone(reading, each) for each in both]
        if not reading.subject.batched or reading.places.ends or not all(alone):
            return False
        items = [whole, short]
        while _square(reading.batch(items)):  # of the other shapes one sees which way they are
            items.append(whole)
        together = _inputs(reading, reading.batch(items))
    except ReluctantError:  # it is told of where the text itself is read
        return False
    order = [alone[0], alone[1], *[alone[0]] * (len(items) - 2)]
    apart = {name: list(map(torch.cat, zip(*(each[name] for each in order), strict=True)))
             for name in together}  # fmt: skip
    return bool(together) and _alike(apart, together)


def item_and_half(item: Item) -> tuple[Item, Item]:
    """A sequence, and the first half of it, an odd number of tokens."""
    source, target = (ids if len(ids) > 1 else ids * 2 for ids in item.sides)
    return Item(source, target), Item(_half(source), _half(target))


def _half(ids: list[int]) -> list[int]:
    return ids[: len(ids) // 4 * 2 + 1]


def _alone(reading: Reading, item: Item) -> Inputs:
    """Of one sequence, alone. Learns on the way whether the model pads it itself, at its end."""
    least = dict[str, int]()
    found = _inputs(reading, reading.batch([item]), least)
    if not least or reading.places.ends:
        return found
    padded = _inputs(reading, reading.batch([item], **least))  # here, so that it need not
    reading.places.ends = True
    found = _inputs(reading, reading.batch([item]))
    reading.places.ends = bool(padded) and bool(found) and _alike(padded, found)
    return found if reading.places.ends else {}


def _inputs(reading: Reading, batch: Batch, least: dict[str, int] | None = None) -> Inputs:
    """What comes to the layers; nothing if one of them is not called, or it is not known with what.

    least: becomes the lengths that layers have got, of stacks where they were longer.
    """
    found: Inputs = {watch.name: [] for watch in reading.layers.watches}
    astray = list[str]()

    def tell(call: Call) -> None:
        name = call.watch.name
        found[name].append(call.own.x)
        if call.placed is None:
            astray.append(name)
        stack = reading.subject.stack_of(name)
        if least is not None and len(call.shape) == 2 and call.shape[1] > batch.ids[stack].shape[1]:
            least[stack] = call.shape[1]

    reading.read(batch, tell)
    return found if not astray and all(found.values()) else {}


def _square(batch: Batch) -> bool:
    return any(len(ids) == ids.shape[1] for ids in batch.ids.values())


def _alike(one: Mapping[str, Sequence[Tensor]], other: Mapping[str, Sequence[Tensor]]) -> bool:
    """Whether each token's x is the same but for rounding; where it is not finite, in both."""
    for name, calls in one.items():
        if len(calls) != len(other[name]):
            return False
        for x, again in zip(calls, other[name], strict=True):
            there = x.isfinite().all(1)
            x_there, again_there = x[there].double(), again[there].double()
            apart = (x_there - again_there).norm(dim=1)
            if not bool((apart <= ROUNDING.get(x.dtype, 1e-4) * x_there.norm(dim=1)).all()):
                return False
    return True

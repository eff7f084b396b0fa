"""What has to hold if the figures are to mean something, and which layers have figures at all."""

from collections.abc import Collection, Sequence

import torch
from torch import nn

from reluctant.lab.inspect.answer import same
from reluctant.lab.inspect.record import Check
from reluctant.lab.inspect.sentences import LONGEST, Look
from reluctant.lab.inspect.stream import Stream
from reluctant.lab.inspect.subject import Item
from reluctant.lab.inspect.trial import item_and_half


def why_unseen(stream: Stream, layer: str) -> str:
    """Why there is nothing to tell of a watched layer, "" if there is."""
    instrument = stream.instruments[layer]
    watch = instrument.watch
    if layer in stream.longer:
        return (
            "more rows of a sequence come to it than there are tokens, as where a model pads "
            "inside: it is not known which of them are tokens"
        )
    if instrument.tokens:
        return ""
    if watch.missed:
        return f"its own code ran in all {watch.missed} calls: {watch.why}"
    return "no token of the text came to it"


def checks_of(
    looks: Sequence[Look], stream: Stream, plain: nn.Module, told: Collection[str]
) -> list[Check]:
    """plain: a copy of the model that nobody watches. told: the layers that have figures."""
    return [_outputs(looks, stream, plain), _layers(stream), _calls(stream, told)]


def _outputs(looks: Sequence[Look], stream: Stream, plain: nn.Module) -> Check:
    """Whether the watched model says what `plain` says: to the sentences, and to a padded batch."""
    compared = [look.compared(plain) for look in looks]
    what = f"{len(looks)} sentence{'s' * (len(looks) != 1)}"
    if not stream.alone:
        compared.append(_batch(stream, plain))
        what += " and a padded batch"
    apart = max(off for _, off in compared)
    says = (
        f"the outputs for {what} are at most {apart:.1e} from the untouched model's while the "
        "layers are watched"
    )
    return Check("watching changes nothing", all(holds for holds, _ in compared), says)


@torch.no_grad()
def _batch(stream: Stream, plain: nn.Module) -> tuple[bool, float]:
    """Of a sequence of the text and the first half of it, side by side."""
    item = max(stream.kept, key=lambda item: len(item.source))
    cut = Item(item.source[:LONGEST], item.target[:LONGEST])
    batch = stream.reading.batch(item_and_half(cut))
    mask = batch.mask[stream.subject.stacks[-1]]
    outputs = [stream.subject.output(model, batch) for model in (plain, stream.reading.model)]
    there = [each[mask] if each.shape[:2] == mask.shape else each for each in outputs]
    return same(there[0], there[1])


def _layers(stream: Stream) -> Check:
    layers = stream.reading.layers
    lost = layers.lost()
    says = f"{len(lost)} of {len(layers.watches)} layers were put back: {', '.join(lost)}"
    if not lost:
        says = f"all {len(layers.watches)} layers computed what the model's own code computes"
    return Check("layers", not lost, says)


def _calls(stream: Stream, told: Collection[str]) -> Check:
    """Whether every call of these layers was seen, and padding kept out of it."""
    says = list[str]()
    for watch in stream.reading.layers.watches:
        if watch.name in told and watch.missed:
            says.append(f"{watch.missed} calls of {watch.name} were not seen: {watch.why}")
        if watch.name in told and watch.name in stream.astray:
            says.append(f"among the tokens of {watch.name} there may be padding")
    return Check("calls", not says, "; ".join(says) or "no call of a layer went unseen")

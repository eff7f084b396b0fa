"""All sentences decoded by several accentors, in turns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from torch import Tensor, nn

from reluctant.demo.accentor import Accentor, clear_cache


@dataclass
class Decoded:
    """What one accentor made of all sentences.

    Attributes:
        texts: one a sentence, with stress marks.
        seconds: wall-clock time of all batches, warm-up not counted.
        logits: for each batch and each of its steps (sentences of the batch, vocabulary).
    """

    texts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    logits: list[list[Tensor]] = field(default_factory=list)


def decode(
    accentors: Mapping[str, Accentor],
    batches: Sequence[list[str]],
    on_batch: Callable[[], object] = lambda: None,
) -> dict[str, Decoded]:
    """Put stress marks on every sentence with every accentor.

    Each batch is decoded by all of them before the next one begins, and who goes first rotates:
    whatever else the machine does meets them alike. Compilation belongs before this call.
    """
    names = list(accentors)
    decoded = {name: Decoded() for name in names}
    for number, batch in enumerate(batches):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            _decode_batch(accentors[name], batch, decoded[name])
        on_batch()
    return decoded


def _decode_batch(accentor: Accentor, batch: list[str], into: Decoded) -> None:
    clear_cache(accentor)
    steps: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> None:
        steps.append(logits)  # a fresh tensor each step: about a microsecond, alike for all

    hook = accentor.model.output_proj.register_forward_hook(keep)
    try:
        start = perf_counter()
        texts = accentor(batch, batch_size=len(batch))
        into.seconds += perf_counter() - start
    finally:
        hook.remove()
    into.texts += texts
    into.logits.append(steps)

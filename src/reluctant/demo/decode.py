"""All sentences decoded by several accentors, in turns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from reluctant.demo.accentor import Accentor, clear_cache


@dataclass
class Decoded:
    """What one accentor made of all sentences.

    Attributes:
        texts: one a sentence, with stress marks.
        seconds: wall-clock time of all batches.
    """

    texts: list[str] = field(default_factory=list)
    seconds: float = 0.0


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
            accentor, into = accentors[name], decoded[name]
            clear_cache(accentor)
            start = perf_counter()
            texts = accentor(batch, batch_size=len(batch))
            into.seconds += perf_counter() - start
            into.texts += texts
        on_batch()
    return decoded

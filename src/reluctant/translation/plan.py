"""What a run would be: its sizes, and how long it would take, from a few steps of it."""

import resource
import sys
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

from reluctant.errors import ReluctantError
from reluctant.translation.data import Data, encoded, learned_vocabulary
from reluctant.translation.learner import Learner, parameters
from reluctant.translation.ranks import Ranks
from reluctant.translation.settings import Settings

TRIED = 6  # steps; the first ones compile


@dataclass(frozen=True)
class Plan:
    """parameters, and those of feed-forward layers; vocabulary: subwords; tokens: the target's, of
    an epoch; seconds: of one step, of a fresh model: as its neurons fall silent, steps get faster.
    """

    parameters: int
    feed_forward: int
    vocabulary: int
    tokens: int
    steps: int
    steps_per_epoch: float
    seconds: float
    peak_bytes: int

    @property
    def epochs(self) -> float:
        """How often each sentence is seen."""
        return self.steps / self.steps_per_epoch

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and AdamW's two means, in float32."""
        return 16 * self.parameters

    @property
    def checkpoint_bytes(self) -> int:
        """Weights and the two means."""
        return 12 * self.parameters

    @property
    def total_seconds(self) -> float:
        """Of all steps, validations not counted."""
        return self.steps * self.seconds


def plan(data: Data, settings: Settings) -> Plan:
    """Try a few steps; nothing is written."""
    vocabulary = learned_vocabulary(data, settings)
    kept, batches = encoded(data.train, vocabulary, settings)
    if not kept:
        raise ReluctantError(
            f"expected sentences of fewer than batch_tokens={settings.batch_tokens} tokens, got "
            "none"
        )
    learner = Learner(replace(settings, warm_up=10_000), len(vocabulary), Ranks())
    epoch, seconds = batches.epoch(0), []
    for step in range(TRIED):
        began = perf_counter()
        picked = [epoch[(step + i) % len(epoch)] for i in range(settings.accumulate)]
        learner.step(step + 1, [batches.collate(indices) for indices in picked])
        seconds.append(perf_counter() - began)
    unit = 1 if sys.platform == "darwin" else 1024
    return Plan(
        parameters=parameters(learner.config),
        feed_forward=sum(
            p.numel() for name, p in learner.parameters.items() if ".feed_forward." in name
        ),
        vocabulary=len(vocabulary),
        tokens=batches.target_tokens,
        steps=settings.steps,
        steps_per_epoch=len(epoch) / settings.accumulate,
        seconds=median(seconds[TRIED // 2 :]),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    )

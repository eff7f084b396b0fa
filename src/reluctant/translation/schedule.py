"""How the learning rate goes."""

import math

from reluctant.translation.settings import Settings


def rate(settings: Settings, step: int) -> float:
    """The learning rate of a step, from 1 on: it grows evenly over the warm-up, then falls.

    "inverse-sqrt" as in Vaswani et al. 2017, section 5.3; "cosine" to 0 at the last step
    (Loshchilov and Hutter 2017, without restarts); "constant" not at all.

    >>> half = Settings(lr=1.0, warm_up=10, steps=30, schedule="cosine")
    >>> rate(half, 5), rate(half, 10), round(rate(half, 20), 6), rate(half, 30)
    (0.5, 1.0, 0.5, 0.0)
    >>> rate(Settings(lr=1.0, warm_up=10, schedule="inverse-sqrt"), 40)
    0.5
    """
    if step < settings.warm_up:
        return settings.lr * step / settings.warm_up
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "inverse-sqrt":
        return settings.lr * math.sqrt(max(settings.warm_up, 1) / step)
    done = (step - settings.warm_up) / max(settings.steps - settings.warm_up, 1)
    return settings.lr * (1 + math.cos(math.pi * min(done, 1.0))) / 2

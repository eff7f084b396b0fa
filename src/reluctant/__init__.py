"""The Transformer's feed-forward layer: exact, and on CPUs several times faster where it is sparse.

>>> import torch, reluctant
>>> model = torch.nn.TransformerEncoderLayer(64, 4, 256, batch_first=True).eval()
>>> report = reluctant.optimize(model)
>>> len(report.swapped)
1
>>> with torch.no_grad():
...     y = model(torch.randn(1, 10, 64))
>>> reluctant.restore(model)
1

What stands here is imported when it is asked for: `import reluctant` loads neither torch nor
Numba, and `FeedForward` and `reluctant.transformer` work where there is no Numba.
"""

from typing import TYPE_CHECKING

from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.missing import numba_for

if TYPE_CHECKING:
    from reluctant.activations import Activation, thresholded_relu
    from reluctant.activations import names as activation_names
    from reluctant.activations import register as register_activation
    from reluctant.activity import ActivityPenalty, activity_penalty, density
    from reluctant.feedforward import FeedForward
    from reluctant.generation.decoding import decoding, generate
    from reluctant.surgery.optimize import optimize, refresh, restore
    from reluctant.surgery.report import Entry, Report

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "ActivityPenalty",
    "Entry",
    "FeedForward",
    "ReluctantError",
    "ReluctantWarning",
    "Report",
    "activation_names",
    "activity_penalty",
    "decoding",
    "density",
    "generate",
    "optimize",
    "refresh",
    "register_activation",
    "restore",
    "thresholded_relu",
]

if not TYPE_CHECKING:  # a type checker would take any name for one that there is
    # Public name -> the module it stands in, and what it is called there; None: the module itself.
    _FROM = {
        "Activation": ("activations", "Activation"),
        "activation_names": ("activations", "names"),
        "register_activation": ("activations", "register"),
        "thresholded_relu": ("activations", "thresholded_relu"),
        "ActivityPenalty": ("activity", "ActivityPenalty"),
        "activity_penalty": ("activity", "activity_penalty"),
        "density": ("activity", "density"),
        "FeedForward": ("feedforward", "FeedForward"),
        "Entry": ("surgery", "Entry"),
        "Report": ("surgery", "Report"),
        "decoding": ("generation.decoding", "decoding"),
        "generate": ("generation.decoding", "generate"),
        "optimize": ("surgery", "optimize"),
        "refresh": ("surgery", "refresh"),
        "restore": ("surgery", "restore"),
        "activations": ("activations", None),
        "feedforward": ("feedforward", None),
        "surgery": ("surgery", None),
        "transformer": ("transformer", None),
    }

    def __getattr__(name):
        if name not in _FROM:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415

        module, inside = _FROM[name]
        with numba_for(f"reluctant.{name}"):
            found = import_module(f"{__name__}.{module}")
        if inside is not None:
            found = getattr(found, inside)
        globals()[name] = found
        return found

    def __dir__():
        return sorted({*globals(), *_FROM})

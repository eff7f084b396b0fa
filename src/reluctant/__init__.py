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

Each name is imported when it is first asked for: torch takes seconds, and only engines need Numba.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.missing import numba_for

if TYPE_CHECKING:
    from reluctant.activations import Activation, thresholded_relu
    from reluctant.activations import names as activation_names
    from reluctant.activations import register as register_activation
    from reluctant.feedforward import FeedForward
    from reluctant.surgery.optimize import optimize, refresh, restore
    from reluctant.surgery.report import Entry, Report

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Entry",
    "FeedForward",
    "ReluctantError",
    "ReluctantWarning",
    "Report",
    "activation_names",
    "optimize",
    "refresh",
    "register_activation",
    "restore",
    "thresholded_relu",
]

# Where each name stands, and as what.
_PLACES = {
    "Activation": ("activations", "Activation"),
    "Entry": ("surgery", "Entry"),
    "FeedForward": ("feedforward", "FeedForward"),
    "Report": ("surgery", "Report"),
    "activation_names": ("activations", "names"),
    "optimize": ("surgery", "optimize"),
    "refresh": ("surgery", "refresh"),
    "register_activation": ("activations", "register"),
    "restore": ("surgery", "restore"),
    "thresholded_relu": ("activations", "thresholded_relu"),
}
_MODULES = ("activations", "feedforward", "surgery", "transformer")


def __getattr__(name: str) -> Any:
    """Import a name that is asked for the first time; then it is an ordinary one.

    Raises ReluctantError if it needs Numba, which is missing or does not fit.
    """
    if name not in _PLACES and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, inside = _PLACES.get(name, (name, ""))
    with numba_for(f"reluctant.{name}"):
        found = import_module(f"{__name__}.{module}")
    value = getattr(found, inside) if inside else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})

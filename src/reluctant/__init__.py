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
"""

from reluctant.activations import Activation, thresholded_relu
from reluctant.activations import names as activation_names
from reluctant.activations import register as register_activation
from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.feedforward import FeedForward
from reluctant.surgery import Entry, Report, optimize, refresh, restore

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

"""A process that takes training steps and says how much memory they took:
`python -m reluctant.bench.train.worker KIND TOKENS SHAPE DTYPE DENSITY CONTENDER THREADS`.

Ends at once when its input does: whoever started it is gone.
"""

import ctypes
import gc
import json
import os
import sys
import threading

import torch

from reluctant.bench.grid import Shape
from reluctant.bench.train import memory, peers
from reluctant.bench.train.model import Batch, build, draw_batch, forget, set_density

STEPS = 2
_MMAP_THRESHOLD, _INITIAL = -3, 2**17  # of mallopt; once it is set, glibc leaves it as it is
FEW = 256  # tokens of the step before: libraries load their code, and a served layer is checked
# beside the original in its first call


def main(arguments: list[str]) -> None:
    """Take the steps; writes "ready" when it begins, and {"before": bytes, "peak": bytes}."""
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    _return_at_once()
    kind, tokens, shape, dtype, density, name, threads = arguments
    torch.set_num_threads(int(threads))
    generator = torch.Generator().manual_seed(0)
    model = build(kind, Shape.parse(shape), getattr(torch, dtype), generator)
    set_density(model, float(density))
    batch = draw_batch(model, int(tokens), generator)
    if name == "ours":
        contender = peers.ours(model)
    else:
        builder = {"eager": peers.eager, **peers.BUILDERS}[name]
        contender = peers.Contender(name, model, builder(model, batch))
    del model
    few = Batch(batch.x.detach()[:FEW].clone().requires_grad_(), batch.dy[:FEW], 0.0)
    contender.step(few)
    forget(contender.model, few.x)
    del few
    gc.collect()
    memory.forget_peak()
    before = memory.bytes_now("VmRSS")
    print("ready", flush=True)
    for _ in range(STEPS):
        contender.step(batch)
    print(json.dumps({"before": before, "peak": memory.bytes_now("VmHWM")}), flush=True)


def _return_at_once() -> None:
    """Let glibc give freed memory back at once, as it does before it has freed a large tensor.

    After that it keeps up to 64 MB for later, in pieces that other tensors may not fit into: a step
    with checkpoints then had a peak of four times what was in use.
    """
    options = getattr(ctypes.CDLL(None), "mallopt", None)
    if options is not None:
        options(_MMAP_THRESHOLD, _INITIAL)


if __name__ == "__main__":
    main(sys.argv[1:])

"""One of several processes that compute at once: `python -m reluctant.bench.worker`.

Reads lines "engine|eager tokens seconds", computes for so long, answers with layer calls a second.
Ends at once when its input does: whoever started it is gone.
"""

import os
import queue
import sys
import threading
import time

import torch

from reluctant.bench.crowded import D_MODEL, LAYERS, TOKENS, layers, served


def main() -> None:
    """Serve until the input ends."""
    turns: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            turns.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    models = {"eager": layers(), "engine": served(layers())}
    inputs = {n: torch.randn(1, n, D_MODEL) for n in TOKENS}
    with torch.inference_mode():
        for model in models.values():
            for x in inputs.values():
                model(x)
        print("ready", flush=True)
        while True:
            name, tokens, seconds = turns.get().split()
            x, model = inputs[int(tokens)], models[name]
            calls, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < float(seconds):
                model[calls % LAYERS](x)
                calls += 1
            print(calls / spent, flush=True)


if __name__ == "__main__":
    main()

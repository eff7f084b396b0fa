"""Whole models held against others' engines: `reluctant bench --whole`.

Each way is built, timed in turns with eager float32, and given up before the next one: a machine
need not hold them all, and what a shared one does from minute to minute hits both of a pair.
"""

import gc
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reluctant.bench import limits
from reluctant.errors import ReluctantError
from reluctant.machine import cpu_model, versions
from reluctant.timing import interleaved
from reluctant.whole.answers import beams_of
from reluctant.whole.inputs import WITH_TOKENS, sentences
from reluctant.whole.load import Loaded
from reluctant.whole.peers import EAGER, OTHERS, Peer, Work, build, torches, ways

PROMPT, NEW, ROUNDS = 32, 32, 3
OTHERS_PACKAGES = ("transformers", "ctranslate2", "openvino-genai", "llama-cpp-python")


@dataclass(frozen=True)
class Line:
    """One way of running a model.

    seconds: of the median call; eager_seconds: of eager float32 in the same turns. share: of the
    read bandwidth, if each token reads every weight once. held, added: bytes of the weights, and
    what is kept besides. equal: new tokens before the first that is not float64's.
    """

    name: str
    seconds: float
    eager_seconds: float
    tokens_per_second: float
    share: float
    held: int
    added: int
    equal: int

    @property
    def factor(self) -> float:
        """How many times as fast as eager float32."""
        return self.eager_seconds / self.seconds


@dataclass(frozen=True)
class Compared:
    """All ways of one model. tokens: compared with float64's. missing: who is left out, and why."""

    name: str
    kind: str
    dtype: str
    beams: int
    new: int
    rounds: int
    tokens: int
    weight_bytes: int
    read_share: float
    bandwidth: float
    lines: tuple[Line, ...]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Result:
    """The whole run."""

    models: tuple[Compared, ...]

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        models = [
            asdict(model)
            | {"lines": [asdict(line) | {"factor": line.factor} for line in model.lines]}
            for model in self.models
        ]
        return {
            "models": models,
            "threads": torch.get_num_threads(),
            "machine": cpu_model(),
            "versions": versions("reluctant", "torch", *OTHERS_PACKAGES),
        }


def compare(
    loaded: Loaded,
    *,
    dtype: torch.dtype = torch.float32,
    new: int = NEW,
    rounds: int = ROUNDS,
    names: Iterable[str] = tuple(OTHERS),
    on_step: Callable[[str], object] = lambda step: None,
) -> Compared:
    """Time one model every way.

    loaded: float32. dtype: what the checkpoint is stored as; 16 bits: the weights are rounded to it
    first, so that all ways have the same ones, and eager and ours are timed in it, too. new: tokens
    of a call. rounds: turns of each way; each turn continues another prompt. names: of peers.

    Raises ReluctantError if the model does not generate, or there is no such peer.
    """
    model: Any = loaded.model
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "generate") or not model.can_generate():
        raise ReluctantError(f"{loaded.name} does not generate: there is nothing to compare")
    builders = ways(dtype, names)
    if dtype is not torch.float32:
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight.to(dtype))
    with tempfile.TemporaryDirectory() as folder:
        prompts = prompts_of(loaded, rounds)
        work = Work(model, prompts, beams_of(model), new, Path(folder), loaded.tokenizer)
        on_step("float64, for its tokens")
        exact = _exact(work)
        on_step("the machine's bandwidth")
        bandwidth = limits.reading(limits.MEMORY_BYTES).measure()
        reads = work.read * work.size / bandwidth  # seconds, of a token in float32

        def line(name: str, peer: Peer, spent: Mapping[str, float], found: list[Any]) -> Line:
            speed = new / spent[name]
            share = speed * reads * peer.held / work.size
            equal = sum(alike(ids, ours) for ids, ours in zip(exact, found[-rounds:], strict=True))
            times = spent[name], spent[EAGER], speed
            return Line(name, *times, share, peer.held, peer.added(), equal)

        eager = torches.eager(work)
        lines, missing = list[Line](), dict[str, str]()
        for name, builder in builders.items():
            on_step(f"{name}: building")
            peer = build(builder, work)
            if isinstance(peer, str):
                missing[name] = peer
                continue
            on_step(f"{name}: in turns with eager")
            try:
                spent, found = _turns({EAGER: eager, name: peer}, prompts, rounds)
                if not lines:
                    lines.append(line(EAGER, eager, spent, found[EAGER]))
                lines.append(line(name, peer, spent, found[name]))
            finally:
                peer.close()
                del peer
                gc.collect()  # modules refer to each other: gigabytes would wait for their turn
    return Compared(
        name=loaded.name,
        kind=type(model).__name__,
        dtype=str(dtype).removeprefix("torch."),
        beams=work.beams,
        new=new,
        rounds=rounds,
        tokens=new * rounds,
        weight_bytes=work.size,
        read_share=work.read,
        bandwidth=bandwidth,
        lines=tuple(lines),
        missing=missing,
    )


def _turns(
    peers: Mapping[str, Peer], prompts: Sequence[Tensor], rounds: int
) -> tuple[dict[str, float], dict[str, list[list[int]]]]:
    """Median seconds by way, and what each wrote: the prompts in turn."""
    found: dict[str, list[list[int]]] = {name: [] for name in peers}

    def call(name: str) -> Callable[[int], object]:
        def write(number: int) -> None:
            found[name].append(peers[name].write(prompts[(number - 1) % len(prompts)]))

        return write

    for name in peers:  # what has to be compiled is compiled, what has to be seen is seen
        peers[name].write(prompts[0])
    spent = interleaved({n: call(n) for n in peers}, rounds=rounds, settle=None, turn=0.0)
    return spent, found


def alike(exact: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens are the same, up to the first that is not.

    >>> alike([5, 6, 7, 8], [5, 6, 9, 8])
    2
    """
    pairs = zip(exact, ids, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(exact), len(ids)))


def _exact(work: Work) -> list[list[int]]:
    """What float64 writes. The model is in float64 for that long, and then as it was."""
    work.model.double()
    try:
        return [torches.written(work.model.generate, work, prompt) for prompt in work.prompts]
    finally:
        work.model.float()


def prompts_of(loaded: Loaded, count: int) -> list[Tensor]:
    """Prompts (1, 32): cut from our sentences, or random ids for a model without a tokenizer."""
    model: Any = loaded.model
    if loaded.tokenizer is None:
        vocabulary = model.config.get_text_config().vocab_size
        draw = torch.Generator().manual_seed(2)
        return [torch.randint(4, vocabulary, (1, PROMPT), generator=draw) for _ in range(count)]
    ids: Tensor = loaded.tokenizer(" ".join(sentences()), return_tensors="pt")[WITH_TOKENS]
    begins = int(ids[0, 0]) == loaded.tokenizer.bos_token_id
    first, text = ids[:, : int(begins)], ids[:, int(begins) :]
    length = PROMPT - first.shape[1]
    text = text.repeat(1, -(-count * length // text.shape[1]))
    pieces = text[:, : count * length].chunk(count, dim=1)
    return [torch.cat([first, piece], dim=1) for piece in pieces]

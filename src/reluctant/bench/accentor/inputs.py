"""What the accentor's feed-forward layers are really given."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.bench.accentor.package import Accentor, source, teacher_forced


def record_inputs(
    accentor: Accentor, names: Sequence[str], texts: Sequence[str], answers: Sequence[str]
) -> dict[str, Tensor]:
    """What each layer's `linear1` is given when the answers are scored, sentence by sentence.

    At the positions of the text: the encoder pads every sentence to 256, which is no text.

    Args:
        accentor: untouched.
        names: of `nn.TransformerEncoderLayer`s and `nn.TransformerDecoderLayer`s in its model.
        texts: the sentences.
        answers: what is written after each of them.

    Returns:
        For each name, (positions, 256).
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name in names}

    def keeper(name: str) -> Any:
        def keep(module: nn.Module, args: tuple[Tensor]) -> None:
            inputs[name].append(args[0].detach().flatten(0, -2))

        return keep

    layers = {name: accentor.model.get_submodule(name) for name in names}
    hooks = [m.linear1.register_forward_pre_hook(keeper(name)) for name, m in layers.items()]
    try:
        with torch.no_grad(), _slow_path():
            for text, answer in zip(texts, answers, strict=True):
                teacher_forced(accentor, text, answer)
    finally:
        for hook in hooks:
            hook.remove()
    sources = torch.cat([source(accentor, text)[0] for text in texts])
    text_only = sources != accentor.vocab["<pad>"]
    found = {name: torch.cat(rows) for name, rows in inputs.items()}
    return {n: rows[text_only] if ".encoder." in n else rows for n, rows in found.items()}


@contextmanager
def _slow_path() -> Iterator[None]:
    """Without the fused encoder layer, which never calls `linear1`."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

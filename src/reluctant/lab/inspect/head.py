"""The output projection of a model of transformers, and what stands before it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.errors import ReluctantError
from reluctant.lab.inspect.subject import Batch, Item, Subject
from reluctant.surgery.optimize import restore
from reluctant.whole.twin import twin

APART = (
    "maps of the output projection's own stand between it and the layers, as in masked language "
    "models"
)
_ALIKE = 0.99  # cosine
_ASKS = {"input": "get_input_embeddings", "output": "get_output_embeddings"}


def weight_of(model: nn.Module) -> Tensor | None:
    """Of the output projection, (vocabulary, d_model); None if the model has none."""
    weight = getattr(embeddings(model, "output"), "weight", None)
    return weight.detach() if isinstance(weight, Tensor) and weight.dim() == 2 else None


@torch.no_grad()
def why_apart(subject: Subject) -> str | None:
    """Why the layers' values do not say tokens, though there is an output projection; else None.

    The projection has to read what the body of the model gives, or a multiple of it. That is seen
    in a forward of a copy; where it cannot be seen, nothing is known to stand between.
    """
    model = twin(subject.model)
    restore(model)
    projection, given, read = embeddings(model, "output"), list[Tensor](), list[Tensor]()
    if projection is None:
        return None
    for body in _bodies(model):
        body.register_forward_hook(lambda _, args, result: given.append(last_of(result)))
    projection.register_forward_pre_hook(lambda _, args: read.extend(args[:1]))
    source = [*subject.encode("a"), [0]][0]
    target = subject.given("") if len(subject.stacks) > 1 else []
    try:
        subject.complete(model, Batch([Item(source, target)], subject.stacks, subject.pad))
    except Exception:  # it is told of where the model runs on the text
        return None
    if not given or not read:
        return None
    gave, reads = (each[-1].double().flatten(0, -2)[-1] for each in (given, read))
    apart = gave.shape != reads.shape or torch.cosine_similarity(gave, reads, dim=0) < _ALIKE
    return APART if apart else None


def last_of(result: Any) -> Tensor:
    """The last hidden state of what a model returns, or the first tensor in it."""
    if isinstance(result, Mapping):
        if result.get("last_hidden_state") is not None:
            return result["last_hidden_state"]  # type: ignore[no-any-return]
        result = list(result.values())
    while not isinstance(result, Tensor):
        if not isinstance(result, tuple | list) or not result:
            raise ReluctantError(f"expected a model that returns tensors, got {type(result)}")
        result = result[0]
    return result


def embeddings(model: nn.Module, side: str) -> nn.Module | None:
    """What a model says it has at its "input" or its "output"; None: it does not say."""
    ask = getattr(model, _ASKS[side], None)
    try:
        found = ask() if callable(ask) else None
    except Exception:  # models that have none may raise anything
        return None
    return found if isinstance(found, nn.Module) else None


def _bodies(model: nn.Module) -> list[nn.Module]:
    """What heads are put on, also where one model is a part of another."""
    found = [(module, getattr(module, "base_model", None)) for module in model.modules()]
    return [body for module, body in found if isinstance(body, nn.Module) and body is not module]

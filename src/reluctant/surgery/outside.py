"""What of a model is computed by torch although other parts are served."""

from collections import Counter

from torch import nn

from reluctant.surgery.swap import map_seat_of, parts_of_layers


def outside(model: nn.Module) -> tuple[str, ...]:
    """The kinds of modules with weights of their own that are not served, and how many of each.

    Embeddings are left out: they copy rows. What stands between modules, such as attention's
    products, has no module to be named.

    >>> outside(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4)))
    ('LayerNorm (2)', 'Linear (1)')
    """
    inside = parts_of_layers(model)
    kinds = Counter(
        type(module).__name__
        for module in model.modules()
        if any(weight is not None for weight in module._parameters.values())
        and id(module) not in inside
        and map_seat_of(module) is None
        and not isinstance(module, nn.Embedding)
    )
    return tuple(f"{kind} ({count})" for kind, count in kinds.items())

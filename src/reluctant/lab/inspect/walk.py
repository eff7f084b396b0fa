"""One token on its way up through a layer and down again, with its real numbers."""

from collections.abc import Collection, Sequence

from reluctant.lab.inspect.of_sentence import Walk, WalkNeuron
from reluctant.lab.inspect.sentences import Look, norms
from reluctant.lab.watch import Watch

MOST = 64  # neurons that are told of


def walk(looks: Sequence[Look], told: Collection[str]) -> Walk | None:
    """Of the first sentence the token in its middle, in the first layer that has exact zeros, or in
    the first one if none has. None where no layer is called token by token.

    told: the names of the layers that may be taken.
    """
    if not looks:
        return None
    look = looks[0]
    there = [watch for watch in look.layers.watches if watch.name in told and look.first(watch)]
    there.sort(key=lambda watch: not watch.exact_zeros)  # stable
    return _through(look, there[0]) if there else None


def _through(look: Look, watch: Watch) -> Walk:
    seen = look.first(watch)
    assert seen is not None
    ids = look.tokens(look.subject.stack_of(watch.name))
    at = len(ids) // 2
    x, z, h, y = (each[at].double() for each in seen)
    lengths, active = norms(watch, seen)[at], watch.active(seen)[at]
    total = float(lengths.square().sum())
    order = lengths.masked_fill(~active, -1.0).sort(descending=True, stable=True).indices[:MOST]
    neurons = [
        WalkNeuron(
            index,
            z=float(z[index]),
            h=float(h[index]),
            norm=float(lengths[index]),
            share=float(lengths[index]) ** 2 / total if total else 0.0,
        )
        for index in order.tolist()
        if active[index]
    ]
    residual = look.residuals.get(watch.name)
    row = None if residual is None else residual[at].double()
    return Walk(
        sentence=0,
        layer=watch.name,
        position=at,
        token=look.subject.words.piece(ids[at]),
        x=x.tolist(),
        z_active=watch.engine.activation.zero_below,
        neurons=neurons,
        active=int(active.sum()),
        y=y.tolist(),
        residual=None if row is None else row.tolist(),
        out=None if row is None else (row + y).tolist(),
        x_norm=float(x.norm()),
        y_norm=float(y.norm()),
    )

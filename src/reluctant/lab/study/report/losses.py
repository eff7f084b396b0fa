"""The losses of trained models beside the base model's: in sentences, and as a table."""

from collections.abc import Sequence
from typing import Any

from reluctant.lab.study.catalogue import BASE
from reluctant.lab.study.report.figures import Results, less
from reluctant.lab.study.report.say import (
    NAMES,
    Two,
    cell,
    compared,
    listing,
    stated,
    table,
    two,
)

LEAD = two("Loss in nats a token", "损失（每词元纳特）")


def said(results: Results, names: Sequence[str]) -> list[Two | None]:
    """All of them in one sentence, and each against the base model in one of its own."""
    losses = {name: results.loss(name) for name in names}
    return [
        listing(LEAD, [stated(NAMES[name], loss) for name, loss in losses.items()]),
        *against_base(results, names),
    ]


def against_base(results: Results, names: Sequence[str]) -> list[Two | None]:
    """A sentence for each but the base model."""
    base = results.loss(BASE)
    return [
        compared(NAMES[name], results.loss(name), NAMES[BASE], base)
        for name in names
        if name != BASE
    ]


def loss_table(results: Results, title: Two, names: Sequence[str]) -> dict[str, Any]:
    """Parameters, loss, and by how much it is above the base model's; of those that are there."""
    base, rows = results.loss(BASE), []
    for name in names:
        loss, first = results.loss(name), results.any(name)
        if loss is not None and first is not None:
            more = less(loss, base) if name != BASE else None
            rows.append([NAMES[name], first["parameters"], cell(loss), cell(more)])
    columns = [
        two("model", "模型"),
        two("parameters", "参数量"),
        two("loss", "损失"),
        two("more than ReLU", "比 ReLU 多"),
    ]
    return table(title, columns, rows)

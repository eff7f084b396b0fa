"""Sends batches through a watched model, and says of each call of a layer which tokens it had."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from reluctant.errors import ReluctantError
from reluctant.lab.inspect.subject import Batch, Item, Subject
from reluctant.lab.placed import Placed
from reluctant.lab.places import Places, Shape
from reluctant.lab.residual import Residual, Residuals
from reluctant.lab.watch import Seen, Watch, Watched
from reluctant.whole.load import one_line


class Call(NamedTuple):
    """One call of a layer. shape: of its x, without d_model. batch: the tokens that its stack
    reads. placed: in which rows they are; None: not known. residual: what its result was added to.
    """

    watch: Watch
    seen: Seen
    shape: Shape
    batch: Placed
    placed: Placed | None
    residual: Residual

    @property
    def own(self) -> Seen:
        """Its tokens alone, in order; the whole call where they are not known."""
        rows = None if self.placed is None else self.placed.rows
        return self.seen if rows is None else Seen(*(each[rows] for each in self.seen))


class Reading:
    """A watched model that reads batches. model: a copy of the subject's, whose layers they are."""

    def __init__(
        self, subject: Subject, model: nn.Module, layers: Watched, residuals: Residuals
    ) -> None:
        self.subject, self.model, self.layers = subject, model, layers
        self.places, self._residuals = Places(), residuals

    def read(self, batch: Batch, tell: Callable[[Call], object]) -> None:
        """Tell of each call, once it is known what the model does with its result.

        Raises ReluctantError if the model does not run.
        """
        placed, residuals, ours = batch.placed(), self._residuals, list[Exception]()

        def see(watch: Watch, seen: Seen) -> None:
            shape, there = watch.shape, placed[self.subject.stack_of(watch.name)]

            def found(residual: Residual) -> None:
                own = self.places.find(watch.name, there, shape, residual.shape)
                try:
                    tell(Call(watch, seen, shape, there, own, residual))
                except Exception as error:
                    ours.append(error)  # inside the model's forward, and yet no failure of it
                    raise

            residuals.called(seen.x, seen.y, found)

        self.layers.show(see)
        try:
            with torch.no_grad():
                self.subject.forward(self.model, batch)
                residuals.end()
        except Exception as error:
            if error in ours:
                raise
            raise failure(self.subject, error) from error
        finally:
            self.layers.show(None)
            residuals.forget()

    def batch(self, items: Sequence[Item], **least: int) -> Batch:
        """Items side by side. least: lengths, by stack."""
        return Batch(items, self.subject.stacks, self.subject.pad, least)


def failure(subject: Subject, error: Any) -> ReluctantError:
    """What a model raised, in one line."""
    if isinstance(error, ReluctantError):
        return error
    return ReluctantError(f"{subject.name} does not run on this text: {one_line(error)}")

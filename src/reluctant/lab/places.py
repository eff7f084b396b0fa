"""Which rows of a layer's call are which tokens, in whatever shape a model calls its layers."""

from reluctant.lab.placed import Placed

Shape = tuple[int, ...]


class Places:
    """Finds it by shapes, and where they do not say, by what a norm reads afterwards.

    Of an x (sequences, length, d_model) the rows stand as in the batch, of (length, sequences,
    d_model) the other way round. Where the two are equal, an earlier call of the layer tells which.
    Rows of any other shape may be an expert's, in any order: they are the batch's tokens only if a
    norm that reads one of those two shapes finds each result added to its own residual.

    ends: whether it was shown that a model that pads its one sequence itself pads its end.

    >>> import torch
    >>> batch = Placed(torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[True] * 3] * 2))
    >>> found = [Places().find("layer", batch, shape) for shape in ((2, 3), (3, 2), (6,))]
    >>> [None if each is None else each.rows.tolist() for each in found]
    [[0, 1, 2, 3, 4, 5], [0, 2, 4, 1, 3, 5], None]
    """

    def __init__(self) -> None:
        self.ends = False
        self._turned: dict[str, bool] = {}

    def find(
        self, layer: str, batch: Placed, shape: Shape, total: Shape | None = None
    ) -> Placed | None:
        """The tokens in a call's rows; None: not known which they are.

        shape: of the call's x, total: of what the norm read that its result was found in, both
        without d_model.
        """
        if len(shape) != 2:
            shape = total or ()
        sequences, length = batch.shape
        if shape not in ((sequences, length), (length, sequences)):
            longer = len(shape) == 2 and shape[0] == sequences == 1 and shape[1] > length
            return batch if longer and self.ends else None
        if sequences == 1:
            return batch  # its rows are the same ones, turned or not
        if sequences != length:
            self._turned[layer] = shape != (sequences, length)
        turned = self._turned.get(layer)
        return None if turned is None else batch.turned() if turned else batch

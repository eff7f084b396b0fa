"""Tensors between a layer's two products that are not computed unless somebody asks for them.

What `fc1` and the activation return inside a larger forward is a `Deferred`: a tensor with a shape
and a dtype and no memory. If it reaches `fc2` as it is, the engine computes the whole layer. If
anything else uses it before, or keeps it, whatever decides that (an argument, a flag, the data),
then the original parts compute what it stands for, there and then, and the call goes on with that.
So a forward may do what it likes: nothing has to be known of it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from reluctant.errors import ReluctantError

# Answered by a tensor without memory; none of these depends on its values.
_METADATA = {
    *(Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.device.__get__, Tensor.ndim.__get__),  # type: ignore[attr-defined]
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.element_size),
    *(Tensor.is_cuda.__get__, Tensor.layout.__get__, Tensor.is_complex, Tensor.__len__),  # type: ignore[attr-defined]
}
# Return the tensor that they get where there is nothing to do; tried on the one without memory.
_HANDS_ON = {
    *(Tensor.to, Tensor.type_as, Tensor.contiguous),
    *(Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16),
}
_plain = torch._C.DisableTorchFunctionSubclass


class Deferred(Tensor):
    """What `compute` would return, in the modes of autograd in which it was made.

    touched: called with the name of the function that first made it compute. Once computed, it is
    in all ways the tensor that it stands for.
    """

    @staticmethod
    def make(
        x: Tensor, width: int, compute: Callable[[], Tensor], touched: Callable[[str], None]
    ) -> "Deferred":
        """In the place of a tensor like x whose last dimension is `width`."""
        shape = (*x.shape[:-1], width)
        made: Deferred = Tensor._make_wrapper_subclass(
            Deferred, shape, dtype=x.dtype, device=x.device
        )
        held = made.__dict__
        held["compute"], held["touched"], held["real"] = compute, touched, None
        held["modes"] = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        return made

    @property
    def computed(self) -> bool:
        return self.__dict__["real"] is not None

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if type(first) is Deferred and not first.computed:
            if func in _METADATA:
                with _plain():
                    return func(*args, **kwargs)
            if _hands_on(func, first, args, kwargs):
                return first
            dropped = _dropped(func, first, args, kwargs)
            if dropped is not None:
                return dropped
        name = getattr(func, "__name__", str(func))
        args, kwargs = tree_map_only(Deferred, lambda t: resolve(t, name), (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """For code in C++, which asks no `__torch_function__`; autograd has been by then."""
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if type(leaf) is Deferred]
        if any("trying" in leaf.__dict__ for leaf in leaves):
            raise _Dispatched
        if any(resolve(leaf, str(func)).requires_grad for leaf in leaves):
            raise NotImplementedError(f"{func} was called from C++, past autograd")
        args, kwargs = tree_map_only(Deferred, resolve, (args, kwargs or {}))
        return func(*args, **kwargs)


def resolve(tensor: Any, why: str = "") -> Any:
    """The tensor that a `Deferred` stands for; all else as it is."""
    if type(tensor) is not Deferred:
        return tensor
    held = tensor.__dict__
    if held["real"] is None:
        if "drawn" in held:
            raise ReluctantError(
                "what a dropout returned went through a served feed-forward layer, which drew a "
                f"mask for its active neurons alone, and was asked for afterwards ({why}): call "
                "reluctant.restore on this layer"
            )
        held["touched"](why)
        gradients, inference = held["modes"]
        off = torch.autocast("cpu", enabled=False)
        # inference_mode(False) switches gradients on
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients), off:
            held["real"] = held["compute"]()
        held["compute"] = None
    return held["real"]


class _Dispatched(Exception):  # noqa: N818 - not an error
    """There is something to do."""


def _hands_on(func: Any, first: Deferred, args: Any, kwargs: Any) -> bool:
    """Whether func returns the very tensor that it gets, as dropouts that do not act do."""
    if func is F.dropout or func is F.alpha_dropout:
        p, training, _ = _dropout(*args[1:], **kwargs)
        return not training or p == 0
    if func in _HANDS_ON:
        first.__dict__["trying"] = True
        try:
            with _plain():
                return func(*args, **kwargs) is first
        except _Dispatched:
            return False
        finally:
            del first.__dict__["trying"]
    return False


def _dropped(func: Any, first: Deferred, args: Any, kwargs: Any) -> Deferred | None:
    """What a dropout makes of what the activation returns: another tensor that is not computed,
    which knows the probability. It is `drawn` once an engine has drawn the mask."""
    held = first.__dict__
    if func is not F.dropout or held["role"] != "active" or "drop" in held:
        return None
    p, _, inplace = _dropout(*args[1:], **kwargs)
    if inplace:
        return None
    made: Deferred = held["again"](lambda: F.dropout(resolve(first, "a dropout"), p))
    made.__dict__["drop"] = float(p)
    return made


def _dropout(
    p: float = 0.5, training: bool = True, inplace: bool = False, **_: object
) -> tuple[float, bool, bool]:
    return p, training, inplace

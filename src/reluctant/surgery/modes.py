"""Which modes of torch are on: where one watches or changes operations, the original code runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._device import DeviceContext

# Bound here, as they are called on every call.
_is_compiling = torch.compiler.is_compiling
_transforms = torch._C._are_functorch_transforms_active
_dispatched = torch._C._len_torch_dispatch_stack
_traces = torch._C._is_tracing
_casts = torch.is_autocast_enabled
_functions = torch._C._len_torch_function_stack
_function = torch._C._get_function_stack_at


def is_watched() -> bool:
    """Whether something transforms, casts, exports or counts operations, which an engine would
    hide.
    """
    return _casts("cpu") or is_changed()


def casting() -> torch.dtype | None:
    """What autocast makes of products' factors; None if it is off."""
    return torch.get_autocast_dtype("cpu") if _casts("cpu") else None


def is_changed() -> bool:
    """`is_watched`, but for casts."""
    if _functions() and _sees():
        return True
    if _is_compiling():
        return torch.compiler.is_exporting()  # exported programs run without this library
    return (
        _transforms()
        or _dispatched() > 0
        or _traces()
        or forward_ad._current_level >= 0
        or bool(_has_any_global_hook())  # type: ignore[no-untyped-call]
    )


def _sees() -> bool:
    """Whether a function mode is on, other than a default device that changes nothing."""
    modes = [_function(i) for i in range(_functions())]
    return any(type(m) is not DeviceContext or m.device.type != "cpu" for m in modes)


def is_transformed() -> bool:
    """Whether operations do something else now than compute their results: not only where new
    tensors lie, in which dtype, and who may differentiate them.
    """
    modes = [_function(i) for i in range(_functions())]
    return (
        _is_compiling()
        or any(type(mode) is not DeviceContext for mode in modes)
        or _transforms()
        or _dispatched() > 0
        or _traces()
        or forward_ad._current_level >= 0
    )


@contextmanager
def plainly() -> Iterator[None]:
    """No inference mode, no autocast; tensors on the CPU where nothing is said."""
    off = torch.autocast("cpu", enabled=False)
    with torch.inference_mode(False), off, torch.device("cpu"):
        yield

"""The activations, and below which point each of them is exactly zero."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reluctant.errors import ReluctantError
from reluctant.kernels.codes import HARDSWISH, NONE, RELU, RELU2, RELU6
from reluctant.probe import close, evaluate, grid, numbers, pieces


@dataclass(frozen=True)
class Activation:
    """An elementwise function, and where it is known to be zero.

    name: how `resolve` finds it once it is registered.
    function: Tensor -> Tensor, elementwise; module-level, so that models holding it pickle.
    zero_below: f(z) == 0 exactly for every finite z <= zero_below; None if there is no such point.
        Compared as torch compares: in float64 for float64 tensors, in float32 for all narrower.
    kernel: the code (`reluctant.kernels.codes`) of the kernel branch that computes it where it is
        not zero; NONE if only torch computes it.

    Raises ReluctantError for a field of the wrong kind. What the fields claim is checked by
    `register` and `resolve`.

    >>> resolve("relu")(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    >>> resolve("hardswish").zero_below
    -3.0
    """

    name: str
    function: Callable[[Tensor], Tensor]
    zero_below: float | None = None
    kernel: int = NONE

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ReluctantError(f"an activation's name is a non-empty string, not {self.name!r}")
        if not callable(self.function):
            raise ReluctantError(
                f"activation {self.name!r}: expected a function from Tensor to Tensor, "
                f"got {self.function!r}"
            )
        if self.zero_below is not None:
            _check_point(self.zero_below, f"activation {self.name!r}: zero_below")
        if self.kernel != NONE and (self.kernel not in _BRANCHES or self.zero_below is None):
            raise ReluctantError(
                f"activation {self.name!r}: kernel is NONE (0), or one of {sorted(_BRANCHES)} "
                f"together with a zero_below; got kernel={self.kernel!r}, "
                f"zero_below={self.zero_below!r}"
            )

    def __call__(self, z: Tensor) -> Tensor:
        return self.function(z)

    @property
    def threshold(self) -> float:
        """`zero_below` as a float32, in which torch compares it; for those that have one."""
        assert self.zero_below is not None
        return float(torch.tensor(self.zero_below, dtype=torch.float32, device="cpu"))


# What the codes mean above zero_below, to check a registered claim against.
_BRANCHES: dict[int, Callable[[Tensor], Tensor]] = {
    RELU: lambda z: z,
    RELU2: torch.square,
    RELU6: lambda z: z.clamp(max=6),
    HARDSWISH: lambda z: z * (z + 3).clamp(max=6) / 6,
}


def _check_point(point: float, what: str) -> None:
    """A threshold has to survive as float32: torch refuses larger scalars only when it runs."""
    number = isinstance(point, int | float) and not isinstance(point, bool)
    if not number or not abs(point) <= torch.finfo(torch.float32).max:
        raise ReluctantError(f"{what} is a finite number within float32's range, not {point!r}")


def _relu2(z: Tensor) -> Tensor:
    return F.relu(z).square()


def _gelu_tanh(z: Tensor) -> Tensor:
    return F.gelu(z, approximate="tanh")


def _gelu_quick(z: Tensor) -> Tensor:
    return z * torch.sigmoid(1.702 * z)


def _identity(z: Tensor) -> Tensor:
    return z


@dataclass(frozen=True)
class _Threshold:
    """z above the threshold, else 0. A class, as closures do not pickle and partials never equal.

    Not `where(z > t, z, 0)`, which would turn NaN into 0.
    """

    threshold: float

    def __call__(self, z: Tensor) -> Tensor:
        return F.threshold(z, self.threshold, 0.0)


def thresholded_relu(threshold: float = 1.0) -> Activation:
    """Return z where z > threshold, else 0: ONNX's ThresholdedRelu (Konda et al. 2014).

    Raises ReluctantError if the threshold is not a finite number.

    >>> thresholded_relu(0.5)(torch.tensor([0.25, 0.5, 0.75]))
    tensor([0.0000, 0.0000, 0.7500])
    """
    _check_point(threshold, "the threshold of a thresholded ReLU")
    t = float(threshold)
    name = "thresholded_relu" if t == 1.0 else f"thresholded_relu({t!r})"
    return Activation(name, _Threshold(t), zero_below=t, kernel=RELU)


_BUILT_IN = [
    Activation("relu", F.relu, 0.0, RELU),
    Activation("relu2", _relu2, 0.0, RELU2),
    Activation("relu6", F.relu6, 0.0, RELU6),
    thresholded_relu(),
    Activation("hardswish", F.hardswish, -3.0, HARDSWISH),
    Activation("hardsigmoid", F.hardsigmoid, -3.0),
    Activation("leaky_relu", F.leaky_relu),
    Activation("elu", F.elu),
    Activation("gelu", F.gelu),
    Activation("gelu_tanh", _gelu_tanh),
    Activation("gelu_quick", _gelu_quick),
    Activation("silu", F.silu),
    Activation("mish", F.mish),
    Activation("softplus", F.softplus),
    Activation("tanh", F.tanh),
    Activation("sigmoid", F.sigmoid),
    Activation("identity", _identity),
]
_registry = {activation.name: activation for activation in _BUILT_IN}
_registry["swish"] = _registry["silu"]


def trained_by_kernel(activation: Activation) -> bool:
    """Whether the kernels know its slope: it is one of ours, not one that only has its values."""
    own = activation in _BUILT_IN or isinstance(activation.function, _Threshold)
    return own and activation.kernel != NONE


def names() -> list[str]:
    """Every name that `resolve` knows, sorted.

    >>> names()[:3]
    ['elu', 'gelu', 'gelu_quick']
    """
    return sorted(_registry)


def resolve(activation: str | Activation) -> Activation:
    """Return the activation of that name; an `Activation` is returned as it came.

    Raises ReluctantError for an unknown name (listing the valid ones), for anything else that is
    not an `Activation`, and for one that does not hold what it claims (see `register`).

    >>> resolve("swish").name
    'silu'
    """
    if isinstance(activation, Activation):
        if activation not in _registry.values():
            _verify(activation)
        return activation
    if isinstance(activation, str) and activation in _registry:
        return _registry[activation]
    raise ReluctantError(
        f"unknown activation {activation!r}: expected one of {', '.join(names())}, "
        "or an Activation (reluctant.activations.register adds names)"
    )


def register(activation: Activation) -> Activation:
    """Make `activation` known by its name, and return it. Registering it twice changes nothing.

    Raises ReluctantError if a different activation has the name, or if a value on a test grid
    contradicts `zero_below` or `kernel`.

    >>> register(Activation("softsign", F.softsign)).name
    'softsign'
    """
    if not isinstance(activation, Activation):
        raise ReluctantError(f"register takes an Activation, not {activation!r}")
    known = _registry.get(activation.name)
    if known is not None and known != activation:
        raise ReluctantError(
            f"the name {activation.name!r} is taken by {known}: choose another name"
        )
    _verify(activation)
    return _registry.setdefault(activation.name, activation)


def identify(live: object, dtype: torch.dtype | None = None) -> Activation | None:
    """Return the known activation that a live function or module computes, None if there is none.

    live: a function, a functools.partial, or an nn.Module such as nn.GELU(approximate="tanh").
    dtype: in which it has to be that activation, besides float64 and float32.
    Its behaviour decides, not its name: values on a grid that reaches from end to end of each dtype
    (NaN and the infinities included) have to agree, in training and in evaluation mode, with
    gradients and without, and to be exactly zero wherever ours is known to be.
    Modules with parameters, buffers, submodules or hooks are not identified: they are, or may
    become, more than a fixed function. A thresholded ReLU is found for any threshold if `live` is
    an nn.Threshold. Nothing is changed, random states included, and nothing is raised.

    >>> identify(torch.nn.GELU(approximate="tanh")).name
    'gelu_tanh'
    >>> identify(torch.nn.LeakyReLU(0.2)) is None
    True
    """
    if isinstance(live, Activation):
        return live
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return _first_match(live, dtype)
    except Exception:  # whatever a strange callable does, it is not an activation we know
        return None


def _first_match(live: object, dtype: torch.dtype | None) -> Activation | None:
    variants: list[Callable[[Tensor], object]] = [live]  # type: ignore[list-item]
    candidates = list(_registry.values())
    if isinstance(getattr(live, "__self__", None), nn.Module):
        return None  # a module's method may depend on anything that the module holds
    if isinstance(live, nn.Module):
        if not _is_bare(live):
            return None
        twin = copy.copy(live)  # shallow: only the flag differs
        twin.training = not live.training
        variants.append(twin)
        if isinstance(live, nn.Threshold):
            candidates.append(thresholded_relu(live.threshold))
    points = [a.zero_below for a in candidates if a.zero_below is not None]
    points += numbers(live)
    dtypes = dict.fromkeys((torch.float64, torch.float32, dtype or torch.float32))
    for kind in dtypes:
        whole = grid(kind, points)
        # The pieces first: few values leave few candidates.
        for z, variant, gradients in product((*pieces(whole), whole), variants, (False, True)):
            with torch.set_grad_enabled(gradients):
                theirs = evaluate(variant, z.clone().requires_grad_(gradients)).detach()
            candidates = [a for a in candidates if agrees(a, z, theirs)]
            if not candidates:
                return None
    return candidates[0]


def _is_bare(module: nn.Module) -> bool:
    hooks = (
        *(module._forward_hooks, module._forward_pre_hooks),
        *(module._backward_hooks, module._backward_pre_hooks),
    )
    state = (*module.parameters(), *module.buffers(), *module.children())
    return not any(hooks) and not state


def agrees(activation: Activation, z: Tensor, theirs: Tensor) -> bool:
    """Whether `theirs` is activation(z) but for rounding, and exactly zero where that is."""
    if theirs.shape != z.shape or theirs.dtype != z.dtype:
        return False
    ours = activation(z.clone())
    if _same_bits(ours, theirs):  # the usual case, in one look
        return True
    same = close(ours, theirs, z) | (ours.isnan() & theirs.isnan())
    if activation.zero_below is not None:
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        same &= (theirs == 0) | ~(wide <= activation.zero_below) | ~z.isfinite()
    return bool(same.all())


def _same_bits(a: Tensor, b: Tensor) -> bool:
    kind = {8: torch.int64, 4: torch.int32, 2: torch.int16}.get(a.itemsize)
    return kind is not None and torch.equal(a.view(kind), b.view(kind))


@torch.no_grad()
def _verify(activation: Activation) -> None:
    """Raise ReluctantError unless the function holds what `zero_below` and `kernel` claim."""
    below = activation.zero_below
    for dtype in (torch.float64, torch.float32):
        z = grid(dtype, [])
        if below is not None:
            lowest = torch.full((1,), torch.finfo(dtype).min, dtype=dtype, device="cpu")
            z = torch.cat([grid(dtype, [below]), below - z.abs(), lowest])
        z = z[z.isfinite()]
        try:
            y = evaluate(activation.function, z)
        except Exception as error:
            raise ReluctantError(
                f"activation {activation.name!r}: expected a function from Tensor to Tensor that "
                f"keeps shape and dtype; called with {z.numel()} values of {dtype}: {error}"
            ) from error
        if below is None:
            continue
        zero = z <= torch.tensor(below, dtype=dtype, device="cpu")
        wrong = zero & (y != 0)
        if activation.kernel != NONE:
            wrong |= ~zero & ~close(_BRANCHES[activation.kernel](z), y, z)
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise ReluctantError(
                f"activation {activation.name!r}: zero_below={below} and kernel="
                f"{activation.kernel} do not describe the function: f({z[at].item()!r}) = "
                f"{y[at].item()!r} in {dtype}; correct them (None and 0 are always true)"
            )

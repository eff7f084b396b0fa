"""Proves by behaviour that a forward is down(activation(up(x))), whoever wrote it.

The weights do not matter: hooks put made-up tensors in the place of what `up` and `down` return, so
that layers that are zero (as a scale of 1 or a residual branch at initialisation) prove nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from reluctant import probe
from reluctant.activations import Activation, identify
from reluctant.surgery.site import Unfit


@dataclass(frozen=True, eq=False)
class Proof:
    """Which Linear is which, the activation (None: none known), and `Site`'s trains, leading."""

    up: nn.Linear
    down: nn.Linear
    activation: Activation | None
    trains: bool
    leading: int


@dataclass(frozen=True, eq=False)
class _Run:
    """What a forward handed to up and to down, and what it returned."""

    to_up: list[Tensor]
    to_down: list[Tensor]
    result: object


class _Stop(BaseException):
    """Ends a forward early; no Exception, so that a forward's own handlers let it pass."""


class _Raises(Unfit):
    """The forward does not take this shape, or nothing at all."""


def prove(module: nn.Module, first: nn.Module, second: nn.Module, live: object) -> Proof:
    """Show that module(x) computes down(activation(up(x))) and nothing else.

    first, second: its two Linear layers, in either order. live: its activation submodule or None.
    Training flags, random states and attributes of the module are as before afterwards.
    Raises Unfit, with the reason, where that cannot be shown.
    """
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    reasons: list[Unfit] = []
    for up, down in ((first, second), (second, first)):
        try:
            with still(module):
                return _Trial(module, up, down).prove(live)
        except Unfit as unfit:
            reasons.append(unfit)
    # an order in which nothing runs says less than one that computes something else
    raise next((r for r in reasons if not isinstance(r, _Raises)), reasons[0])


class _Trial:
    """One order of the two Linear layers."""

    def __init__(self, module: nn.Module, up: nn.Linear, down: nn.Linear) -> None:
        self.module, self.up, self.down = module, up, down
        self.dtype = up.weight.dtype
        self.generator = torch.Generator("cpu").manual_seed(0)

    def prove(self, live: object) -> Proof:
        taken: list[int] = []
        refusals: list[Unfit] = []
        for leading in ((2, 3), (1, 1), (5,), (1,), ()):
            x = self._random(*leading, self.up.in_features)
            z = 4 * self._random(*leading, self.up.out_features)
            try:
                run = self._run(x.clone(), z)
            except _Raises as refusal:
                refusals.append(refusal)
            else:
                self._compare(x, run)
                taken.append(len(leading))
        if not taken:
            raise refusals[0]
        activation = self._activation(live, max(taken))
        if not self._differentiates(activation, max(taken)):
            raise Unfit("its forward stops gradients, or changes them on their way")
        trains = activation is not None and self._trains(activation, max(taken))
        return Proof(self.up, self.down, activation, trains, max(taken))

    def _run(self, x: Tensor, z: Tensor) -> _Run:
        """Call the forward with up(x) replaced by z, and down(h) by noise: `self.out`."""
        before, to_up, to_down = x.detach().clone(), [], []
        self.out = self._random(*x.shape).requires_grad_(torch.is_grad_enabled())

        def after_up(_: nn.Module, args: tuple[Tensor], __: Tensor) -> Tensor:
            to_up.append(args[0].clone())
            return z.clone()

        def after_down(_: nn.Module, args: tuple[Tensor], __: Tensor) -> Tensor:
            to_down.append(args[0].clone())
            return self.out.clone()

        hooks = self.up.register_forward_hook(after_up), self.down.register_forward_hook(after_down)
        try:
            with hooks[0], hooks[1]:
                result = self.module.forward(x)
        except Exception as error:
            text = " ".join(str(error).strip().splitlines()[:1])
            kind = type(error).__name__
            raise _Raises(f"its forward(tensor{tuple(x.shape)}) raises {kind}: {text}") from error
        if not torch.equal(x, before):
            raise Unfit("its forward changes its input")
        return _Run(to_up, to_down, result)

    def _compare(self, x: Tensor, run: _Run) -> None:
        if len(run.to_up) != 1 or len(run.to_down) != 1:
            raise Unfit("its forward does not call each of its two Linear layers once")
        if not _same(run.to_up[0], x):
            raise Unfit("its first Linear does not get the input as it came")
        if not isinstance(run.result, Tensor):
            raise Unfit(f"its forward returns a {type(run.result).__name__}, not one tensor")
        if not _same(run.result, self.out):
            raise Unfit("its forward does more with what its second Linear returns")

    def _activation(self, live: object, leading: int) -> Activation | None:
        """What the forward does between up and down, checked on all neurons."""
        activation = identify(live) if live is not None else None
        z = self._wide_z(leading)
        x = self._random(*z.shape[:-1], self.up.in_features)
        h = self._run(x, z).to_down[0]
        if activation is None or not _agrees(activation, z, h):
            activation = identify(self._between(leading))
        if activation is not None and not _agrees(activation, z, h):
            return None
        return activation

    def _wide_z(self, leading: int) -> Tensor:
        """Random pre-activations for every neuron, most in [-12, 12], some tiny, some large."""
        shape = (1,) * (leading - 1) + (48,) if leading else ()
        z = 4 * self._random(*shape, self.up.out_features)
        scale = 10.0 ** (6 * torch.rand(z.shape, generator=self.generator, device="cpu") - 3)
        rare = torch.rand(z.shape, generator=self.generator, device="cpu") < 0.25
        return torch.where(rare, z * scale, z).to(self.dtype)

    def _between(self, leading: int) -> Callable[[Tensor], Tensor]:
        """Return the forward, from what up returns to what down gets, as a function of one row."""
        d_model, d_ff = self.up.in_features, self.up.out_features

        def between(z: Tensor) -> Tensor:
            rows = -(-z.numel() // d_ff) if leading else 1
            shape = (1,) * (leading - 1) + (rows,) if leading else ()
            padded = torch.zeros(rows * d_ff, dtype=z.dtype, device="cpu")
            padded[: z.numel()] = z
            seen: list[Tensor] = []

            def catch(_: nn.Module, args: tuple[Tensor]) -> None:
                seen.append(args[0])
                raise _Stop

            def replace(*_: object) -> Tensor:
                return padded.view(*shape, d_ff)

            hooks = (
                self.up.register_forward_hook(replace),
                self.down.register_forward_pre_hook(catch),
            )
            with hooks[0], hooks[1], suppress(_Stop):
                self.module.forward(self._random(*shape, d_model))
            return seen[0].reshape(-1)[: z.numel()]

        return between

    def _differentiates(self, activation: Activation | None, leading: int) -> bool:
        """Whether gradients pass as they pass through down(activation(up(x)))."""
        if activation is not None and not same_slope(
            self._between(leading), activation, self.dtype
        ):
            return False
        z = self._wide_z(leading)
        x = self._random(*z.shape[:-1], self.up.in_features).requires_grad_()
        with torch.enable_grad():
            run = self._run(x, z)
        assert isinstance(run.result, Tensor)
        return _passes(x, run.to_up[0]) and _passes(self.out, run.result)

    def _trains(self, activation: Activation, leading: int) -> bool:
        """Whether the forward computes the same in training mode, but for dropout submodules.

        A functional dropout does not: then training is left to the forward.
        """
        z = self._wide_z(leading)
        x = self._random(*z.shape[:-1], self.up.in_features)
        for part in self.module.modules():
            part.training = not isinstance(part, _DropoutNd)
        try:
            run = self._run(x, z)
            self._compare(x, run)
        except Unfit:
            return False
        return _agrees(activation, z, run.to_down[0])

    def _random(self, *shape: int) -> Tensor:
        noise = torch.randn(shape, generator=self.generator, dtype=torch.float64, device="cpu")
        return noise.to(self.dtype)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _agrees(activation: Activation, z: Tensor, h: Tensor) -> bool:
    """Whether h is activation(z) but for rounding, and exactly zero where that is."""
    if h.shape != z.shape or h.dtype != z.dtype:
        return False
    ours = activation(z.clone())
    same = probe.close(ours, h, z) | (ours == h) | (ours.isnan() & h.isnan())
    if activation.zero_below is not None:
        same &= (h == 0) | ~(z <= activation.zero_below)
    return bool(same.all())


def _passes(leaf: Tensor, reached: Tensor) -> bool:
    """Whether the gradient of `reached`, equal to the leaf, arrives at it unchanged."""
    if not reached.requires_grad:
        return False
    (slope,) = torch.autograd.grad(reached, leaf, torch.ones_like(reached), allow_unused=True)
    return slope is not None and bool((slope == 1).all())


def same_slope(
    function: Callable[[Tensor], Tensor], activation: Activation, dtype: torch.dtype
) -> bool:
    """Whether autograd gives a function the derivative that it gives the activation.

    Straight-through estimators and functions under no_grad have another one.
    """
    z = 3 * torch.randn(512, generator=torch.Generator("cpu").manual_seed(1), device="cpu")
    slopes = []
    for f in (function, activation):
        leaf = z.to(dtype).requires_grad_()
        with torch.enable_grad():
            h = f(leaf * 1)  # not the leaf itself, as the function may work in place
        if not h.requires_grad:
            return False
        (slope,) = torch.autograd.grad(h, leaf, torch.ones_like(h), allow_unused=True)
        if slope is None:
            return False
        slopes.append(slope.double())
    slack = 64 * torch.finfo(dtype).eps * (1 + z.double().abs())
    return bool(((slopes[0] - slopes[1]).abs() <= slack).all())


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no autocast; flags, random state, attributes put back.

    Raises Unfit if a call inside set an attribute of the module.
    """
    flags = [(part, part.training) for part in module.modules()]
    held = dict(module.__dict__)
    try:
        for part, _ in flags:
            part.training = False
        rng = torch.random.fork_rng(devices=[])
        with torch.no_grad(), torch.autocast("cpu", enabled=False), rng:
            yield
    finally:
        for part, flag in flags:
            part.training = flag
        now = dict(module.__dict__)
        changed = [name for name in held | now if held.get(name) is not now.get(name)]
        if changed:
            module.__dict__.clear()
            module.__dict__.update(held)
    if changed:
        raise Unfit(f"its forward keeps state on the module ({', '.join(changed)})")

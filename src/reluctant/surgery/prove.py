"""Proves by behaviour that a forward is down(activation(up(x))), whoever wrote it, or gated:
down(activation(gate(x)) * up(x)); either with a root-mean-square norm of what comes to down.

The weights do not matter: hooks put made-up tensors in the place of what the linear maps return, so
that layers that are zero (as a scale of 1 or a residual branch at initialisation) prove nothing.
"""

import itertools
import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from reluctant.activations import Activation, agrees, identify
from reluctant.probe import grid
from reluctant.surgery.norm import normalises
from reluctant.surgery.site import Unfit, sizes
from reluctant.surgery.still import same_slope, slope, still


@dataclass(frozen=True, eq=False)
class Proof:
    """Which Linear is which, the activation (None: none known), and `Site`'s trains, leading."""

    up: nn.Module
    down: nn.Module
    gate: nn.Module | None
    activation: Activation | None
    trains: bool
    leading: int


@dataclass(frozen=True, eq=False)
class _Run:
    """What a forward handed to the first maps, and to down or the norm before it, and what it
    returned.
    """

    to_first: tuple[list[Tensor], ...]
    hidden: list[Tensor]
    result: object


class _Stop(BaseException):
    """Ends a forward early; no Exception, so that a forward's own handlers let it pass."""


class _Raises(Unfit):
    """The forward does not take this shape, or nothing at all."""


def prove(
    module: nn.Module, linears: list[nn.Module], live: object, norm: nn.Module | None = None
) -> Proof:
    """Show that module(x) computes down(activation(up(x))), gated if there are three maps.

    linears: its two or three linear maps, in any order. live: its activation submodule or None.
    norm: the submodule that what comes to down went through, if any.
    Training flags, random states and attributes of the module are as before afterwards.
    Raises Unfit, with the reason, where that cannot be shown.
    """
    if norm is not None and not normalises(norm):
        what = f"a {type(norm).__name__} of all d_ff neurons stands before its last Linear"
        raise Unfit(f"{what}, which is no root-mean-square norm: not served", refused=True)
    reasons: list[Unfit] = []
    unnamed: list[Proof] = []
    for fires, *up, down in itertools.permutations(linears):
        size = sizes(fires)
        if size is None or size[::-1] != sizes(down) or any(sizes(u) != size for u in up):
            continue
        try:
            factor = up[0] if up else None
            with still(module) as twin:
                parts = (twin(part) for part in (module, fires, factor, down, norm))
                found = _Trial(*parts).prove(live)
            proof = replace(found, up=factor or fires, down=down, gate=fires if factor else None)
        except Unfit as unfit:
            reasons.append(unfit)
        else:
            if proof.activation is not None:
                return proof
            unnamed.append(proof)
    if unnamed:
        return unnamed[0]
    # an order in which nothing runs says less than one that computes something else
    raise next((r for r in reasons if not isinstance(r, _Raises)), reasons[0])


class _Trial:
    """One order of the linear maps. fires: what the activation follows; factor: up, if gated."""

    def __init__(
        self,
        module: nn.Module,
        fires: nn.Module,
        factor: nn.Module | None,
        down: nn.Module,
        norm: nn.Module | None,
    ) -> None:
        self.module, self.fires, self.factor, self.down = module, fires, factor, down
        self.norm = norm
        self.d_model, self.d_ff = sizes(fires) or (0, 0)
        weight = fires.weight
        assert isinstance(weight, Tensor)
        self.dtype = weight.dtype
        self.generator = torch.Generator("cpu").manual_seed(0)

    def prove(self, live: object) -> Proof:
        taken: list[int] = []
        refusals: list[Unfit] = []
        for leading in ((2, 3), (1, 1), (5,), (1,), ()):
            x = self._random(*leading, self.d_model)
            z = 4 * self._random(*leading, self.d_ff)
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
        up, gate = (self.factor, self.fires) if self.factor else (self.fires, None)
        return Proof(up, self.down, gate, activation, trains, max(taken))

    def _run(self, x: Tensor, z: Tensor, factors: Tensor | None = None) -> _Run:
        """Call the forward with fires(x) replaced by z, in a gated layer up(x) by factors (None:
        ones), norm(h) by noise, and down(h) by noise: `self.out`.
        """
        before, to_down, to_norm = x.detach().clone(), list[Tensor](), list[Tensor]()
        self.out = self._random(*x.shape).requires_grad_(torch.is_grad_enabled())
        normed = self._random(*z.shape).requires_grad_(torch.is_grad_enabled())
        firsts = [(self.fires, z)]
        if self.factor is not None:
            firsts.append((self.factor, torch.ones_like(z) if factors is None else factors))
        to_first = tuple(list[Tensor]() for _ in firsts)

        def after_down(_: nn.Module, args: tuple[Tensor], __: Tensor) -> Tensor:
            to_down.append(args[0].clone())
            return self.out.clone()

        try:
            with ExitStack() as hooks:
                for (part, made_up), seen in zip(firsts, to_first, strict=True):
                    hooks.enter_context(part.register_forward_hook(_replace(made_up, seen)))
                if self.norm is not None:
                    hooks.enter_context(self.norm.register_forward_hook(_replace(normed, to_norm)))
                hooks.enter_context(self.down.register_forward_hook(after_down))
                result = self.module.forward(x)
        except Exception as error:
            text = " ".join(str(error).strip().splitlines()[:1])
            kind = type(error).__name__
            raise _Raises(f"its forward(tensor{tuple(x.shape)}) raises {kind}: {text}") from error
        if not torch.equal(x, before):
            raise Unfit("its forward changes its input")
        if self.norm is None:
            return _Run(to_first, to_down, result)
        if len(to_down) != 1 or not _hands_on(normed, to_down[0]):
            raise Unfit("its last Linear does not get what its norm returns")
        return _Run(to_first, to_norm, result)

    def _compare(self, x: Tensor, run: _Run) -> None:
        count = "two" if self.factor is None else "three"
        if any(len(seen) != 1 for seen in (*run.to_first, run.hidden)):
            raise Unfit(f"its forward does not call each of its {count} Linear layers once")
        if not all(_same(seen[0], x) for seen in run.to_first):
            raise Unfit("its first Linear does not get the input as it came")
        if not isinstance(run.result, Tensor):
            raise Unfit(f"its forward returns a {type(run.result).__name__}, not one tensor")
        if not _same(run.result, self.out):
            raise Unfit("its forward does more with what its second Linear returns")

    def _activation(self, live: object, leading: int) -> Activation | None:
        """What the forward does between up and down, checked on all neurons."""
        activation = identify(live, self.dtype) if live is not None else None
        between = self._between(leading)
        z = self._wide_z(leading)
        x = self._random(*z.shape[:-1], self.d_model)
        h = self._run(x, z).hidden[0]
        ends = grid(self.dtype, [])
        if activation is None or not (
            agrees(activation, z, h) and agrees(activation, ends, between(ends))
        ):
            activation = identify(between, self.dtype)
        if activation is not None and not agrees(activation, z, h):
            return None
        if activation is not None and self.factor is not None:
            return activation if self._multiplies(activation, x, leading) else None
        return activation

    def _multiplies(self, activation: Activation, x: Tensor, leading: int) -> bool:
        """Whether what goes to down is the activation's result times up's, whatever that is."""
        z, factors = 4 * self._random(*x.shape[:-1], self.d_ff), self._wide_z(leading)
        h = self._run(x, z, factors).hidden[0]
        fired = activation(z)
        ours = fired * factors
        scale = 8 * torch.finfo(z.dtype).eps * (fired.abs() + z.abs()) * factors.abs()
        same = ((ours - h).abs() <= scale) | (ours == h) | (ours.isnan() & h.isnan())
        if activation.zero_below is not None:
            same &= (h == 0) | ~(z <= activation.zero_below)
        return h.dtype == z.dtype and bool(same.all())

    def _wide_z(self, leading: int) -> Tensor:
        """Random pre-activations for every neuron, most in [-12, 12], some tiny or large, a few as
        much so as the dtype allows.
        """
        shape = (1,) * (leading - 1) + (48,) if leading else ()
        z = 4 * self._random(*shape, self.d_ff)
        share, size = torch.rand(2, *z.shape, generator=self.generator, device="cpu")
        info = torch.finfo(self.dtype)
        low, high = math.log10(info.tiny), math.log10(info.max)
        any_size = z.sign() * (10.0 ** (low + (high - low) * size.double())).clamp(max=info.max)
        z = torch.where(share < 0.25, z * 10.0 ** (6 * size - 3), z)
        return torch.where(share < 0.05, any_size, z).to(self.dtype)

    def _between(self, leading: int) -> Callable[[Tensor], Tensor]:
        """Return the forward, from what up returns to what down, or the norm, gets, as a function
        of one row.
        """
        d_model, d_ff = self.d_model, self.d_ff

        def between(z: Tensor) -> Tensor:
            rows = -(-z.numel() // d_ff) if leading else 1
            shape = (1,) * (leading - 1) + (rows,) if leading else ()
            padded = torch.zeros(rows * d_ff, dtype=z.dtype, device="cpu")
            padded[: z.numel()] = z.reshape(-1)
            seen: list[Tensor] = []

            def catch(_: nn.Module, args: tuple[Tensor]) -> None:
                seen.append(args[0])
                raise _Stop

            ones = torch.ones(*shape, d_ff, dtype=z.dtype, device="cpu")
            with ExitStack() as hooks, suppress(_Stop):
                replace = _replace(padded.view(*shape, d_ff))
                hooks.enter_context(self.fires.register_forward_hook(replace))
                if self.factor is not None:
                    hooks.enter_context(self.factor.register_forward_hook(_replace(ones)))
                last = self.down if self.norm is None else self.norm
                hooks.enter_context(last.register_forward_pre_hook(catch))
                self.module.forward(self._random(*shape, d_model))
            return seen[0].reshape(-1)[: z.numel()].reshape(z.shape)

        return between

    def _differentiates(self, activation: Activation | None, leading: int) -> bool:
        """Whether gradients pass as they pass through down(activation(up(x)))."""
        if activation is not None and not same_slope(
            self._between(leading), activation, self.dtype
        ):
            return False
        z = self._wide_z(leading)
        x = self._random(*z.shape[:-1], self.d_model).requires_grad_()
        factors = self._random(*z.shape).requires_grad_()
        with torch.enable_grad():
            run = self._run(x, z, factors)
        assert isinstance(run.result, Tensor)
        if not all(_passes(x, seen[0]) for seen in run.to_first):
            return False
        if self.factor is not None and activation is not None:
            h = run.hidden[0]
            passed = slope(h, factors)
            if passed is None or not agrees(activation, z, passed):
                return False
        return _passes(self.out, run.result)

    def _trains(self, activation: Activation, leading: int) -> bool:
        """Whether the forward computes the same in training mode, but for dropout submodules.

        A functional dropout does not: then training is left to the forward.
        """
        z = self._wide_z(leading)
        x = self._random(*z.shape[:-1], self.d_model)
        for part in self.module.modules():
            part.training = not isinstance(part, _DropoutNd)
        try:
            run = self._run(x, z)
            self._compare(x, run)
        except Unfit:
            return False
        return agrees(activation, z, run.hidden[0])

    def _random(self, *shape: int) -> Tensor:
        noise = torch.randn(shape, generator=self.generator, dtype=torch.float64, device="cpu")
        return noise.to(self.dtype)


def _replace(made_up: Tensor, seen: list[Tensor] | None = None) -> Callable[..., Tensor]:
    """Make a hook that keeps what a module gets, and lets it return a made-up tensor."""

    def hook(_: nn.Module, args: tuple[Tensor], __: Tensor) -> Tensor:
        if seen is not None:
            seen.append(args[0].clone())
        return made_up.clone()

    return hook


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _hands_on(made_up: Tensor, got: Tensor) -> bool:
    return _same(made_up, got) and not (torch.is_grad_enabled() and not _passes(made_up, got))


def _passes(leaf: Tensor, reached: Tensor) -> bool:
    """Whether the gradient of `reached`, equal to the leaf, arrives at it unchanged."""
    passed = slope(reached, leaf)
    return passed is not None and bool((passed == 1).all())

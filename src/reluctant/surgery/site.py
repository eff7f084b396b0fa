"""One feed-forward layer in a live module: its parts, and whether they are still as they were."""

from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from reluctant.activations import Activation


class Unfit(Exception):  # noqa: N818 - a finding, not an error
    """Why a module is left as it is.

    refused: it is a feed-forward layer, but one that cannot be served; otherwise a look-alike.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refused = refused
        self.activation: str | None = None
        self.d_model: int | None = None
        self.d_ff: int | None = None


@dataclass(frozen=True, eq=False)
class Site:
    """What a module's feed-forward layer consists of, and what each call relies on.

    method: the method of the module that computes it.
    parts: every submodule that takes part, as (name in the module, submodule, its class).
    attribute: (name, value) of a plain attribute that has to stay: an activation function.
    children: how many submodules the module has altogether; None if others do not matter.
    trains: whether training mode, dropouts aside, computes the same.
    leading: how many dimensions before the last the module is known to take.

    Holds no reference to the module itself, as that would be a cycle and keep its weights alive.
    """

    method: str
    up: nn.Linear
    down: nn.Linear
    gate: nn.Linear | None
    activation: Activation
    parts: tuple[tuple[str, nn.Module, type], ...]
    attribute: tuple[str, object] | None = None
    children: int | None = None
    trains: bool = True
    leading: int = 2
    dropouts: tuple[_DropoutNd, ...] = field(init=False)

    def __post_init__(self) -> None:
        dropouts = (part for _, part, _ in self.parts if isinstance(part, _DropoutNd))
        object.__setattr__(self, "dropouts", tuple(dropouts))

    @property
    def d_model(self) -> int:
        return self.up.in_features

    @property
    def d_ff(self) -> int:
        return self.up.out_features

    def whole(self, module: nn.Module) -> bool:
        """Whether the module still holds these very parts."""
        modules = module._modules
        if self.children is not None and len(modules) != self.children:
            return False
        if self.attribute is not None:
            name, function = self.attribute
            if module.__dict__.get(name) is not function:
                return False
        for name, part, kind in self.parts:
            # a parametrization, weight norm of torch.nn.utils.parametrize too, changes the class
            if modules.get(name) is not part or type(part) is not kind:
                return False
        return True

    def observed(self) -> bool:
        """Whether someone watches or changes what goes through a part."""
        for _, part, _ in self.parts:
            if (
                part._forward_hooks
                or part._forward_pre_hooks
                or part._backward_hooks
                or part._backward_pre_hooks
                or "forward" in part.__dict__  # set on the instance, as accelerate's hooks are
            ):
                return True
        return False

    def drops(self) -> bool:
        """Whether a dropout would act now. Each has its own flag: Monte Carlo dropout uses that."""
        for dropout in self.dropouts:  # noqa: SIM110 - on every call, and any() is slower
            if dropout.training and dropout.p > 0:
                return True
        return False

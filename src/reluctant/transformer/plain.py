"""What a module of torch's has to be for its settings and weights to be all there is to it."""

from torch import Tensor, nn
from torch.nn.utils import parametrize

from reluctant.errors import ReluctantError

METHODS = ("forward", "_sa_block", "_mha_block", "_ff_block")
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def expect(module: object, cls: type[nn.Module], name: str) -> None:
    """Refuse a module that may compute or learn something else than torch's own class.

    Raises ReluctantError for another class's or the instance's own methods, for hooks of the module
    or its parameters, for parametrizations, and for parameters of a special kind.
    """
    kind = getattr(type(module), "_unserved", type(module))  # of a module that an engine serves
    of_torch = "nn." if cls.__module__.startswith("torch.nn.") else ""
    plain = f"{name}: expected a plain {of_torch}{cls.__name__}"
    if not isinstance(module, cls) or any(
        getattr(kind, m, None) is not getattr(cls, m, None) for m in METHODS
    ):
        raise ReluctantError(f"{plain}, got {kind.__name__}")
    if replaced := [m for m in METHODS if m in vars(module)]:
        raise ReluctantError(f"{plain}, got one with a {replaced[0]} of its own")
    if parametrize.is_parametrized(module):
        raise ReluctantError(
            f"{plain}, got one with parametrizations, which would be lost: call "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )
    parameters = list(module.parameters(recurse=False))
    if any(getattr(module, hooks) for hooks in HOOKS) or any(map(_hooked, parameters)):
        raise ReluctantError(f"{plain}, got one with hooks, which would be lost: remove them first")
    for parameter in parameters:
        if type(parameter) not in (nn.Parameter, Tensor):
            raise ReluctantError(f"{plain}, got one with a {type(parameter).__name__} for a weight")


def expect_norm(module: object, d_model: int, name: str) -> None:
    """`expect`, and normalising over the last dimension only."""
    expect(module, nn.LayerNorm, name)
    if isinstance(module, nn.LayerNorm) and module.normalized_shape != (d_model,):
        raise ReluctantError(
            f"{name}: expected a norm of shape ({d_model},), got {module.normalized_shape}"
        )


def expect_attention(module: object, name: str) -> None:
    """`expect`, and one size of queries, keys and values, with nothing added to them."""
    expect(module, nn.MultiheadAttention, name)
    if isinstance(module, nn.MultiheadAttention):
        if not isinstance(module.in_proj_weight, Tensor) or module.bias_k is not None:
            raise ReluctantError(f"{name}: expected attention without kdim, vdim and add_bias_kv")
        if module.add_zero_attn:
            raise ReluctantError(f"{name}: expected attention without add_zero_attn")
        expect(module.out_proj, nn.Linear, f"{name}.out_proj")


def rate(module: object, name: str) -> float:
    """What a dropout drops; nn.Identity, which often replaces one, drops nothing."""
    if isinstance(module, nn.Identity):
        return 0.0
    expect(module, nn.Dropout, name)
    return float(module.p) if isinstance(module, nn.Dropout) else 0.0


def expect_embedding(module: object, name: str) -> None:
    """`expect`, and weights that a look-up does not change."""
    expect(module, nn.Embedding, name)
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        raise ReluctantError(
            f"{name}: expected an embedding without max_norm, which rescales a row when it is "
            "looked up: a tied output, and with it a sentence's answer, would depend on what else "
            "was asked before; look all rows up once and set max_norm to None"
        )


def _hooked(parameter: nn.Parameter) -> bool:
    return bool(parameter._backward_hooks) or bool(
        getattr(parameter, "_post_accumulate_grad_hooks", None)
    )

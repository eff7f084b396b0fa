"""Modes of torch that a call happens to be made in: nothing of them may be kept for the next call.

The positions' sinusoids are the only thing that is kept from call to call; a cache goes from one
step to the next.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from reluctant.transformer import Transformer, TransformerConfig, greedy
from reluctant.transformer.layers import _kept_sinusoids, sinusoids

SOURCE, TARGET = torch.tensor([[5, 7, 4, 9, 3], [4, 8, 6, 10, 0]]), torch.tensor([[1, 4], [1, 9]])


def build(**options: Any) -> Transformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1, "source_vocab": 12}
    sizes |= {"d_model": 16, "heads": 4, "d_ff": 64}
    return Transformer(TransformerConfig(**(sizes | options))).eval()


@pytest.fixture(autouse=True)
def first_use() -> None:
    """Each test begins as if no sinusoids had been needed yet."""
    _kept_sinusoids.cache_clear()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Doubling(TorchFunctionMode):
    """Somebody's mode that changes what sines are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        return 2 * y if getattr(func, "__name__", "") in ("sin", "cos", "arange") else y


def fake(model: Transformer) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert model(SOURCE, TARGET).shape == (2, 2, 12)


def on_meta(model: Transformer) -> None:
    """A model on the meta device, as `accelerate` makes it to see what fits where."""
    with torch.device("meta"):
        empty = build()
        assert empty(SOURCE.to("meta"), TARGET.to("meta")).device.type == "meta"
        model(SOURCE, TARGET)


def vmapped(model: Transformer) -> None:
    torch.func.vmap(lambda s, t: model(s[None], t[None])[0])(SOURCE, TARGET)


def gradients(model: Transformer) -> None:
    def loss(parameters: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(model, parameters, (SOURCE, TARGET))
        return y.square().mean()

    torch.func.grad(loss)(dict(model.named_parameters()))


def tangents(model: Transformer) -> None:
    parameters = dict(model.named_parameters())
    directions = {name: torch.ones_like(p) for name, p in parameters.items()}
    call = lambda p: torch.func.functional_call(model, p, (SOURCE, TARGET))  # noqa: E731
    with sdpa_kernel(SDPBackend.MATH):  # the only one that torch differentiates forward
        torch.func.jvp(call, (parameters,), (directions,))


def inference(model: Transformer) -> None:
    with torch.inference_mode():
        model(SOURCE, TARGET)


def autocast(model: Transformer) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        model(SOURCE, TARGET)


def narrow(model: Transformer) -> None:
    with default_dtype(torch.bfloat16):
        model(SOURCE, TARGET)
        build()(SOURCE, TARGET)


def doubled(model: Transformer) -> None:
    with Doubling():
        model(SOURCE, TARGET)


def traced(model: Transformer) -> None:
    make_fx(model)(SOURCE, TARGET)
    torch.export.export(model, (SOURCE, TARGET))


def other_dtype(model: Transformer) -> None:
    model.bfloat16()(SOURCE, TARGET)
    model.float().load_state_dict(build().state_dict())


MODES = [fake, on_meta, vmapped, gradients, tangents, inference, autocast, narrow, doubled, traced]


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:.*torch.jit.script")
@pytest.mark.parametrize("first", [*MODES, other_dtype], ids=lambda f: f.__name__)
def test_a_first_use_in_any_mode_leaves_nothing_behind(
    first: Callable[[Transformer], None],
) -> None:
    expected = build()(SOURCE, TARGET)
    _kept_sinusoids.cache_clear()
    model = build()
    first(model)
    got = model(SOURCE, TARGET)
    assert type(got) is Tensor
    assert not got.is_inference()
    assert torch.equal(got, expected)
    got.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(SOURCE, TARGET), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_positions_are_those_of_the_formula_whatever_was_served_before(dtype: torch.dtype) -> None:
    """Rounded once, from float64: never from a table that was rounded for another dtype."""
    positions = build().input_positions
    for before in (torch.bfloat16, torch.float64, torch.float16):
        positions(torch.zeros(1, 300, 16, dtype=before))
    for start, n in [(0, 1), (0, 700), (299, 2), (1023, 2), (255, 1), (256, 1)]:
        x = torch.zeros(1, n, 16, dtype=dtype)
        expected = sinusoids(start + n, 16)[start:].to(dtype)[None]
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(positions(x, start), expected, rtol=eps, atol=2e-16)
        assert positions(x, start).dtype == dtype


def test_what_is_kept_is_an_array_that_nobody_can_write_to_and_few_of_them() -> None:
    positions = build().input_positions
    for n in range(1, 2000, 37):
        positions(torch.zeros(1, n, 16))
    info = _kept_sinusoids.cache_info()
    assert info.currsize == 4  # 256, 512, 1024, 2048
    assert info.maxsize is not None
    kept = _kept_sinusoids(256, 16)
    assert type(kept) is np.ndarray
    expected = positions(torch.zeros(1, 3, 16)).clone()
    positions(torch.zeros(1, 3, 16)).zero_()
    assert torch.equal(positions(torch.zeros(1, 3, 16)), expected)
    assert not any(isinstance(value, Tensor | np.ndarray) for value in vars(positions).values())


def test_nothing_of_the_positions_is_in_a_state_dict_or_a_trained_parameter() -> None:
    model = build()
    model(SOURCE, TARGET)
    assert not any("positions" in name for name in model.state_dict())


@torch.no_grad()
def test_a_cache_begun_in_inference_mode_goes_on_outside_of_it() -> None:
    model, target = build(), torch.randint(3, 12, (2, 6))
    expected = model(SOURCE, target)
    with torch.inference_mode():
        cache = model.start(SOURCE)
        steps = [model.decode(target[:, i : i + 1], cache) for i in range(3)]  # with room to spare
    steps += [model.decode(target[:, i : i + 1], cache) for i in range(3, 5)]
    with torch.inference_mode():
        steps.append(model.decode(target[:, 5:], cache))
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-5, atol=1e-6)


def test_decoding_is_the_same_under_default_devices_and_dtypes() -> None:
    model = build()
    expected = greedy(model, SOURCE, max_length=5)
    with torch.device("meta"):
        assert torch.equal(greedy(model, SOURCE, max_length=5), expected)
    with default_dtype(torch.float64):
        assert torch.equal(greedy(model, SOURCE, max_length=5), expected)
    with torch.inference_mode():
        assert torch.equal(greedy(model, SOURCE, max_length=5), expected)


def test_compiled_and_exported_for_any_length() -> None:
    positions = build().input_positions
    x, longer = torch.zeros(1, 3, 16), torch.zeros(1, 700, 16)
    dynamic = ({1: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(positions, (x,), dynamic_shapes=dynamic).module()
    torch.testing.assert_close(exported(longer), positions(longer), rtol=1e-6, atol=1e-6)
    compiled = torch.compile(positions, backend="eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(x), positions(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(compiled(longer), positions(longer), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"target_vocab": 12}, {"tied": False}], ids=str)
def test_functional_call_gives_back_the_model_as_it_was(options: dict[str, Any]) -> None:
    """A module under two names, which a shared embedding once was, kept what it had been lent."""
    model = build(**options)
    before = dict(model.named_parameters(remove_duplicate=False))
    lent = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    assert torch.func.functional_call(model, lent, (SOURCE, TARGET)).eq(0).all()
    after = dict(model.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert (model.linear.weight is model.output_embedding.weight) == model.config.tied

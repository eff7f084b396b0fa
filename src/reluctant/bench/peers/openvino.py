"""OpenVINO: float32, bfloat16, and int8 weights."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from reluctant.bench.peers.peer import Peer, UnavailableError, to_int8
from reluctant.feedforward import FeedForward

Weight = Callable[[nn.Linear], Any]


def exact(layers: Sequence[FeedForward], tokens: int) -> Peer:
    """Held to the weights' dtype: on processors with AMX it would take bfloat16 unasked."""
    hint = "f32" if layers[0].up.weight.dtype == torch.float32 else "bf16"
    return _peer("OpenVINO", layers, tokens, _plain, INFERENCE_PRECISION_HINT=hint)


def bfloat16(layers: Sequence[FeedForward], tokens: int) -> Peer:
    """Float32 weights rounded to bfloat16: what OpenVINO does unasked where it is faster."""
    if layers[0].up.weight.dtype != torch.float32:
        raise UnavailableError("nothing to round")
    hint = {"INFERENCE_PRECISION_HINT": "bf16"}
    return _peer("OpenVINO bf16", layers, tokens, _plain, is_exact=False, **hint)


def int8(layers: Sequence[FeedForward], tokens: int) -> Peer:
    """int8 weights with a scale a row; x quantised in groups of what was fastest (NNCF's default
    compression, and OpenVINO's dynamic quantisation).
    """
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    if tokens > 1:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "128"
    return _peer("OpenVINO int8", layers, tokens, _compressed, is_exact=False, **settings)


def without_telemetry() -> Any:
    """The package `openvino`. By itself its import tells Intel of it, from a forked process (which
    has crashed here): without `openvino_telemetry` it takes a stub of its own.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # that is: none
    import openvino  # noqa: PLC0415  optional, as are all peers

    return openvino


def _plain(part: nn.Linear) -> Any:
    from openvino import opset13 as op  # noqa: PLC0415  optional, as are all peers

    # bfloat16 values are exact in float32, and bfloat16 again in the compiled model.
    return op.constant(part.weight.detach().float().contiguous().numpy())


def _compressed(part: nn.Linear) -> Any:
    from openvino import opset13 as op  # noqa: PLC0415

    q, scale = to_int8(part.weight)
    return op.multiply(op.convert(op.constant(q.numpy()), "f32"), op.constant(scale.numpy()))


def _peer(
    name: str,
    layers: Sequence[FeedForward],
    tokens: int,
    weight: Weight,
    *,
    is_exact: bool = True,
    **settings: str,
) -> Peer:
    ov = without_telemetry()
    core = ov.Core()

    def one(layer: FeedForward) -> Callable[[Any], Any]:
        compiled = core.compile_model(
            _model(layer, tokens, weight),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                **settings,
            },
        )
        request = compiled.create_infer_request()

        def call(tensor: Any) -> Any:
            request.set_input_tensor(tensor)
            request.infer()
            return request.get_output_tensor()

        return call

    return Peer(
        name,
        [one(layer) for layer in layers],
        wrap=lambda x: ov.Tensor(x.float().numpy(), shared_memory=True),
        unwrap=lambda y: torch.from_numpy(y.data.copy()),
        exact=is_exact,
    )


def _model(layer: FeedForward, tokens: int, weight: Weight) -> Any:
    import openvino as ov  # noqa: PLC0415
    from openvino import opset13 as op  # noqa: PLC0415

    def linear(x: Any, part: nn.Linear) -> Any:
        bias = op.constant(part.bias.detach().float().numpy()[None])
        return op.add(op.matmul(x, weight(part), False, True), bias)

    x = op.parameter([tokens, layer.d_model], ov.Type.f32)
    z = linear(x, layer.gate or layer.up)
    h = op.relu(z) if layer.activation.name == "relu" else op.gelu(z, "erf")
    if layer.gate is not None:
        h = op.multiply(h, linear(x, layer.up))
    return ov.Model([linear(h, layer.down)], [x], "feed-forward")

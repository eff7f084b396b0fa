"""The dense implementations the engine is compared with, each in float32 and at its best.

A peer gets what its users can give it: weights packed beforehand, inputs already in its own
form, outputs left in it. Only its own call is timed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Peer:
    """One implementation of `down(relu(up(x)))`, with its weights and for one shape of x.

    Attributes:
        name: as it stands in the table.
        wrap: x (tokens, d_model) -> the input in the peer's own form; not timed.
        call: that -> the output in the peer's own form; this is what is timed.
        unwrap: that -> y (tokens, d_model); not timed.
    """

    name: str
    call: Callable[[Any], Any]
    wrap: Callable[[Tensor], Any] = lambda x: x
    unwrap: Callable[[Any], Tensor] = lambda y: y


Builder = Callable[[nn.Linear, nn.Linear, int], Peer]


def onednn(up: nn.Linear, down: nn.Linear, tokens: int) -> Peer:
    """oneDNN through PyTorch's private operators: what Inductor emits when it freezes weights."""
    linear = torch.ops.mkldnn._linear_pointwise
    # The operators are there in every build; without oneDNN this raises RuntimeError.
    w1 = torch.ops.mkldnn._reorder_linear_weight(up.weight.detach(), tokens)
    w2 = torch.ops.mkldnn._reorder_linear_weight(down.weight.detach(), tokens)
    b1, b2 = up.bias, down.bias

    def call(x: Tensor) -> Any:
        return linear(linear(x, w1, b1, "relu", [], ""), w2, b2, "none", [], "")

    return Peer("oneDNN", call)


def onnxruntime(up: nn.Linear, down: nn.Linear, tokens: int) -> Peer:
    """ONNX Runtime; its threads spin between calls, as they do by default."""
    import onnxruntime as ort  # noqa: PLC0415  optional, as are all peers
    from onnx import TensorProto, numpy_helper  # noqa: PLC0415
    from onnx import helper as on  # noqa: PLC0415

    def constant(tensor: Tensor, name: str) -> Any:
        return numpy_helper.from_array(tensor.detach().contiguous().numpy(), name)

    shape = [tokens, up.in_features]
    graph = on.make_graph(
        [
            on.make_node("MatMul", ["x", "w1"], ["h"]),
            on.make_node("Add", ["h", "b1"], ["z"]),
            on.make_node("Relu", ["z"], ["a"]),
            on.make_node("MatMul", ["a", "w2"], ["v"]),
            on.make_node("Add", ["v", "b2"], ["y"]),
        ],
        "feed-forward",
        [on.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [on.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            constant(up.weight.t(), "w1"),
            constant(up.bias, "b1"),
            constant(down.weight.t(), "w2"),
            constant(down.bias, "b2"),
        ],
    )
    # The oldest versions that say all this: any installed ONNX Runtime reads them.
    model = on.make_model(graph, opset_imports=[on.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def wrap(x: Tensor) -> Any:
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x.numpy()))
        binding.bind_output("y")
        return binding

    def call(binding: Any) -> Any:
        session.run_with_iobinding(binding)
        return binding

    def unwrap(binding: Any) -> Tensor:
        return torch.from_numpy(binding.copy_outputs_to_cpu()[0])

    return Peer("ONNX Runtime", call, wrap, unwrap)


def openvino(up: nn.Linear, down: nn.Linear, tokens: int) -> Peer:
    """OpenVINO, held to float32: on processors with AMX it would take bfloat16 unasked."""
    import openvino as ov  # noqa: PLC0415
    from openvino import opset13 as op  # noqa: PLC0415

    def linear(x: Any, layer: nn.Linear) -> Any:
        weight = op.constant(layer.weight.detach().contiguous().numpy())
        bias = op.constant(layer.bias.detach().numpy()[None])
        return op.add(op.matmul(x, weight, False, True), bias)

    x = op.parameter([tokens, up.in_features], ov.Type.f32)
    model = ov.Model([linear(op.relu(linear(x, up)), down)], [x], "feed-forward")
    compiled = ov.Core().compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()

    def call(tensor: Any) -> Any:
        request.set_input_tensor(tensor)
        request.infer()
        return request.get_output_tensor()

    return Peer(
        "OpenVINO",
        call,
        wrap=lambda x: ov.Tensor(x.numpy(), shared_memory=True),
        unwrap=lambda y: torch.from_numpy(y.data.copy()),
    )


OPTIONAL: dict[str, Builder] = {
    "oneDNN": onednn,
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
}


def build(up: nn.Linear, down: nn.Linear, tokens: int) -> tuple[list[Peer], dict[str, str]]:
    """Every peer that can be had here, and for the others the reason why not.

    Args:
        up: float32 on the CPU, with a bias.
        down: likewise.
        tokens: rows of x; some peers are compiled for one shape.
    """
    peers, missing = [], {}
    for name, builder in OPTIONAL.items():
        try:
            peers.append(builder(up, down, tokens))
        except ImportError as error:
            missing[name] = f"{error}: pip install 'reluctant[bench]'"
        except (AttributeError, RuntimeError) as error:  # a private operator, an odd build
            missing[name] = str(error).splitlines()[0]
    return peers, missing

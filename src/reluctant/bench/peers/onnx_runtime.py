"""ONNX Runtime: float32, and int8 weights. It has no bfloat16 products on CPUs."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.bench.peers.peer import Peer, UnavailableError, to_int8
from reluctant.feedforward import FeedForward

MICROSOFT = "com.microsoft"
SPINS = 0.1  # seconds after a call: long enough to halve what comes next
GROUPS = (128, 64, 32, 16)  # columns that share a scale; the larger the faster

Linear = Callable[["Graph", str, nn.Linear], str]


class Graph:
    """Nodes and constants of one layer's graph, from "x" on."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, tensor: Tensor) -> str:
        from onnx import numpy_helper  # noqa: PLC0415  optional, as are all peers

        name = f"c{len(self.constants)}"
        array = tensor.detach().contiguous().numpy()
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: int) -> str:
        from onnx import helper as on  # noqa: PLC0415

        name = f"n{len(self.nodes)}"
        node = on.make_node(kind, list(inputs), [name], domain=domain, **attributes)
        self.nodes.append(node)
        return name


def exact(layers: Sequence[FeedForward], tokens: int) -> Peer:
    """Float32, weights packed when the session is made."""
    if layers[0].up.weight.dtype != torch.float32:
        raise UnavailableError("no bfloat16 products on CPUs")

    def linear(graph: Graph, x: str, part: nn.Linear) -> str:
        product = graph.node("MatMul", x, graph.constant(part.weight.t()))
        return graph.node("Add", product, graph.constant(part.bias))

    return _peer("ONNX Runtime", layers, tokens, linear)


def int8(layers: Sequence[FeedForward], tokens: int) -> Peer:
    """One token: groups of int8 weights (MatMulNBits, int8 arithmetic). More: a scale a row, and x
    quantised as a whole (DynamicQuantizeMatMul), which is the faster one there.
    """
    sizes = layers[0].d_model, layers[0].d_ff
    group = next((g for g in GROUPS if not any(n % g for n in sizes)), 0)

    def dynamic(graph: Graph, x: str, part: nn.Linear) -> str:
        q, scale = to_int8(part.weight)
        constants = (graph.constant(q.t()), graph.constant(scale[:, 0]))
        bias = graph.constant(part.bias.float())
        return graph.node("DynamicQuantizeMatMul", x, *constants, "", bias, domain=MICROSOFT)

    def grouped(graph: Graph, x: str, part: nn.Linear) -> str:
        q, scale = to_int8(part.weight, group)
        unsigned = (q.short() + 128).to(torch.uint8).view(len(q), -1, group)
        return graph.node(
            "MatMulNBits",
            *(x, graph.constant(unsigned), graph.constant(scale.flatten()), "", ""),
            graph.constant(part.bias.float()),
            domain=MICROSOFT,
            **{"K": part.in_features, "N": part.out_features, "bits": 8, "block_size": group},
            accuracy_level=4,
        )

    linear = grouped if tokens == 1 and group else dynamic
    return _peer("ONNX Runtime int8", layers, tokens, linear, is_exact=False)


def _peer(
    name: str,
    layers: Sequence[FeedForward],
    tokens: int,
    linear: Linear,
    *,
    is_exact: bool = True,
) -> Peer:
    import onnxruntime as ort  # noqa: PLC0415

    def one(layer: FeedForward) -> Callable[[Any], Any]:
        session = _session(layer, tokens, linear)
        binding = session.io_binding()
        binding.bind_output("y")

        def call(x: Any) -> Any:
            binding.bind_ortvalue_input("x", x)
            session.run_with_iobinding(binding)
            return binding

        return call

    return Peer(
        name,
        [one(layer) for layer in layers],
        wrap=lambda x: ort.OrtValue.ortvalue_from_numpy(x.float().numpy()),
        unwrap=lambda binding: torch.from_numpy(binding.copy_outputs_to_cpu()[0]),
        exact=is_exact,
        spins=SPINS,
    )


def _session(layer: FeedForward, tokens: int, linear: Linear) -> Any:
    import onnxruntime as ort  # noqa: PLC0415
    from onnx import TensorProto  # noqa: PLC0415
    from onnx import helper as on  # noqa: PLC0415

    graph = Graph()
    fires = layer.gate or layer.up
    is_relu = layer.activation.name == "relu"
    kind, domain = ("Relu", "") if is_relu else ("Gelu", MICROSOFT)
    h = graph.node(kind, linear(graph, "x", fires), domain=domain)
    if layer.gate is not None:
        h = graph.node("Mul", h, linear(graph, "x", layer.up))
    linear(graph, h, layer.down)
    graph.nodes[-1].output[0] = "y"

    shape = [tokens, layer.d_model]
    ends = ([on.make_tensor_value_info(end, TensorProto.FLOAT, shape)] for end in "xy")
    # The oldest versions that say all this: any installed ONNX Runtime reads them.
    model = on.make_model(
        on.make_graph(graph.nodes, "feed-forward", *ends, graph.constants),
        opset_imports=[on.make_opsetid("", 17), on.make_opsetid(MICROSOFT, 1)],
        ir_version=8,
    )
    options = ort.SessionOptions()
    _pool(torch.get_num_threads())
    options.use_per_session_threads = False
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@cache
def _pool(threads: int) -> None:
    """One pool for all sessions, as a model's layers have; its threads spin between calls, as they
    do by default. Pools of their own would spin on each other's cores: 9 times slower.
    """
    import onnxruntime as ort  # noqa: PLC0415

    ort.set_global_thread_pool_sizes(threads, 1)

"""Every private name of torch, Numba and transformers that is relied on: an upgrade that takes one
away fails here, by its name. A private name that no line here knows of fails, too.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from numba import njit
from torch import nn

import reluctant

SOURCES = Path(reluctant.__file__).parent
ROOTS = (SOURCES, SOURCES.parents[1] / "tools")
# Of Python's own library; and strings of ours that are no names of others.
KNOWN = {"_asdict", "_exit", "_fields", "_replace"} | {
    "_of_",
    "_to_",
    "_reluctant",
    "_token_id",
    "_padding_idx",
}


def numba_dispatcher() -> Any:
    return njit(cache=True)(numba_dispatcher)


@cache
def numba_library() -> Any:
    compiled = njit(lambda x: x)
    compiled(1)
    return next(iter(compiled.overloads.values())).library


class Arguments:
    """Of a class's constructor, as attributes."""

    def __init__(self, kind: type) -> None:
        self.__dict__.update(inspect.signature(kind).parameters)


# Name -> what has it, as the code relies on it.
OWNERS: dict[str, Callable[[], Any]] = {
    # Modules: what an nn.Module keeps in its dictionary.
    "_parameters": lambda: nn.Linear(1, 1),
    "_buffers": lambda: nn.Linear(1, 1),
    "_modules": lambda: nn.Linear(1, 1),
    "_forward_hooks": lambda: nn.Linear(1, 1),
    "_forward_pre_hooks": lambda: nn.Linear(1, 1),
    "_backward_hooks": lambda: nn.Linear(1, 1),
    "_backward_pre_hooks": lambda: nn.Linear(1, 1),
    "_has_any_global_hook": lambda: torch.nn.modules.module,
    "_DropoutNd": lambda: torch.nn.modules.dropout,
    "_weight": lambda: Arguments(nn.Embedding),
    # Torch's Transformer layers.
    "_ff_block": lambda: nn.TransformerEncoderLayer,
    "_sa_block": lambda: nn.TransformerEncoderLayer,
    "_mha_block": lambda: nn.TransformerDecoderLayer,
    # Which weights they are, and what a call is under.
    "_version": lambda: torch.zeros(1),
    "_C": lambda: torch,
    "_are_functorch_transforms_active": lambda: torch._C,
    "_len_torch_dispatch_stack": lambda: torch._C,
    "_is_tracing": lambda: torch._C,
    "_len_torch_function_stack": lambda: torch._C,
    "_get_function_stack_at": lambda: torch._C,
    "_make_wrapper_subclass": lambda: torch.Tensor,
    "_device": lambda: sys.modules[import_module("torch.utils._device").__package__],
    "_post_accumulate_grad_hooks": lambda: nn.Linear(1, 1).weight,
    "_current_level": lambda: torch.autograd.forward_ad,
    "_pytree": lambda: torch.utils,
    "_current_graph_task_id": lambda: torch._C,
    "_functorch": lambda: torch._C,
    # Dense products, and the benchmark's peers.
    "_linear_pointwise": lambda: torch.ops.mkldnn,
    "_reorder_linear_weight": lambda: torch.ops.mkldnn,
    "_make_per_channel_quantized_tensor": lambda: torch,
    "_dynamo": lambda: torch,
    "_disable_dynamo": lambda: torch,
    "_inductor": lambda: torch,
    # How transformers decodes.
    "_prepare_generation_config": lambda: transformers.GenerationMixin,
    "_valid_auto_compile_criteria": lambda: transformers.GenerationMixin,
    "_compiled_call_impl": lambda: nn.Linear(1, 1),
    # Numba's cache of compiled code.
    "_cache": numba_dispatcher,
    "_cache_file": lambda: numba_dispatcher()._cache,
    "_source_stamp": lambda: numba_dispatcher()._cache._cache_file,
    # How it compiles what other functions call (kernels/compile.py).
    "_compiler": numba_dispatcher,
    "_engine": lambda: numba_library().codegen,
    "_linking_libraries": numba_library,
    "_reload_init": numba_library,
    "_final_module": numba_library,
    "_get_module_for_linking": numba_library,
    "_finalize_dynamic_globals": numba_library,
    "_finalized": numba_library,
}


@pytest.mark.parametrize("name", OWNERS)
def test_it_is_there(name: str) -> None:
    owner = OWNERS[name]()
    assert hasattr(owner, name), f"{owner!r} has no {name} any more"


def test_numbas_cache_goes_by_a_version() -> None:
    """Another `_version` than torch's."""
    assert hasattr(numba_dispatcher()._cache._cache_file, "_version")


def test_no_other_is_used() -> None:
    trees = [ast.parse(file.read_text("utf-8")) for root in ROOTS for file in root.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    ours = {name for node in nodes for name in defined(node)} | KNOWN
    all_used = {name for node in nodes for name in used(node)}
    assert all_used - ours - OWNERS.keys() == set(), "add these to OWNERS, with what has them"
    assert OWNERS.keys() - all_used == set(), "these are used no more"


def defined(node: ast.AST) -> Iterator[str]:
    """Names that a line of ours makes."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
            yield name
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
            yield name
        case ast.Assign(targets=[ast.Name(id="__slots__")], value=ast.Tuple(elts=names)):
            yield from (each.value for each in names if isinstance(each, ast.Constant))


def used(node: ast.AST) -> Iterator[str]:
    """Private names that a line of ours asks for: as an attribute, an import or a string."""
    found: list[str] = []
    match node:
        case ast.Attribute(attr=name):
            found = [name]
        case ast.ImportFrom(module=module, names=names):
            found = [*(module or "").split("."), *(each.name for each in names)]
        case ast.Constant(value=str(text)):
            found = [text]
    yield from (name for name in found if re.fullmatch(r"_[a-zA-Z]\w*", name))

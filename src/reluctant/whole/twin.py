"""A second model on the same weights, so that both can take turns without twice the memory."""

import copy

import torch
from torch import nn

from reluctant.errors import ReluctantError
from reluctant.surgery import Report
from reluctant.whole.load import one_line


def twin(model: nn.Module) -> nn.Module:
    """Copy the modules but not the parameters: both models hold the same ones. Buffers are copied,
    too, as a forward may write into them, such as counts or what it has seen before.

    >>> model = nn.BatchNorm1d(2)
    >>> other = twin(model)
    >>> other.weight is model.weight, other.running_mean is model.running_mean
    (True, False)
    """
    try:
        return copy.deepcopy(model, {id(each): each for each in model.parameters()})
    except Exception as error:
        raise ReluctantError(f"this model cannot be copied: {one_line(error)}") from error


def part(model: nn.Module, report: Report) -> None:
    """Give back to `model` the memory layout that its twin's engines have changed.

    The served layers' second matrices (transposed in memory while they are served) become tensors
    of its own. What is timed as "before" is then the model as it was.
    """
    engines = (entry.engine for entry in report.swapped)
    served = {id(engine.neurons.down.weight) for engine in engines if engine is not None}
    own: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) in served:
                if id(weight) not in own:
                    plain = weight.detach().clone(memory_format=torch.contiguous_format)
                    own[id(weight)] = nn.Parameter(plain, requires_grad=weight.requires_grad)
                module._parameters[name] = own[id(weight)]

"""A model as two files in a folder: its config as JSON, its weights as safetensors."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reluctant.activations import Activation, names
from reluctant.errors import ReluctantError
from reluctant.files import write_atomic
from reluctant.transformer.config import TransformerConfig
from reluctant.transformer.model import Transformer

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save(model: Transformer, folder: str | Path) -> None:
    """Write the model to the folder, which is made if need be; each file is written atomically.

    Weights that are shared are written once. The weights' file repeats the config, so that `load`
    notices files of two different saves, and names the weights that are not trained. Engines may be
    in place: they are not saved.

    Raises ReluctantError if safetensors is not installed, or for an activation without a name.
    """
    safetensors, folder, values = _safetensors(), Path(folder), asdict(model.config)
    if isinstance(activation := model.config.activation, Activation):
        if activation.name not in names():
            raise ReluctantError(
                f"a file holds an activation by its name, and {activation.name!r} is not known: "
                "call reluctant.register_activation first, in the program that loads it, too"
            )
        values["activation"] = activation.name
    text = json.dumps(values, indent=2) + "\n"
    named = _tensors(model)
    frozen = [n for n, t in named.items() if isinstance(t, nn.Parameter) and not t.requires_grad]
    metadata = {"config": text, "frozen": json.dumps(frozen)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in named.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, safetensors.torch.save(tensors, metadata))
    write_atomic(folder / CONFIG, text)


def load(folder: str | Path) -> Transformer:
    """Read what `save` wrote: a model on the CPU, in eval mode, in the dtype it was saved in.

    Raises ReluctantError if safetensors or a file is missing, if a file cannot be read, and if
    config and weights do not belong together.
    """
    safetensors, folder = _safetensors(), Path(folder)
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        written = json.loads(metadata.get("config", "{}"))
        frozen = json.loads(metadata.get("frozen", "[]"))
    except Exception as error:
        raise ReluctantError(
            f"expected {CONFIG} and {WEIGHTS}, as written by `save`, in {folder}: {error}"
        ) from error
    try:
        model = Transformer(TransformerConfig(**values))
    except TypeError as error:
        raise ReluctantError(f"{folder / CONFIG} is not a TransformerConfig: {error}") from error
    differ = [k for k in written if written[k] != values.get(k) and "dropout" not in k]
    if differ:
        raise _mismatch(folder, f"the weights were saved with another {', '.join(differ)}")
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not (dtype := dtypes.pop()).is_floating_point:
        raise _mismatch(folder, "the weights are not of one floating dtype")
    model = model.to(dtype).eval()
    if alone := sorted(_tensors(model).keys() ^ tensors.keys()):
        raise _mismatch(folder, f"only one of them has {', '.join(alone)}")
    try:
        model.load_state_dict(tensors, strict=False)  # the other names of shared ones are missing
    except RuntimeError as error:
        raise _mismatch(folder, str(error)) from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return model


def _tensors(model: Transformer) -> dict[str, Tensor]:
    """Parameters and tables of positions, each once, under the first of its names."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


def _mismatch(folder: Path, how: str) -> ReluctantError:
    return ReluctantError(
        f"expected config and weights of one model in {folder}; {how}: save it again"
    )


def expect_safetensors() -> None:
    """Raises ReluctantError if safetensors is not installed."""
    _safetensors()


def _safetensors() -> Any:
    try:
        import safetensors.torch  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ReluctantError(
            f"saving and loading need the package safetensors ({error}): "
            "pip install 'reluctant[hf]'"
        ) from error
    return safetensors

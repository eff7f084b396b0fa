"""Puts engines under a live model's feed-forward layers, and takes them out."""

from collections.abc import Collection
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.announce import announced
from reluctant.engine import Engine
from reluctant.errors import ReluctantError
from reluctant.kernels.few import MAX_TOKENS
from reluctant.linear import LEAST, compiled
from reluctant.surgery.agree import agree
from reluctant.surgery.attentions import AttentionSeat
from reluctant.surgery.find import LOOKED_FOR, examine
from reluctant.surgery.gain import SPARSE, gain
from reluctant.surgery.inline import prove, show
from reluctant.surgery.linears import HeadSeat, MapSeat, head_of, is_map
from reluctant.surgery.modes import is_transformed, plainly
from reluctant.surgery.outside import outside
from reluctant.surgery.report import Entry, MapEntry, Report
from reluctant.surgery.seat import Seat
from reluctant.surgery.site import Site, Unfit
from reluctant.surgery.still import still
from reluctant.surgery.swap import map_seat_of, parts_of_layers, put_in, put_map, seat_of, take_out
from reluctant.transformer.attention import MultiHeadAttention

WAYS = ("auto", "dense", "few", "many")
PARTS = ("feed_forward", "linear", "head")


@announced
def optimize(
    model: nn.Module,
    *,
    way: str = "auto",
    parts: Collection[str] = PARTS,
    narrow: bool = False,
    batch_invariant: bool = False,
) -> Report:
    """Let exact sparse engines compute the feed-forward layers of a model, in place, and kernels
    for few tokens its other linear maps.

    model: any torch model on the CPU. Served are FeedForward, nn.TransformerEncoderLayer and
        nn.TransformerDecoderLayer, and modules and nn.Sequentials that are Linear - activation -
        (dropout) - Linear, whatever their attributes are called.
    way: "auto" lets each call choose; "dense", "few" or "many" (tokens) pins one.
    parts: which of "feed_forward"; "linear", all other `nn.Linear`s that are large enough, and
        those of `reluctant.transformer`'s attention, however small; "head", the output projection
        of a transformers model, which `reluctant.generate` reads as little of as it has to, or of a
        `reluctant.transformer` one, for its `greedy`.
    narrow: of float32 weights that are all bfloat16 or all float16 numbers, as those of many
        checkpoints are, kernels for few tokens read 16-bit copies: half the bytes, the same bits of
        every result. The copies are made when first needed, beside the Parameters, which stay as
        they are, and anew when these change; the report has their memory.
    batch_invariant: in what is served a row's bits do not depend on the other rows, for any number
        of them, without gradients and outside compiled code; so are queries in the attention of
        `reluctant.transformer`. Many rows then take longer than torch's products; the report names
        the parts outside.

    Parameters keep their names, shapes and values, so saving, loading, copying and training go on
    as before; `restore` undoes it. Each layer is compared with the original here, on random input,
    and once more in its first real call: one that differs is put back, then with a
    ReluctantWarning. Called again, it serves what came in the meantime, and pins the way of all.

    Returns a `Report`, a table when printed. Raises ReluctantError, with nothing changed, if there
    is nothing of `parts` to be found or an argument is not what it should be.

    >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    >>> report = optimize(model)
    >>> [(entry.activation, entry.d_model, entry.d_ff) for entry in report.swapped]
    [('relu', 8, 32)]
    >>> model(torch.zeros(3, 8)).shape
    torch.Size([3, 8])
    >>> restore(model)
    1
    """
    _check_model(model)
    if way not in WAYS:
        raise ReluctantError(f"way: expected one of {', '.join(WAYS)}; got {way!r}")
    unknown = [part for part in parts if part not in PARTS] if not isinstance(parts, str) else parts
    if unknown or not parts:
        raise ReluctantError(f"parts: expected some of {', '.join(PARTS)}; got {parts!r}")
    _check_modes()
    how = {"narrow": narrow, "batch_invariant": batch_invariant}
    swapped: list[Entry] = []
    left: list[tuple[str, Unfit]] = []
    new: list[nn.Module] = []
    try:
        with plainly():
            _take_out_maps(model)  # as the model's own they are looked at
            for name, module in list(model.named_modules()) if "feed_forward" in parts else []:
                found = _look_at(module, way, how)
                if isinstance(found, Site):
                    found = _serve(module, found, way, how)
                    if isinstance(found, Seat):
                        new.append(module)
                if isinstance(found, Seat):
                    swapped.append(_served(name, found, module in new))
                elif found is not None:
                    left.append((name, found))
            maps = _put_maps(model, parts, new, how)
            own = batch_invariant and "linear" in parts
            attentions = _put_attentions(model, new) if own else ()
        if not (swapped or maps or attentions or any(unfit.refused for _, unfit in left)):
            raise ReluctantError(_nothing(model, [_left(*each) for each in left]))
    except BaseException:
        for module in reversed(new):
            take_out(module)
        raise
    refused = tuple(_left(name, unfit) for name, unfit in left if unfit.refused)
    untouched = tuple(_left(name, unfit) for name, unfit in left if not unfit.refused)
    outer = outside(model) if batch_invariant else None
    return Report(tuple(swapped), refused, untouched, maps, outer, attentions)


def _take_out_maps(model: nn.Module) -> None:
    for module in model.modules():
        if map_seat_of(module) is not None:
            take_out(module)


def _put_maps(
    model: nn.Module, parts: Collection[str], new: list[nn.Module], how: dict[str, bool]
) -> tuple[MapEntry, ...]:
    """Serve the linear maps that are in no served feed-forward layer; adds them to `new`."""
    inside = parts_of_layers(model)
    steps = _maps_of_steps(model)
    head = head_of(model)
    entries = list[MapEntry]()
    for name, module in list(model.named_modules()):
        is_head = module is head
        if ("head" if is_head else "linear") not in parts:
            continue
        least = 1 if how["batch_invariant"] or id(module) in steps else LEAST
        if id(module) in inside or not is_map(module, least):
            continue
        served = HeadSeat(**how) if is_head else MapSeat(**how)
        new.append(module)
        put_map(module, served)
        compiled(module.weight.dtype, narrow=how["narrow"])
        entries.append(MapEntry(name, module.in_features, module.out_features, served))
    return tuple(entries)


def _maps_of_steps(model: nn.Module) -> set[int]:
    """The maps of our own attention, by id: small ones gain by themselves nothing, but a program,
    which is a whole step of decoding in one call, wants all of them served.
    """
    found = (module for module in model.modules() if type(module) is MultiHeadAttention)
    return {id(each) for module in found for each in module.children()}


def _put_attentions(model: nn.Module, new: list[nn.Module]) -> tuple[str, ...]:
    """Serve the attention of our own Transformer; adds the modules to `new`."""
    found = [(n, m) for n, m in model.named_modules() if type(m) is MultiHeadAttention]
    for _, module in found:
        new.append(module)
        put_map(module, AttentionSeat())
    return tuple(name for name, _ in found)


def restore(model: nn.Module) -> int:
    """Undo `optimize`: original classes, methods and attributes. Copies, too.

    Returns how many layers were put back. Raises ReluctantError if model is no nn.Module.
    """
    _check_model(model)
    return sum(take_out(module) for module in list(model.modules()))


def refresh(model: nn.Module) -> int:
    """Tell the engines that weights were written behind torch's back (`.data`, NumPy).

    What else was found out about the layers is found out again at their next calls. Returns how
    many engines were told. Raises ReluctantError if model is no nn.Module.
    """
    _check_model(model)
    seats = [seat for module in model.modules() if (seat := seat_of(module))]
    for seat in seats:
        seat.engine.refresh()
        seat.forget()
    for module in model.modules():
        if (map_seat := map_seat_of(module)) is not None:
            map_seat.forget()
    return len(seats)


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ReluctantError(f"expected a model, an nn.Module; got {type(model).__name__}")


def _check_modes() -> None:
    """Refuse to try layers out where what they compute is watched, changed or only made up."""
    if is_transformed():
        raise ReluctantError(
            "optimize tries layers out, and was called inside a mode or transform of torch "
            "(TorchFunctionMode, TorchDispatchMode, FakeTensorMode, torch.func, a tracer or "
            "compiler), which would see that, or change it: call it outside"
        )


def _look_at(module: nn.Module, way: str, how: dict[str, bool]) -> Seat | Site | Unfit | None:
    """The module's layer. One that cannot even be looked at does not keep others from being served:
    what it raises is the reason.
    """
    try:
        return _serve_again(module, way, how) or examine(module)
    except Exception as error:
        return _raised(error)


def _raised(error: Exception) -> Unfit:
    text = " ".join(str(error).split())
    return Unfit(f"trying it out raised {type(error).__name__}: {text}", refused=True)


def _serve_again(module: nn.Module, way: str, how: dict[str, bool]) -> Seat | None:
    """Keep a layer that is served already, if it is shown to be the same one as then. One that has
    changed since starts anew.
    """
    seat = seat_of(module)
    if seat is not None and all(getattr(seat.engine, name) == how[name] for name in how):
        seat.forget()
        with suppress(Unfit):
            if seat.site.whole(module) and seat.prove(module):
                if seat.site.row is not None:
                    show(seat, module, prove(module, seat.site))
                seat.engine.way = way
                return seat
    take_out(module)
    return None


def _serve(module: nn.Module, site: Site, way: str, how: dict[str, bool]) -> Seat | Unfit:
    """Put an engine into the module if it computes what the module does."""
    shown = list[Any]()
    try:
        parts = site.up, site.down, site.activation
        rest: dict[str, Any] = {"gate": site.gate, "norm": site.norm, "way": way, **how}
        engine = Engine(*parts, **rest)
        if site.row is not None:
            shown = prove(module, site)
        with still(module, keeps=site.row is not None) as twin:
            _compare(twin(module), site, engine)
        seat = put_in(module, site, engine, shown)
    except (ReluctantError, Unfit) as error:
        return _unfit(site, str(error), refused=getattr(error, "refused", True))
    except Exception as error:
        return _unfit(site, str(_raised(error)), refused=True)
    engine.calls.update(dict.fromkeys(engine.calls, 0))
    return seat


def _compare(module: nn.Module, site: Site, engine: Engine) -> None:
    """Raise Unfit unless the engine's result is the module's, for 1, 3 and 17 random tokens."""
    generator, way = torch.Generator("cpu").manual_seed(0), engine.way
    xs, ours = list[Tensor](), list[Tensor]()
    for tokens in (1, 3, MAX_TOKENS + 1) if site.leading else (1,):
        shape = (1,) * (site.leading - 1) + (tokens,) if site.leading else ()
        x = torch.randn(*shape, site.d_model, generator=generator, device="cpu")
        xs.append(x.to(site.up.weight.dtype))
        # The question is whether this is the layer. The kernels for many tokens are compiled when a
        # call first wants them.
        engine.way = "dense" if way == "auto" and tokens > MAX_TOKENS else way
        ours.append(engine(xs[-1]))
    engine.way = way
    if site.row is None:
        theirs = [getattr(module, site.method)(x) for x in xs]
    else:  # a few of torch's functions, for which the number of tokens is all the same
        theirs = [site.original(_rows(xs, site.d_model))]
    if not agree(site, *(_rows(each, site.d_model) for each in (xs, ours, theirs))):
        raise Unfit("on random input the engine's result is not the layer's: please report this")


def _rows(tensors: list[Tensor], d_model: int) -> Tensor:
    return torch.cat([tensor.reshape(-1, d_model) for tensor in tensors])


def _unfit(site: Site, reason: str, *, refused: bool) -> Unfit:
    unfit = Unfit(reason, refused=refused)
    unfit.activation = site.activation.name
    unfit.d_model, unfit.d_ff = site.d_model, site.d_ff
    return unfit


def _served(name: str, seat: Seat, new: bool) -> Entry:
    site = seat.site
    reason = "" if new else "served already"
    sizes = site.d_model, site.d_ff
    return Entry(
        *(name, site.activation.name, *sizes, reason, seat.engine, gain(seat.engine)),
        training="" if gain(seat.engine) != SPARSE else seat.engine.trainer.why_torch,
    )


def _left(name: str, unfit: Unfit) -> Entry:
    return Entry(name, unfit.activation, unfit.d_model, unfit.d_ff, unfit.reason)


def _nothing(model: nn.Module, untouched: list[Entry]) -> str:
    text = f"found no feed-forward layer in this {type(model).__name__}: looked for {LOOKED_FOR}"
    for entry in untouched[:5]:
        text += f"; {entry.name or 'the model itself'}: {entry.reason}"
    if len(untouched) > 5:
        text += f"; and {len(untouched) - 5} more"
    return text

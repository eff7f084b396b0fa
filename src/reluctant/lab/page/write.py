"""The two pages, written whole or not at all."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reluctant.errors import ReluctantError
from reluctant.files import check_writable, write_atomic
from reluctant.lab.page.embed import rounded
from reluctant.lab.page.render import check_installed, render

LIMIT = 10_000_000  # bytes: what a phone still opens without a thought
_INSPECTION = ("model", "text", "totals", "layers", "sentences", "walk")
_STUDY = ("machine", "quick", "seeds", "glance", "claims")
_CONTEXTS = 3  # of a neuron, on a page that would be too large
_COMMON = 200  # tokens with the density of each, on such a page


def check_page(path: str | Path) -> None:
    """Refuse, before a long run, a page that could not be written after it.

    Raises:
        ReluctantError: jinja2 is missing, or the path cannot be written to.
    """
    check_writable(Path(path))
    check_installed()


def write_inspection(record: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of one model's feed-forward layers to `path`, atomically.

    The file needs nothing beside it: it holds data, script, style and the charting library, makes
    no request to any network, and opens from a disk. Floats are rounded to five digits. A page
    above 10 MB loses neurons (those with the smallest share of the output's norm first) until it
    fits, and says so.

    Args:
        record: what `reluctant inspect --json` writes, as a dictionary.
        path: the HTML file; its folder exists.

    Raises:
        ReluctantError: jinja2 is missing; `record` is not such a record; the path cannot be
            written to; or the page stays above 10 MB with eight neurons a layer.

    >>> from tempfile import TemporaryDirectory
    >>> record = {"format": 1, "model": {"name": "none"}, "text": {}, "totals": {}}
    >>> record |= {"layers": [], "sentences": [], "walk": None}
    >>> with TemporaryDirectory() as folder:
    ...     write_inspection(record, Path(folder) / "page.html")
    ...     (Path(folder) / "page.html").read_text()[:15]
    '<!doctype html>'
    """
    path = Path(path)
    check_page(path)
    data = _checked(record, _INSPECTION, "record of reluctant inspect")
    title = f"{data['model']['name']} · reluctant inspect"
    for smaller in _ever_smaller(data):
        page = render("inspection", title, smaller).encode()
        if len(page) <= LIMIT:
            return write_atomic(path, page)
    raise ReluctantError(
        f"expected a page of at most {LIMIT / 1e6:.0f} MB, got {len(page) / 1e6:.1f} MB with eight "
        "neurons a layer: inspect fewer sentences, or shorter ones; --json has everything"
    )


def write_study(study: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of the documents' claims, measured, to `path`, atomically.

    Args:
        study: what `reluctant study` keeps, as a dictionary.
        path: the HTML file; its folder exists.

    Raises:
        ReluctantError: jinja2 is missing; `study` is not a study; the path cannot be written to; or
            the page would be above 10 MB.

    >>> from tempfile import TemporaryDirectory
    >>> study = {"format": 1, "machine": "a laptop", "quick": True, "seeds": [1]}
    >>> study |= {"glance": {"title": "At a glance", "columns": [], "rows": []}, "claims": []}
    >>> with TemporaryDirectory() as folder:
    ...     write_study(study, Path(folder) / "study.html")
    """
    path = Path(path)
    check_page(path)
    data = _checked(study, _STUDY, "study of reluctant study")
    page = render("study", "First up, then down, measured · reluctant study", data).encode()
    if len(page) > LIMIT:
        raise ReluctantError(
            f"expected a page of at most {LIMIT / 1e6:.0f} MB, got {len(page) / 1e6:.1f} MB: keep "
            "fewer points in its charts, or fewer rows in its tables"
        )
    write_atomic(path, page)


def _checked(value: Mapping[str, Any], keys: tuple[str, ...], what: str) -> dict[str, Any]:
    missing = [key for key in keys if key not in value]
    if missing or value.get("format") != 1:
        got = f"no {', '.join(missing)}" if missing else f"format {value.get('format')!r}"
        raise ReluctantError(
            f"expected a {what} in format 1, got {got}: make it anew with this version"
        )
    data: dict[str, Any] = rounded(value)
    return data


def _ever_smaller(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The record, then copies of it with half as many neurons a layer each time, down to eight."""
    yield data
    keep = max((len(layer["neurons"]) for layer in data["layers"]), default=0)
    while keep > 8:
        keep = max(8, keep // 2)
        layers = [_shorter(layer, keep) for layer in data["layers"]]
        yield data | {"layers": layers, "shortened": {"neurons": keep, "contexts": _CONTEXTS}}


def _shorter(layer: dict[str, Any], keep: int) -> dict[str, Any]:
    largest = sorted(layer["neurons"], key=lambda neuron: -(neuron["norm_share"] or 0))[:keep]
    neurons = [one | {"contexts": one["contexts"][:_CONTEXTS]} for one in largest]
    density = layer["density"]
    common = sorted(density["by_token"], key=lambda token: -token["count"])[:_COMMON]
    return layer | {"neurons": neurons, "density": density | {"by_token": common}}

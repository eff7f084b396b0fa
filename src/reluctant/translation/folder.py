"""Where the model is that translates."""

import json
import os
from pathlib import Path

from reluctant.errors import ReluctantError
from reluctant.files import expanded

VARIABLE = "RELUCTANT_MODEL"
KEPT = Path("kept", "en-de")
CONFIG = "config.json"


def find_model(given: str | Path | None = None) -> Path:
    """The folder of the model to use.

    That is `given`; otherwise what the environment variable RELUCTANT_MODEL names; otherwise
    kept/en-de in the current folder, or in the checkout of the repository that this package is run
    from.

    Raises ReluctantError if what was named is no model's folder, or nothing was and there is none.

    >>> find_model("no/such/folder")
    Traceback (most recent call last):
        ...
    reluctant.errors.ReluctantError: expected a model's folder, got no/such/folder: there is none
    """
    if given is not None:
        return _expected(given, "")
    if named := os.environ.get(VARIABLE):
        return _expected(named, f" from {VARIABLE}")
    for root in (Path.cwd(), _checkout()):
        if root is not None and (root / KEPT / CONFIG).is_file():
            return root / KEPT
    raise ReluctantError(
        f"expected a model, got none, and there is no {KEPT} here: train one with "
        f"`reluctant train ... --out FOLDER` and say --model FOLDER (or set {VARIABLE}); a "
        f"checkout of the repository has one in {KEPT}"
    )


def is_hugging_face(folder: Path) -> bool:
    """Whether transformers wrote it: by the one entry that every config of theirs has, and none of
    `reluctant train`'s.

    Raises ReluctantError if there is no config that can be read.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReluctantError(
            f"expected a model's folder with a {CONFIG}, got {folder}: {error}"
        ) from error
    return isinstance(config, dict) and "model_type" in config


def _expected(named: str | Path, source: str) -> Path:
    folder = expanded(named)
    if not folder.is_dir():
        raise ReluctantError(f"expected a model's folder, got {named}{source}: there is none")
    if not (folder / CONFIG).is_file():
        raise ReluctantError(
            f"expected a model's folder, got {named}{source}: no {CONFIG} in it; `reluctant train "
            "... --out FOLDER` writes one"
        )
    return folder


def _checkout() -> Path | None:
    """The repository's root, if this package is where it is in a checkout."""
    package = Path(__file__).resolve().parents[1]
    root = package.parents[1]
    inside = package == root / "src" / "reluctant" and (root / "pyproject.toml").is_file()
    return root if inside else None

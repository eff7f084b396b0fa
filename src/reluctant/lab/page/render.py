"""A page from its template, with all that it needs inside it."""

from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from reluctant.errors import ReluctantError
from reluctant.lab.page import bundle
from reluctant.lab.page.embed import plain, safe_json
from reluctant.lab.page.words import words

if TYPE_CHECKING:
    from jinja2 import Environment


def render(page: str, title: str, data: dict[str, Any]) -> str:
    """The page `page` ("inspection" or "study") about `data`, as HTML.

    What may run is named by its hash in the page's Content-Security-Policy, which allows no request
    at all. Styles are not: Observable Plot writes rules of its own into each chart.

    Raises:
        ReluctantError: jinja2 is not installed.
    """
    environment = _environment()
    from markupsafe import Markup  # noqa: PLC0415  (comes with jinja2)

    scripts = [*bundle.vendored(), bundle.script(page)]
    if any("</script" in text.lower() for text in scripts) or "</style" in (
        bundle.style() + bundle.dark()
    ):
        raise ReluctantError("expected script and style that do not end their own element")
    policy = (
        f"default-src 'none'; script-src {' '.join(_hash(text) for text in scripts)}; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(f"{page}.html").render(
        title=plain(title),
        policy=policy,
        style=Markup(bundle.style()),
        dark=Markup(bundle.dark()),
        libraries=[Markup(text) for text in scripts[:-1]],
        script=Markup(scripts[-1]),
        data=Markup(safe_json(data)),
        words=Markup(safe_json(words())),
        word=lambda key: words()[key]["en"],
    )


def check_installed() -> None:
    """Refuse, before a long run, what its page could not be written with.

    Raises:
        ReluctantError: jinja2 is not installed.
    """
    _environment()


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _environment() -> "Environment":
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415
    except ImportError as error:
        raise ReluctantError(
            "expected jinja2, which is not installed, to write a page: "
            "pip install 'reluctant[lab]'; --json needs nothing"
        ) from error
    return Environment(
        loader=PackageLoader("reluctant.lab.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

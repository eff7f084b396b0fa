"""Data as it may stand inside a page: rounded, and escaped so that it stays data."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from reluctant.errors import ReluctantError

# `<` could begin a tag or a comment, `&` an entity, U+2028 and U+2029 end a line of JavaScript, and
# half of a surrogate pair has no UTF-8. All of them can stand in JSON's strings only.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
DIGITS = 5


def safe_json(value: Any) -> str:
    """`value` as JSON that may stand inside `<script type="application/json">`.

    >>> safe_json({"text": "</script><b>"})
    '{"text":"\\\\u003c/script\\\\u003e\\\\u003cb\\\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def rounded(value: Any) -> Any:
    """A copy with floats of five digits; what is not finite becomes None, a tuple a list.

    Raises:
        ReluctantError: something in it that JSON does not know.

    >>> rounded({"density": (0.0123456789, float("nan"))})
    {'density': [0.012346, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise ReluctantError(f"expected what JSON knows, got a {type(value).__name__}: {value!r:.60}")


def plain(text: str) -> str:
    """Text that UTF-8 can hold: half of a surrogate pair becomes a question mark.

    >>> plain("a\\ud800b")
    'a?b'
    """
    return text.encode("utf-8", "replace").decode("utf-8")

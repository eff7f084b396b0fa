"""The one exception of this library."""


class ReluctantError(ValueError):
    """A call that cannot be served: says what was expected, what came, and how to mend it."""


class ReluctantWarning(UserWarning):
    """Something was put back as it was, so results are right, but not as fast as asked for."""

"""The one exception of this library."""


class ReluctantError(ValueError):
    """A call that cannot be served: says what was expected, what came, and how to mend it."""


class ReluctantWarning(UserWarning):
    """Something is not as asked for: put back as it was, so that results are right but not as fast;
    or left out of a conversion."""

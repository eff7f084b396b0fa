"""The most memory that this process has had: in all, and in one step."""

import resource
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Memory:
    """Resident bytes, those of code and libraries among them.

    Linux lets a process start its own high-water mark anew; elsewhere each step has that of all
    before it.
    """

    def __init__(self) -> None:
        self._highest = 0

    @property
    def highest(self) -> int:
        """Of the whole process."""
        return max(self._highest, self.since())

    def restart(self) -> None:
        """Let `since` begin here."""
        self._highest = self.highest
        try:
            _CLEAR.write_text("5", encoding="ascii")
        except OSError:
            return

    def since(self) -> int:
        """Since `restart`."""
        return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    """Now; 0 where the system does not say."""
    return _status("VmRSS")


def _status(key: str) -> int:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(found[0]) * 1024 if found else 0

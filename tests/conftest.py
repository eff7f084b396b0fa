"""No test goes by what this machine's user has measured, or changes it."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from reluctant import tables, ways

# OpenVINO would report each import of it to its makers, from a process that is forked for that.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@pytest.fixture(autouse=True, scope="session")
def no_table_of_this_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    empty = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "folder", lambda: empty)
        ways.forget()
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads on cores that other tests are on, too, wait for each other all the time."""
    import torch  # noqa: PLC0415

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """`inspect` times layers for one call each."""
    import reluctant.lab.inspect as lab  # noqa: PLC0415

    monkeypatch.setattr(lab, "Options", partial(lab.Options, turn=0.0))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of this test's own, not there yet."""
    monkeypatch.setattr(tables, "folder", lambda: tmp_path / "cache")
    ways.forget()
    yield tmp_path / "cache"
    ways.forget()

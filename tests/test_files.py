import json
import os
from pathlib import Path

import pytest

from reluctant import files
from reluctant.errors import ReluctantError
from reluctant.files import check_writable, write_atomic, write_json


def test_replaces_what_was_there_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text("old")
    write_json(file, {"name": "слой", "share": 0.036})
    assert json.loads(file.read_text(encoding="utf-8")) == {"name": "слой", "share": 0.036}
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "figures.json"
    file.write_text("old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ReluctantError, match="No space"):
        write_atomic(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_nan_is_no_json_and_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "figures.json", {"share": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_mode_is_the_umasks_or_the_old_files(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.touch()
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        write_atomic(new, "")
        write_atomic(old, "")
    finally:
        os.umask(before)
    assert new.stat().st_mode & 0o777 == 0o640
    assert old.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_atomic(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.parametrize("path", ["no/such/folder/x.json", "."])
def test_refuses_before_the_run_what_cannot_be_written(tmp_path: Path, path: str) -> None:
    with pytest.raises(ReluctantError, match="expected a file"):
        check_writable(tmp_path / path)

import hashlib
import zipfile
from pathlib import Path

import pytest

from control_plane.demo.fetch import WHEEL_NAME, FetchFailed, open_bandit_wheel
from control_plane.domain.errors import DigestMismatch


def a_wheel(folder: Path) -> str:
    """A wheel that pip accepts under the pinned name; returns its sha256."""
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL_NAME, "w") as wheel:
        wheel.writestr("obp/__init__.py", "")
        wheel.writestr("obp-0.4.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: obp\nVersion: 0.4.1\n")
        wheel.writestr("obp-0.4.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("obp-0.4.1.dist-info/RECORD", "")
    return hashlib.sha256((folder / WHEEL_NAME).read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only package index pip may use."""
    folder = tmp_path / "index"
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_wheel_is_downloaded_once_and_kept(index: Path, tmp_path: Path) -> None:
    sha256 = a_wheel(index)
    first = open_bandit_wheel(tmp_path / "cache", sha256=sha256)
    (index / WHEEL_NAME).unlink()

    second = open_bandit_wheel(tmp_path / "cache", sha256=sha256)

    assert first == second
    assert list((tmp_path / "cache").iterdir()) == [first]


def test_other_bytes_than_the_pinned_ones_are_refused_and_not_kept(index: Path, tmp_path: Path) -> None:
    a_wheel(index)

    with pytest.raises(DigestMismatch, match="sha256:"):
        open_bandit_wheel(tmp_path / "cache")

    assert list((tmp_path / "cache").iterdir()) == []


def test_an_index_without_the_wheel_is_a_clear_error(index: Path, tmp_path: Path) -> None:
    index.mkdir()

    with pytest.raises(FetchFailed, match=r"could not fetch obp==0\.4\.1") as caught:
        open_bandit_wheel(tmp_path / "cache")

    assert str(tmp_path / "cache" / WHEEL_NAME) in str(caught.value)


def test_a_changed_file_in_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / WHEEL_NAME).write_bytes(b"something else")

    with pytest.raises(DigestMismatch):
        open_bandit_wheel(tmp_path)

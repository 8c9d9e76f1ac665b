"""Which code wrote a row: the package's version and, where it is known, the commit that it was built from."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OVERRIDE = "SUREFOOT_CODE_VERSION"
PACKAGE = Path(__file__).resolve().parent.parent
BUILD_COMMIT = "BUILD_COMMIT"  # a file that a build may leave in the package, for there is no checkout later
COMMIT_DIGITS = 12
MAX_CHARACTERS = 200


def code_version(package: Path = PACKAGE) -> str:
    """`SUREFOOT_CODE_VERSION` where it is set, else '0.1.0+ab12cd34ef56', else '0.1.0'."""
    if override := os.environ.get(OVERRIDE, "").strip():
        return override[:MAX_CHARACTERS]
    commit = _built_from(package) or _checked_out(package.parent / ".git")
    return _package_version() + (f"+{commit[:COMMIT_DIGITS]}" if commit else "")


def _package_version() -> str:
    try:
        return version("surefoot")
    except PackageNotFoundError:
        return "unknown"


def _built_from(package: Path) -> str:
    return _first_line(package / BUILD_COMMIT)


def _checked_out(git: Path) -> str:
    """The commit of a checkout, read from its files: starting git would cost every process a tenth of a second."""
    if git.is_file():  # a work tree beside the repository: the file names its folder
        git = git.parent / _first_line(git).removeprefix("gitdir: ")
    head = _first_line(git / "HEAD")
    if not head.startswith("ref: "):
        return head
    ref = head.removeprefix("ref: ")
    common = git / (_first_line(git / "commondir") or ".")
    return _first_line(common / ref) or _packed(common / "packed-refs", ref)


def _packed(packed_refs: Path, ref: str) -> str:
    lines = (line.split(" ") for line in _text(packed_refs).splitlines())
    return next((line[0] for line in lines if line[1:] == [ref]), "")


def _first_line(path: Path) -> str:
    return next(iter(_text(path).splitlines()), "").strip()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


CODE_VERSION = code_version()

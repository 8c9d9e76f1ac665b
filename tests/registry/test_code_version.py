from importlib.metadata import version
from pathlib import Path

import pytest

from control_plane.registry.code_version import code_version

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PACKAGE_VERSION = version("surefoot")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUREFOOT_CODE_VERSION", raising=False)


def a_package(checkout: Path) -> Path:
    package = checkout / "control_plane"
    package.mkdir()
    return package


def test_without_a_checkout_or_a_build_it_is_the_packages_version(tmp_path: Path) -> None:
    assert code_version(a_package(tmp_path)) == PACKAGE_VERSION


def test_a_checkout_adds_the_commit_of_its_branch(tmp_path: Path) -> None:
    refs = tmp_path / ".git" / "refs" / "heads"
    refs.mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (refs / "main").write_text(f"{COMMIT}\n")

    assert code_version(a_package(tmp_path)) == f"{PACKAGE_VERSION}+0123456789ab"


def test_a_branch_may_be_packed(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "packed-refs").write_text(f"# pack-refs with: peeled\n{COMMIT} refs/heads/main\n")

    assert code_version(a_package(tmp_path)) == f"{PACKAGE_VERSION}+0123456789ab"


def test_a_work_tree_beside_its_repository_is_followed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    own = tmp_path / "repository" / ".git" / "worktrees" / "tree"
    refs = tmp_path / "repository" / ".git" / "refs" / "heads"
    for folder in (tree, own, refs):
        folder.mkdir(parents=True)
    (tree / ".git").write_text(f"gitdir: {own}\n")
    (own / "HEAD").write_text("ref: refs/heads/topic\n")
    (own / "commondir").write_text("../..\n")
    (refs / "topic").write_text(f"{COMMIT}\n")

    assert code_version(a_package(tree)) == f"{PACKAGE_VERSION}+0123456789ab"


def test_a_detached_checkout_names_its_commit_itself(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text(f"{COMMIT}\n")

    assert code_version(a_package(tmp_path)) == f"{PACKAGE_VERSION}+0123456789ab"


def test_what_a_build_wrote_goes_before_a_checkout(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("f" * 40)
    package = a_package(tmp_path)
    (package / "BUILD_COMMIT").write_text(f"{COMMIT}\n")

    assert code_version(package) == f"{PACKAGE_VERSION}+0123456789ab"


def test_a_setting_overrides_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUREFOOT_CODE_VERSION", "release-7")

    assert code_version(a_package(tmp_path)) == "release-7"


def test_a_repository_that_cannot_be_read_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff\xfe")

    assert code_version(a_package(tmp_path)) == PACKAGE_VERSION

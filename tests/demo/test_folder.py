from pathlib import Path

import pytest

from control_plane.demo.folder import NotTheDemos, fresh_folder


def test_a_folder_that_the_demo_made_is_replaced(tmp_path: Path) -> None:
    folder = fresh_folder(tmp_path / "demo")
    (folder / "old").write_text("from the last run")

    assert [path.name for path in fresh_folder(tmp_path / "demo").iterdir()] == [".made-by-surefoot-demo"]


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")

    with pytest.raises(NotTheDemos, match="not made by the demo"):
        fresh_folder(tmp_path)

    assert (tmp_path / "thesis.txt").read_text() == "three years"

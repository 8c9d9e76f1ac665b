from pathlib import Path

import pytest

from control_plane.plan_file import read_plan, read_release

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "examples/plans").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_plan_can_be_armed(path: Path) -> None:
    assert read_plan(path.read_text()).steps[-1].share_bp == 10_000


@pytest.mark.parametrize("path", sorted((ROOT / "examples/releases").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_release_can_be_started(path: Path) -> None:
    release = read_release(path.read_text())

    assert isinstance(release.plan, str)
    assert read_plan((path.parent / release.plan).read_text()).name == "standard"
    assert {edge.downstream for edge in release.edges} < set(release.candidates)


def test_the_plan_in_the_readme_can_be_armed() -> None:
    text = (ROOT / "README.md").read_text()

    plan = read_plan(text.split("```yaml\n")[1].split("```")[0])

    assert [step.share_bp for step in plan.steps] == [100, 500, 2_500, 5_000, 10_000]

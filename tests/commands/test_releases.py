from pathlib import Path

import pytest

from tests.commands.conftest import Run
from tests.stories.world import World

PLAN = """
name: cli
steps: [{share: 1%}, {share: 100%}]
guardrails: [{metric: ctr}]
"""
RELEASE = """
candidates:
  home_feed: {home_feed}
  search: {search}
plan: plan.yaml
edges:
  - {{upstream: home_feed, downstream: search, share: 1%, held: 1h, on_rollback: cascade}}
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "home_feed", "search")


@pytest.fixture
def release(world: World, tmp_path: Path) -> Path:
    (tmp_path / "plan.yaml").write_text(PLAN)
    path = tmp_path / "release.yaml"
    first_digits = {surface: repr(world.candidate(surface)[:12]) for surface in ("home_feed", "search")}
    path.write_text(RELEASE.format(**first_digits))
    return path


def test_a_release_is_started_shown_and_rolled_back(surefoot: Run, release: Path) -> None:
    started = surefoot("release", "start", release)
    shown = surefoot("release", "status", 1)
    listed = surefoot("release", "status")
    back = surefoot("release", "rollback", 1, "--reason", "pager")

    assert (started.exit_code, shown.exit_code, back.exit_code) == (0, 0, 0), started.output
    assert started.output == shown.output == listed.output
    assert "search: rollout 2 pending at 0 %, waiting for home_feed to reach 1 %" in shown.output
    assert "search follows home_feed at 1 % for 1 h, guardrails green; goes back with it" in shown.output
    assert back.output.count("rolled_back at 0 %") == 2


def test_a_second_release_queues_behind_the_first(surefoot: Run, world: World, release: Path, tmp_path: Path) -> None:
    surefoot("release", "start", release)
    release.write_text(
        RELEASE.format(**{s: repr(world.candidate(s, name="next")[:12]) for s in ("home_feed", "search")})
    )

    refused = surefoot("release", "start", release)
    queued = surefoot("release", "start", release, "--on-busy", "queue")

    assert (refused.exit_code, "home_feed is busy with rollout 1" in refused.stderr) == (1, True)
    assert "home_feed: rollout 3 queued at 0 %, waiting for rollout 1 to end" in queued.output


def test_a_release_file_that_cannot_be_read_is_told_with_its_line(surefoot: Run, release: Path) -> None:
    release.write_text(release.read_text().replace("held: 1h", "held: soon"))

    refused = surefoot("release", "start", release)

    assert refused.exit_code == 1
    assert "line 7: edges[0].held: must be a duration" in refused.stderr


def test_a_plan_that_is_not_there_is_named(surefoot: Run, release: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").unlink()

    refused = surefoot("release", "start", release)

    assert (refused.exit_code, "plan.yaml cannot be read" in refused.stderr) == (1, True)

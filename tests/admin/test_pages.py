import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from control_plane.app import create_app
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import OnBusy
from control_plane.registry import arrivals, rollouts
from control_plane.settings import Settings
from tests.admin.showcase import Scene
from tests.admin.site import HOME_FEED, Site
from tests.builders import a_plan
from tests.http_client import in_process

PAGES = ("/", "/rollouts", "/releases", "/versions", "/history", "/freezes", "/webhooks")


@pytest.fixture
def visit(seeded: tuple[Path, Scene], tmp_path: Path) -> Iterator[httpx.Client]:
    shutil.copy(seeded[0], tmp_path / "registry.db")
    settings = Settings(data_dir=tmp_path, runs_scheduler=False)
    with in_process(create_app(settings, lambda: seeded[1].now)) as client:
        yield client


@pytest.fixture
def scene(seeded: tuple[Path, Scene]) -> Scene:
    return seeded[1]


def test_the_overview_shows_every_surface_with_its_phase_and_what_it_waits_for(visit: httpx.Client) -> None:
    page = text_of(visit.get("/"))

    assert re.search(r"Home feed ramping at 25 %", page)
    assert re.search(r"Related pins shadow", page)
    assert re.search(r"Search rolled back", page)
    assert re.search(r"Waiting: .* about until .* in ", page)
    assert "generation 8 on 2 of 2 runtimes" in page


def test_the_overview_names_what_is_quarantined_and_why(visit: httpx.Client) -> None:
    assert re.search(r"Quarantine [0-9a-f]{12} .*predicted clicks on search", text_of(visit.get("/")))


def test_a_rollout_s_page_marks_what_is_done_current_and_ahead(visit: httpx.Client, scene: Scene) -> None:
    page = visit.get(f"/rollouts/{scene.ramping}").text

    marks = re.findall(r'<li class="(\w+)"( aria-current="step")?>', page)
    assert [mark for mark, _ in marks] == ["done"] * 4 + ["current"] + ["next"] * 3
    assert [bool(current) for _, current in marks].index(True) == 4


def test_a_rollout_s_page_says_when_each_finished_step_was_entered(visit: httpx.Client, scene: Scene) -> None:
    page = visit.get(f"/rollouts/{scene.ramping}").text

    done = re.findall(r'<li class="done">.*?</li>', page, re.S)
    assert [len(re.findall(r'entered </span><time datetime="20', step)) for step in done] == [1] * 4


def test_a_withdrawn_rollout_is_not_called_rolled_back(site: Site) -> None:
    site.ramp()

    site.command("abort", reason="another one is better", operator="ada")

    assert "withdrawn" in text_of(site.client.get("/rollouts"))
    for path in ("/", f"/rollouts/{site.rollout_id}"):
        assert re.search(r"[Ww]ithdrawn by ada: another one is better", text_of(site.client.get(path)))


def test_every_rollout_is_shown_with_the_plan_it_is_under(visit: httpx.Client, scene: Scene) -> None:
    for path in ("/", f"/rollouts/{scene.ramping}"):
        assert re.search(r"under the plan “\w+", text_of(visit.get(path)))


def test_a_rollout_s_page_shows_each_gate_and_the_calibration(visit: httpx.Client, scene: Scene) -> None:
    page = visit.get(f"/rollouts/{scene.ramping}").text

    assert re.findall(r'<article class="tile \w+">\s*<header><h3>([^<]+) <', page)[:3] == [
        "Click rate",
        "Good-click rate",
        "Calibration",
    ]
    assert "effect-over-time" in page
    assert "reliability-plot" in page
    assert "By view type" in page


def test_a_rolled_back_rollout_says_why_and_offers_no_button(visit: httpx.Client, scene: Scene) -> None:
    page = visit.get(f"/rollouts/{scene.rolled_back}").text

    assert re.search(r"Rolled back by scheduler: predicted clicks on search are", page)
    assert f'action="/rollouts/{scene.rolled_back}' not in page
    assert 'class="tile bad"' in page


def test_a_verdict_s_page_leads_to_the_inputs_that_it_replays_from(visit: httpx.Client) -> None:
    page = visit.get("/verdicts/1").text

    assert "/v1/verdicts/1/inputs" in page
    assert visit.get("/v1/verdicts/1/inputs").status_code == 200


def test_every_link_of_every_page_leads_somewhere(visit: httpx.Client) -> None:
    seen, waiting = set[str](), ["/"]
    while waiting:
        path = waiting.pop()
        answer = visit.get(path)
        assert answer.status_code == 200, path
        seen.add(path)
        if answer.headers["content-type"].startswith("text/html") and len(seen) < 60:
            found = re.findall(r'(?:href|src)="(/[^"#]*)"', answer.text)
            waiting += [link for link in set(found) if link not in seen and link not in waiting]

    assert len(seen) > 30


def test_history_can_be_narrowed_to_a_surface(visit: httpx.Client) -> None:
    page = text_of(visit.get("/history?surface=search"))

    assert "roll back" in page
    assert "home_feed" not in page


def test_a_version_s_page_shows_its_parts_and_who_shares_them(visit: httpx.Client) -> None:
    version_id = re.findall(r'href="/versions/([0-9a-f]{16})"', visit.get("/versions?surface=search").text)[0]

    page = text_of(visit.get(f"/versions/{version_id}"))

    assert "Calibrator quarantined" in page
    assert re.search(r"Trunk sha256:[0-9a-f]{64} Also in [0-9a-f]{8} \(\w", page)


@pytest.mark.parametrize("path", ["/rollouts/999", "/versions/0123456789abcdef", "/verdicts/999", "/rollouts/x/hold"])
def test_what_does_not_exist_is_a_page_too(site: Site, path: str) -> None:
    answer = site.client.get(path)

    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("name", ["../pages.py", "%2e%2e%2fpages.py", "nothing.css", "..%2f..%2fapp.py"])
def test_only_static_files_are_served_as_such(site: Site, name: str) -> None:
    assert site.client.get(f"/static/{name}").status_code == 404


def test_pages_allow_no_script_style_frame_or_form_of_others(site: Site) -> None:
    answer = site.client.get("/")

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", answer.text)


def test_what_people_write_is_shown_and_never_run(site: Site) -> None:
    site.command("start", reason="<script>alert(1)</script>")

    page = site.read("/history")

    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page


def test_a_silent_scheduler_is_told_at_the_top(site: Site) -> None:
    never = text_of(site.client.get("/"))
    site.showcase.scheduler_ticked()
    alive = text_of(site.client.get("/"))
    site.showcase.now += timedelta(minutes=4)
    silent = text_of(site.client.get("/"))

    assert "No scheduler has ticked yet." in never
    assert "the last tick was" not in alive
    assert "The scheduler is silent: the last tick was 4 min ago." in silent


def test_a_lease_that_ran_out_is_told_too(site: Site) -> None:
    site.showcase.scheduler_ticked(lease_seconds=0)

    assert "No scheduler is at work: the last tick was just now." in text_of(site.client.get("/"))


def test_a_queued_rollout_is_shown_on_its_surface_and_says_whom_it_waits_for(site: Site) -> None:
    site.ramp()
    version_id = site.showcase.register(HOME_FEED, "joint-2026-04-01")
    with site.showcase.sessions.writing() as session:
        queued = arrivals.create(
            session, Surface(HOME_FEED), version_id, a_plan(), by="grace", now=site.showcase.now, on_busy=OnBusy.QUEUE
        )

    overview, own = text_of(site.client.get("/")), text_of(site.client.get(f"/rollouts/{queued.rollout_id}"))

    line = rf"once the surface is free: rollout {queued.rollout_id} of {version_id[:8]} ?, queued by grace"
    assert re.search(line, overview)
    assert f"Queued; waiting for rollout {site.rollout_id} to end." in own
    assert "ramping at 5 %" in overview


def test_a_stage_says_how_many_runtimes_serve_it_and_since_when_it_counts(site: Site) -> None:
    site.ramp()
    generation = site.state().generation

    before = text_of(site.client.get(f"/rollouts/{site.rollout_id}"))
    with site.showcase.sessions.writing() as session:
        rollouts.acknowledge(session, site.rollout_id, seen_generation=generation, at=site.showcase.now)
    after = text_of(site.client.get(f"/rollouts/{site.rollout_id}"))

    assert f"0 of 2 runtimes serve generation {generation}" in before
    assert "this stage begins with 95% of them" in before
    assert "this stage began at" in after


def test_an_unmonitored_step_is_called_so(site: Site) -> None:
    with site.showcase.sessions.writing() as session:
        steps = [{"share": "1%", "approvals": 1, "monitored": False}, {"share": "100%"}]
        rollouts.restart(
            session,
            site.rollout_id,
            plan=a_plan(steps=steps),
            by="ada",
            reason="no metrics there",
            now=site.showcase.now,
            seen_generation=None,
        )
    site.ramp()

    page = text_of(site.client.get(f"/rollouts/{site.rollout_id}"))

    assert "ramping at 1 %, unmonitored" in page
    assert "1 approval, unmonitored" in page
    assert "1 more needed; not " in page


def test_a_runtime_on_an_older_generation_is_marked(site: Site) -> None:
    site.command("start")

    assert "behind 4" in text_of(site.client.get("/"))


def test_a_replay_says_so_and_shows_its_own_time(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, runs_scheduler=False, clock_file=tmp_path / "clock")
    app = create_app(settings, _noon)

    with in_process(app) as client:
        page = text_of(client.get("/"))

    assert "Replayed event time: 2026-03-02 12:00:00 UTC" in page
    assert "replayed or simulated" in page


def test_a_fresh_deployment_tells_how_to_begin(tmp_path: Path) -> None:
    with in_process(create_app(Settings(data_dir=tmp_path, runs_scheduler=False), _noon)) as client:
        pages = [text_of(client.get(path)) for path in PAGES]

    assert "No surface yet" in pages[0]
    assert all("500" not in page for page in pages)


def text_of(answer: httpx.Response) -> str:
    """What a reader sees, on one line."""
    assert answer.status_code == 200, answer.text
    words = re.sub(r"<[^>]+>", " ", answer.text)
    return re.sub(r"\s+", " ", words).replace("\u202f", " ")


def _noon() -> datetime:
    return datetime(2026, 3, 2, 12, tzinfo=UTC)

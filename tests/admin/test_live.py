from control_plane.admin.live import mark_of
from control_plane.api.deps import Parts
from tests.admin.site import Site


def parts_of(site: Site) -> Parts:
    app = site.client._transport.app  # type: ignore[attr-defined]  # of the in-process client
    parts: Parts = app.state.parts
    return parts


def test_the_mark_changes_with_a_generation_and_not_with_time(site: Site) -> None:
    before = mark_of(parts_of(site))
    later = mark_of(parts_of(site))
    site.command("start")

    assert later == before
    assert mark_of(parts_of(site)) != before


def test_the_mark_changes_with_a_verdict(site: Site) -> None:
    site.ramp(0)
    before = mark_of(parts_of(site))

    site.showcase.check(site.rollout_id)

    assert mark_of(parts_of(site)) != before

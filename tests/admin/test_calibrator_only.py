from dataclasses import replace

import pytest

from control_plane.domain.model_version import digest_of
from control_plane.domain.rollout import OnBusy
from control_plane.registry import arrivals, model_versions
from tests.admin.site import HOME_FEED, Site
from tests.builders import a_plan

ONLY = "only its calibrator differs from stable"
AS_ALLOWED = "between steps as much as its loss budget surely allows"


@pytest.mark.parametrize("is_adaptive", [False, True])
def test_a_rollout_s_page_says_that_only_the_calibrator_differs_and_how_the_ramp_goes(
    site: Site, is_adaptive: bool
) -> None:
    """The site's own rollout, of another checkpoint, says neither."""
    showcase = site.showcase
    stable = site.state().stable
    assert stable is not None
    with showcase.sessions.writing() as session:
        known = model_versions.get(session, stable).manifest
        fitted_anew = replace(known.version, calibrator=digest_of(b"fitted anew"))
        candidate = model_versions.register(
            session, replace(known, version=fitted_anew), artifact_uri="s3://models/new", by="ada", now=showcase.now
        )
        plan = a_plan(adaptive=is_adaptive)
        made = arrivals.create(
            session, HOME_FEED, candidate.version_id, plan, by="ada", now=showcase.now, on_busy=OnBusy.QUEUE
        )

    page = site.read(f"/rollouts/{made.rollout_id}")

    assert ONLY in page
    assert (AS_ALLOWED in page) is is_adaptive
    other = site.read(f"/rollouts/{site.rollout_id}")
    assert ONLY not in other
    assert AS_ALLOWED not in other

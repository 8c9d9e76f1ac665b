from dataclasses import fields

import pytest

from control_plane.domain.events import Engagement, EventKind, Exposure, ShadowScore
from control_plane.evidence.schema import SCHEMA_OF

EVENT_OF = {EventKind.EXPOSURE: Exposure, EventKind.SHADOW_SCORE: ShadowScore, EventKind.ENGAGEMENT: Engagement}


@pytest.mark.parametrize("kind", EventKind)
def test_the_log_keeps_every_field_of_an_event_and_no_other(kind: EventKind) -> None:
    assert set(SCHEMA_OF[kind].names) == {field.name for field in fields(EVENT_OF[kind])}

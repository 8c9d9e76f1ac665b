from typing import Any

import pytest

from control_plane.domain import event_types
from control_plane.domain.rollout import Phase
from control_plane.webhooks.slack import MAX_TEXT, message_of

PUBLIC_URL = "https://surefoot.example/"


def an_event(kind: str = "surefoot.rollout.rolled_back", subject: str = "home_feed", **data: Any) -> dict[str, Any]:
    rollout = {"surface": "home_feed", "rollout_id": 12, "phase": kind.rpartition(".")[2], "candidate_bp": 2_500}
    shown = rollout if kind.startswith(event_types.ROLLOUT) else {}
    return {
        "type": kind,
        "subject": subject,
        "time": "2026-03-03T12:00:00+00:00",
        "data": {**shown, "by": "scheduler", "reason": "CTR fell", **data},
    }


def texts(message: dict[str, Any]) -> list[str]:
    section, context = message["blocks"]
    return [message["text"], section["text"]["text"], context["elements"][0]["text"]]


def test_a_roll_back_is_told_with_its_reason_and_a_link_to_its_page() -> None:
    fallback, section, context = texts(message_of(an_event(), public_url=PUBLIC_URL))

    assert fallback == "home_feed: rollout 12 was rolled back: CTR fell"
    assert section == ":leftwards_arrow_with_hook: *home_feed: rollout 12 was rolled back*\nCTR fell"
    assert context == (
        "by scheduler · 2026-03-03T12:00:00+00:00 · <https://surefoot.example/rollouts/12|open in Surefoot>"
    )


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_has_words(phase: Phase) -> None:
    fallback, *_ = texts(message_of(an_event(f"surefoot.rollout.{phase.value}"), public_url=PUBLIC_URL))

    assert fallback.startswith("home_feed: rollout 12 ")
    assert "{" not in fallback


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (an_event("surefoot.rollout.ramping"), "rollout 12 serves 25 %"),
        (an_event("surefoot.rollout.held"), "rollout 12 is held at 25 %"),
        (an_event(event_types.RAISED, phase="ramping"), "rollout 12 serves 25 %"),
        (an_event(event_types.QUARANTINED, digest="sha256:" + "ab" * 32), "sha256:abababababab is quarantined"),
        (an_event(event_types.RELEASED, digest="sha256:" + "ab" * 32), "sha256:abababababab is out of quarantine"),
        (
            an_event(
                event_types.SPLIT_CHANGED,
                split={"generation": 9, "stable": "a1", "candidate": "b2", "weights_bp": {"a1": 9_900, "b2": 100}},
            ),
            "home_feed: generation 9, stable a1, candidate b2 at 1 %",
        ),
        (an_event(event_types.FREEZE_DECLARED, freeze_id=3), "home_feed: frozen, freeze 3: CTR fell"),
        (an_event(event_types.FREEZE_LIFTED, "all surfaces", freeze_id=3), "all surfaces: freeze 3 was lifted"),
        (an_event(event_types.FREEZE_OVERRULED, freeze_id=3), "home_feed: freeze 3 was overruled"),
        (an_event(event_types.TEST, subject="oncall"), "oncall: surefoot.webhook.test"),
    ],
)
def test_every_type_has_words(event: dict[str, Any], told: str) -> None:
    assert told in texts(message_of(event, public_url=PUBLIC_URL))[0]


def test_a_reason_mentions_nobody_and_links_to_nothing() -> None:
    event = an_event(reason="<!channel> see <https://evil.example|here> & <@U123>")

    for text in texts(message_of(event, public_url=PUBLIC_URL))[:2]:
        assert "&lt;!channel&gt; see &lt;https://evil.example|here&gt; &amp; &lt;@U123&gt;" in text
        assert "<" not in text


def test_a_long_reason_is_cut_to_what_slack_takes() -> None:
    message = message_of(an_event(reason="<" * 10_000), public_url=PUBLIC_URL)

    assert all(0 < len(text) <= MAX_TEXT for text in texts(message))

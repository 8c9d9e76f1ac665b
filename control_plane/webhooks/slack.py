"""An event as a message that Slack, and whatever takes Slack's incoming webhooks, shows to people."""

from collections.abc import Mapping
from typing import Any

from control_plane.domain import event_types
from control_plane.domain.rollout import Phase

MAX_TEXT = 3_000  # characters of a section's text, by Slack's rules
MAX_REASON = 1_500  # escaped it may be longer, and there is more to say than the reason
DIGEST_CHARACTERS = 19  # "sha256:" and enough digits to know it by

VERBS = {
    Phase.QUEUED: "is queued",
    Phase.PENDING: "was created",
    Phase.WARMING: "is warming up",
    Phase.SHADOW: "runs in the shadow",
    Phase.RAMPING: "serves {share}",
    Phase.WATCHING: "serves {share}, still guarded",
    Phase.DONE: "is done: its candidate is stable",
    Phase.HELD: "is held at {share}",
    Phase.EXPIRED: "has expired at {share}",
    Phase.ROLLED_BACK: "was rolled back",
}
FREEZES = {
    event_types.FREEZE_DECLARED: "{surface}: frozen, freeze {freeze_id}",
    event_types.FREEZE_LIFTED: "{surface}: freeze {freeze_id} was lifted",
    event_types.FREEZE_OVERRULED: "{surface}: freeze {freeze_id} was overruled",
}
MARKS = {Phase.ROLLED_BACK: ":leftwards_arrow_with_hook:", Phase.HELD: ":raised_hand:", Phase.EXPIRED: ":hourglass:"}


def message_of(event: Mapping[str, Any], *, public_url: str) -> dict[str, object]:
    """Slack's JSON: blocks, and `text` for notifications and for what shows no blocks."""
    headline, link = _headline(event), _link(event, public_url)
    data = event["data"]
    reason = str(data.get("reason") or "")[:MAX_REASON]
    shown = f"{_mark(event)}*{_escaped(headline)}*" + (f"\n{_escaped(reason)}" if reason else "")
    small = [f"by {_escaped(str(data['by']))}"] if data.get("by") else []
    small += [_escaped(event["time"]), f"<{link}|open in Surefoot>"]
    return {
        "text": _escaped(headline + (f": {reason}" if reason else ""))[:MAX_TEXT],
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": shown[:MAX_TEXT]}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": " · ".join(small)[:MAX_TEXT]}]},
        ],
    }


def _headline(event: Mapping[str, Any]) -> str:
    data, kind = event["data"], str(event["type"])
    if kind.startswith(f"{event_types.ROLLOUT}."):
        verb = VERBS[Phase(data["phase"])].format(share=_percent(data["candidate_bp"]))
        return f"{data['surface']}: rollout {data['rollout_id']} {verb}"
    if kind == event_types.QUARANTINED:
        return f"{data['digest'][:DIGEST_CHARACTERS]} is quarantined and serves nowhere"
    if kind == event_types.RELEASED:
        return f"{data['digest'][:DIGEST_CHARACTERS]} is out of quarantine"
    if kind in FREEZES:
        return FREEZES[kind].format(surface=event["subject"], freeze_id=data["freeze_id"])
    if kind == event_types.SPLIT_CHANGED:
        return _split_headline(event["subject"], data["split"])
    return f"{event['subject']}: {kind}"


def _split_headline(surface: str, split: Mapping[str, Any]) -> str:
    weight_bp = split["weights_bp"].get(split["candidate"], 0)
    candidate = f", candidate {split['candidate']} at {_percent(weight_bp)}" if weight_bp else ""
    return f"{surface}: generation {split['generation']}, stable {split['stable']}{candidate}"


def _mark(event: Mapping[str, Any]) -> str:
    phase = event["data"].get("phase")
    mark = MARKS.get(Phase(phase)) if phase in list(Phase) else None
    return f"{mark} " if mark else ""


def _link(event: Mapping[str, Any], public_url: str) -> str:
    rollout_id = event["data"].get("rollout_id")
    page = f"rollouts/{rollout_id}" if isinstance(rollout_id, int) else "history"
    return f"{public_url.rstrip('/')}/{page}"


def _percent(share_bp: int) -> str:
    return f"{share_bp / 100:g} %"


def _escaped(text: str) -> str:
    """Slack's three control characters, so that a reason mentions nobody and links to nothing."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

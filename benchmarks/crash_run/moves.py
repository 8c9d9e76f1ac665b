"""A small model of the rules: which command leads from which phase to which, and what weight it leaves."""

from collections.abc import Mapping
from typing import Any

Plan = Mapping[str, Any]  # as it is stored with its rollout

ON_THE_WAY = ("warming", "shadow", "ramping", "watching")
ACTIVE = ("pending", *ON_THE_WAY, "held", "expired")
FORWARD = {
    ("warming", "shadow"),
    ("shadow", "ramping"),
    ("shadow", "watching"),
    ("ramping", "ramping"),
    ("ramping", "watching"),
    ("watching", "done"),
}
HOME: set[tuple[str | None, str | None]] = {(phase, "rolled_back") for phase in (*ACTIVE, "queued", "done")}
MOVES: dict[str, set[tuple[str | None, str | None]]] = {
    "create_surface": {(None, None)},
    "adopt": {(None, None)},
    "create": {(None, "pending")},
    "queue": {(None, "queued")},
    "dequeue": {("queued", "pending"), ("queued", "rolled_back")},
    "start": {("pending", "warming")},
    "advance": {*FORWARD},
    "skip": {*FORWARD},
    "hold": {(phase, "held") for phase in ON_THE_WAY},
    "resume": {(phase, back) for phase in ("held", "expired") for back in ON_THE_WAY},
    "approve": {(phase, phase) for phase in ("ramping", "watching", "held")},
    "expire": {(phase, "expired") for phase in ("shadow", "ramping", "watching", "held")},
    "renew_watch": {(phase, phase) for phase in ("ramping", "watching", "held", "expired")},
    "restart": {
        *((phase, begins) for phase in (*ON_THE_WAY, "held", "expired") for begins in ("warming", "shadow")),
        *((phase, phase) for phase in ("queued", "pending")),
    },
    "roll_back": {*HOME, (None, None)},  # what was adopted came by no rollout
    "make_way": {move for move in HOME if move[0] != "done"},
    "abort": {move for move in HOME if move[0] != "done"},
    "quarantine": {*HOME, (None, None)},
}


def broken_move(command: str, before: Mapping[str, Any], after: Mapping[str, Any], plan: Plan) -> str | None:
    """What is wrong with one change, in words; None if an uninterrupted run makes it, too."""
    was, becomes = before.get("rollout"), after.get("rollout")
    move = (None if was is None else was["phase"], None if becomes is None else becomes["phase"])
    if command not in MOVES:
        return "is no command"
    if move not in MOVES[command]:
        return f"leads from {move[0]} to {move[1]}"
    if is_raise(command, before, after):
        return _broken_raise(before, after, plan)
    if was is not None and becomes is not None and becomes["step"] != _step(command, was):
        return f"leads from step {was['step']} to {becomes['step']}"
    if "queued" in move and "pending" not in move:
        return None if _serving(before) == _serving(after) else "changes what serves, and its rollout only waits"
    return _broken_weight(command, before, after, plan) or _broken_stable(command, before, after)


def is_raise(command: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether an advance stayed in its step, for more weight there."""
    was, becomes = before.get("rollout"), after.get("rollout")
    if command != "advance" or was is None or becomes is None:
        return False
    return all(was[name] == becomes[name] for name in ("rollout_id", "phase", "step"))


def is_waiting(before: Mapping[str, Any]) -> bool:
    """Whether a change is about a rollout that had not come to its surface yet."""
    was = before.get("rollout")
    return was is not None and was["phase"] == "queued"


def _serving(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in ("rollout", "generation")}


def _step(command: str, was: Mapping[str, Any]) -> int:
    step: int = was["step"]
    if command in ("advance", "skip") and was["phase"] in ("shadow", "ramping"):
        return step + 1
    return -1 if command == "restart" else step


def _broken_raise(before: Mapping[str, Any], after: Mapping[str, Any], plan: Plan) -> str | None:
    was, steps = before["rollout"], plan.get("steps", [])
    most = _basis_points(steps[was["step"] + 1]["share"]) if was["step"] + 1 < len(steps) else 0
    if not plan.get("adaptive") or was["phase"] != "ramping":
        return f"stays {was['phase']} at step {was['step']}"
    if not before["candidate_bp"] < after["candidate_bp"] <= most:
        return f"leaves {after['candidate_bp']} basis points after {before['candidate_bp']}, with {most} as the most"
    return _broken_stable("advance", before, after)


def _broken_weight(command: str, before: Mapping[str, Any], after: Mapping[str, Any], plan: Plan) -> str | None:
    """A step that is entered has its plan's weight; what stays in one keeps what it has, adaptive or not."""
    rollout = after.get("rollout")
    phase = None if rollout is None else rollout["phase"]
    if rollout is not None and phase in ("ramping", "watching") and command in ("advance", "skip"):
        expected = _basis_points(plan["steps"][rollout["step"]]["share"])
    elif phase in ("ramping", "watching", "held", "expired"):
        expected = before["candidate_bp"]
    else:
        expected = 0
    if after["candidate_bp"] != expected:
        return f"leaves {after['candidate_bp']} basis points, not {expected}"
    return None


def _broken_stable(command: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Stable changes by adoption, by a rollout that is done, and on the way home from a bad stable."""
    was, is_now = before.get("stable"), after["stable"]
    rollout = after.get("rollout")
    if is_now == was or command in ("adopt", "create_surface"):
        return None
    if rollout is not None and rollout["phase"] == "done":
        return None if is_now == before["candidate"] else f"makes {is_now} stable, not its candidate"
    if command in ("roll_back", "quarantine"):
        return None if is_now == before["last_proven"] else f"lands on {is_now}, not on the last proven"
    return f"changes stable from {was} to {is_now}"


def _basis_points(share: str) -> int:
    return int(share.removesuffix("bp"))

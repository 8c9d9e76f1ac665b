"""The types of the events that leave the registry, as subscribers name them."""

from control_plane.domain.rollout import Phase

SPLIT_CHANGED = "surefoot.split.changed"
ROLLOUT = "surefoot.rollout"  # and the phase it has come to: surefoot.rollout.held
RAISED = f"{ROLLOUT}.raised"  # a larger weight within its step; a name that no phase has
QUARANTINED = "surefoot.quarantine.added"
RELEASED = "surefoot.quarantine.released"
FREEZE_DECLARED = "surefoot.freeze.declared"
FREEZE_LIFTED = "surefoot.freeze.lifted"
FREEZE_OVERRULED = "surefoot.freeze.overruled"
TEST = "surefoot.webhook.test"  # sent by hand only, whatever a subscriber asks for

TYPES = (
    SPLIT_CHANGED,
    *(f"{ROLLOUT}.{phase.value}" for phase in Phase),
    RAISED,
    *(QUARANTINED, RELEASED),
    *(FREEZE_DECLARED, FREEZE_LIFTED, FREEZE_OVERRULED),
)


def matches(pattern: str, event_type: str) -> bool:
    """`pattern` is a type, '*', or the beginning of types: 'surefoot.rollout.*'."""
    if pattern.endswith("*"):
        return event_type.startswith(pattern[:-1])
    return event_type == pattern

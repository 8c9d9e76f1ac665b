"""How the page says things: phases, answers, times and numbers in words, each with an icon beside its colour."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from control_plane.domain.plan import DAY, HOUR, MINUTE
from control_plane.domain.rollout import Command, Phase, Rollout
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.domain.verdict import Answer, Blame, Outcome, Rule

NOTHING = "–"
METRIC_NAMES = {
    "ctr": "Click rate",
    "good_click_rate": "Good-click rate",
    "hide_rate": "Hide rate",
    "revenue_per_impression": "Revenue / impression",
    "calibration": "Calibration",
    "ne": "Normalised entropy",
    "psi": "PSI",
    "js": "Jensen–Shannon divergence",
    "wasserstein": "Wasserstein distance",
    "ks": "Kolmogorov–Smirnov distance",
    "mean_log_ratio": "Mean log-ratio",
    "brier": "Brier score",
    "calibration_shift": "Calibration beside stable’s",
    "calibration_error_of_stable": "Stable’s calibration error",
}
COUNT_NAMES = {"good_click_rate": "Good clicks", "hide_rate": "Hides", "revenue_per_impression": "Revenue"}


class Tone(NamedTuple):
    """A chip's colour and icon; its words say the same to those who see neither."""

    colour: str  # neutral, info, good, warn or bad
    icon: str  # id of a symbol in icons.svg


@dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    words: str
    colour: str
    icon: str


PHASE_TONES = {
    Phase.QUEUED: Tone("neutral", "hourglass"),
    Phase.PENDING: Tone("neutral", "clock"),
    Phase.WARMING: Tone("info", "load"),
    Phase.SHADOW: Tone("info", "shadow"),
    Phase.RAMPING: Tone("info", "ramp"),
    Phase.WATCHING: Tone("info", "eye"),
    Phase.DONE: Tone("good", "check"),
    Phase.HELD: Tone("warn", "pause"),
    Phase.EXPIRED: Tone("warn", "hourglass"),
    Phase.ROLLED_BACK: Tone("bad", "back"),
}
ANSWER_TONES = {
    Answer.SAFE: Tone("good", "check"),
    Answer.HARM: Tone("bad", "cross"),
    Answer.UNDECIDED: Tone("neutral", "dots"),
    Answer.INSUFFICIENT: Tone("neutral", "hourglass"),
    Answer.NO_DATA: Tone("warn", "none"),
    Answer.STALE: Tone("warn", "clock"),
    Answer.ERROR: Tone("bad", "alert"),
    Answer.EMPTY: Tone("warn", "none"),
    Answer.NAN: Tone("warn", "alert"),
    Answer.FAILED: Tone("bad", "alert"),
    Answer.MONITORED: Tone("neutral", "eye"),
}
ANSWER_WORDS = {
    Answer.SAFE: "shown safe",
    Answer.HARM: "harm",
    Answer.UNDECIDED: "undecided",
    Answer.INSUFFICIENT: "too little data",
    Answer.NO_DATA: "no data",
    Answer.STALE: "stale data",
    Answer.ERROR: "error",
    Answer.EMPTY: "no value",
    Answer.NAN: "not a number",
    Answer.FAILED: "not answered",
    Answer.MONITORED: "monitored",
}
OUTCOME_CHIPS = {
    Outcome.ADVANCE: Chip(words="may advance", colour="good", icon="check"),
    Outcome.HOLD: Chip(words="hold", colour="neutral", icon="not-yet"),
    Outcome.ROLL_BACK: Chip(words="roll back", colour="bad", icon="back"),
}
RULE_WORDS = {
    Rule.HARD_STOP: "a hard stop",
    Rule.SAMPLE_RATIO: "users are not split as promised",
    Rule.HARM: "harm was shown",
    Rule.MISSING_EVIDENCE: "evidence is missing, and the plan says to roll back",
    Rule.ERROR: "a guardrail could not be computed",
    Rule.STALE: "the event log is stale",
    Rule.INSUFFICIENT: "too little data",
    Rule.DRIFT: "the scores drifted",
    Rule.LIMIT: "a limit of the plan is crossed",
    Rule.NOT_SHOWN_SAFE: "not shown safe yet",
    Rule.NOVELTY: "weekdays and weekends disagree",
    Rule.SHOWN_SAFE: "every gate was shown safe",
}
BLAME_WORDS = {
    Blame.NONE: "nothing",
    Blame.CALIBRATOR: "the calibrator",
    Blame.MODEL: "the model",
}
COMMAND_WORDS = {
    Command.START: "Start",
    Command.ADVANCE: "Advance",
    Command.SKIP: "Skip",
    Command.HOLD: "Hold",
    Command.RESUME: "Resume",
    Command.APPROVE: "Approve",
    Command.EXPIRE: "Expire",
    Command.ROLL_BACK: "Roll back",
    Command.ABORT: "Abort",
}
COMMAND_ICONS = {
    Command.START: "play",
    Command.ADVANCE: "forward",
    Command.SKIP: "forward",
    Command.HOLD: "pause",
    Command.RESUME: "play",
    Command.APPROVE: "stamp",
    Command.EXPIRE: "hourglass",
    Command.ROLL_BACK: "back",
    Command.ABORT: "stop",
}


def phase_chip(rollout: Rollout, *, is_withdrawn: bool = False) -> Chip:
    """Phase and, where users see the candidate, their share. Withdrawn: a person aborted it, nothing had been shown."""
    if is_withdrawn:
        return Chip(words="withdrawn", colour="neutral", icon="stop")
    tone = PHASE_TONES[rollout.phase]
    words = rollout.phase.replace("_", " ")
    if rollout.candidate_bp and rollout.phase is not Phase.DONE:
        words = f"{words} at {share(rollout.candidate_bp)}"
        if not rollout.is_monitored and rollout.phase is not Phase.ROLLED_BACK:
            words = f"{words}, unmonitored"
    return Chip(words=words, colour=tone.colour, icon=tone.icon)


def answer_chip(answer: Answer) -> Chip:
    tone = ANSWER_TONES[answer]
    return Chip(words=ANSWER_WORDS[answer], colour=tone.colour, icon=tone.icon)


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric.replace("_", " ").capitalize())


def surface_name(surface: str) -> str:
    return surface.replace("_", " ").capitalize()


def surfaces_words(surface: str | None) -> str:
    """Of a freeze: it names one surface, or stands on all."""
    return "All surfaces" if surface is None else surface_name(surface)


def until_words(until: datetime | None, now: datetime) -> str:
    """'until 14:20 UTC, in 38 min', of what ends then for sure."""
    if until is None:
        return "until someone lifts it"
    return f"until {moment(until, now)}, in {duration((until - now).total_seconds())}"


def share(share_bp: int) -> str:
    return f"{share_bp * 100 / FULL_TRAFFIC_BP:g} %"


def percent(fraction: float | None, *, digits: int = 1) -> str:
    """A signed change with a real minus sign: '−3.1 %'."""
    if fraction is None:
        return NOTHING
    text = f"{fraction * 100:+.{digits}f} %"
    return text.replace("-", "−")


def number(value: float | None, *, digits: int = 1) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.{digits}f}".replace(",", "\u202f").replace("-", "−")


def count(value: float) -> str:
    return f"{round(value):,}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """The two largest units that matter to someone who waits: '1 d 4 h', '38 min', '12 s'."""
    seconds = max(0.0, seconds)
    if seconds < MINUTE:
        return f"{int(seconds)} s"
    if seconds < HOUR:
        return f"{int(seconds / MINUTE)} min"
    if seconds < DAY:
        hours, minutes = divmod(int(seconds / MINUTE), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(int(seconds / HOUR), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def ago(at: datetime, now: datetime) -> str:
    seconds = (now - at).total_seconds()
    return "just now" if seconds < 1 else f"{duration(seconds)} ago"


def about_until(until: datetime | None, now: datetime) -> str:
    """'about until 14:20 UTC, in 38 min', for the end of a sentence; empty where nobody can tell."""
    if until is None:
        return ""
    left = (until - now).total_seconds()
    return f"about until {moment(until, now)}, {f'in {duration(left)}' if left > 0 else 'any moment now'}"


def moment(at: datetime, now: datetime) -> str:
    """Clock time in UTC, with the date where it is not today's, and the year where it is not this one."""
    at, now = at.astimezone(UTC), now.astimezone(UTC)
    day = "" if at.date() == now.date() else f"{at.day} {at:%b} " if at.year == now.year else f"{at.day} {at:%b %Y} "
    return f"{day}{at:%H:%M} UTC"


def full_moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def short_digest(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def short_version(version_id: str) -> str:
    return version_id[:8]

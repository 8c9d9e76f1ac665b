"""A rehearsal in sentences that need no statistician."""

from collections import Counter
from collections.abc import Iterator, Sequence

from control_plane.domain.moments import WHOLE_SURFACE
from control_plane.rehearsal.estimates import Proportion, Spread
from control_plane.rehearsal.results import Grade, Result
from control_plane.rehearsal.run import Ending
from control_plane.rehearsal.scenarios import EQUAL
from control_plane.rehearsal.wishes import Wish

WISHES = {
    Wish.SHIP: "ship",
    Wish.STOP: "stop",
    Wish.ROLL_BACK: "roll back",
    Wish.HOLD: "hold",
    Wish.TOLERATE: "either",
    Wish.UNGUARDED: "unguarded",
}
ENDINGS = {
    Ending.SHIPPED: "reached full traffic",
    Ending.ROLLED_BACK: "was rolled back on evidence",
    Ending.HELD: "was held for a person",
    Ending.TIMED_OUT: "ran out of time",
}
THIN = "\u202f"  # groups digits and never breaks a line
LABELS = {"clicks": "clicks", "good_clicks": "good clicks", "revenue": "revenue", "hides": "hides"}


def happened(result: Result) -> str:
    """'was rolled back on evidence in 19 of 20 runs, ran out of time in 1'."""
    ends = sorted((end for end in Ending if result.count(end)), key=lambda end: -result.count(end))
    parts = [f"{ENDINGS[end]} in {result.count(end)}" for end in ends]
    parts[0] += f" of {len(result.runs)} runs"
    return ", ".join(parts)


def when(result: Result) -> str:
    """How fast, of the runs that came to an answer; empty if none did."""
    parts = []
    if result.detection_days is not None:
        parts.append(_rolled_back_when(result, result.detection_days))
    if result.full_traffic_days is not None:
        found = result.full_traffic_days
        parts.append(f"Full traffic was reached and watched after {days(found.median)} typically{_slowest(found)}.")
    return " ".join(parts)


def cost(result: Result) -> str:
    """What it cost while it lasted, and what each day at full traffic would; empty if nothing."""
    parts = [f"{amount(result.harmed_impressions)} impressions were harmed"] if result.harmed_impressions.mean else []
    if result.lost_per_day["clicks"]:
        parts += [_one_cost(result, "clicks"), _one_cost(result, "revenue")]
    else:
        parts += [_one_cost(result, name) for name in LABELS if result.lost_per_day[name]]
    return "; ".join(parts) + "." if parts else ""


def findings(results: Sequence[Result]) -> Iterator[tuple[Grade, str]]:
    """What to know before arming the plan, the worst first."""
    equal = next(result for result in results if result.scenario.name == EQUAL)
    yield from _about_equal(equal)
    for grade in (Grade.POOR, Grade.PARTLY, Grade.OPEN):
        for result in results:
            if result is not equal and result.grade is grade and result.expectation.wish is not Wish.TOLERATE:
                yield grade, f"{result.scenario.name}: {_missed(result)}"
    good = [result.scenario.name for result in results if result is not equal and result.grade is Grade.GOOD]
    if good:
        yield Grade.GOOD, f"Answered as a good plan answers: {', '.join(good)}."


def share(found: Proportion) -> str:
    """'94 % (83–99)'; the interval is the one of 95 %."""
    return f"{100 * found.value:.0f} % ({100 * found.lower:.0f}–{100 * found.upper:.0f})"


def days(value: float) -> str:
    if value < 1:
        return f"{value * 24:.0f} hours"
    return f"{value:.1f} days"


def amount(found: Spread) -> str:
    """'1 240 ± 35'."""
    error = "" if found.mean_error is None else f" ± {number(found.mean_error)}"
    return f"{number(found.mean)}{error}"


def number(value: float) -> str:
    """Three figures are enough of what is simulated: 1 240, 35.2 thousand, 4.1 million."""
    size = abs(value)
    for unit, word in ((1e9, "billion"), (1e6, "million"), (1e4, "thousand")):
        if size >= unit:
            return f"{value / (1e3 if unit == 1e4 else unit):.3g} {word}"
    return f"{value:,.0f}".replace(",", THIN) if size >= 10 else f"{value:.2g}"


def short(value: float) -> str:
    """For tables: 1240, 35.2k, 4.1M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.3g}{letter}"
    return f"{value:.0f}" if abs(value) >= 10 or value == round(value) else f"{value:.2g}"


def _rolled_back_when(result: Result, found: Spread) -> str:
    if result.in_shadow.value >= 0.5:
        return "It was seen in the shadow, before it answered anyone."
    return f"It was taken off {days(found.median)} after it first had weight, typically{_slowest(found)}."


def _slowest(found: Spread) -> str:
    return f" ({days(found.ninetieth)} in the slowest tenth)" if found.runs >= 10 else ""


def _one_cost(result: Result, name: str) -> str:
    lost, per_day = result.lost[name], result.lost_per_day[name]
    if name == "hides":
        return f"{amount(lost)} hides too many ({number(per_day)} on each day at full traffic)"
    done = f"{number(-lost.mean)} {LABELS[name]} gained" if lost.mean < 0 else f"{amount(lost)} {LABELS[name]} lost"
    return f"{done} until then ({number(per_day)} lost on each day at full traffic)"


def _about_equal(equal: Result) -> Iterator[tuple[Grade, str]]:
    alarms = equal.endings[Ending.ROLLED_BACK]
    at_most = f"in {100 * alarms.value:.0f} % of runs, and with 95 % confidence in less than {100 * alarms.upper:.0f} %"
    yield (
        Grade.GOOD if alarms.value <= 0.05 else Grade.POOR,
        f"A candidate as good as stable is rolled back by mistake {at_most}.",
    )
    shipped = equal.endings[Ending.SHIPPED]
    interval = f"95 % interval {100 * shipped.lower:.0f} to {100 * shipped.upper:.0f}"
    sentence = f"It reaches full traffic in {100 * shipped.value:.0f} % of runs ({interval}). {when(equal)}".strip()
    if equal.count(Ending.TIMED_OUT):
        stuck = max({run.step for run in equal.runs if run.ending is Ending.TIMED_OUT})
        sentence += f" {_stuck(equal, stuck)}"
    yield equal.grade, sentence


def _stuck(equal: Result, step: int) -> str:
    timed_out = [run for run in equal.runs if run.ending is Ending.TIMED_OUT]
    where = "in the shadow" if step < 0 else f"by step {step + 1} at the latest"
    gates = Counter(gate for run in timed_out for gate in run.open_gates)
    names = " and ".join(_gate(gate) for gate, _ in gates.most_common(2))
    why = f", waiting most often for {names} to be shown safe: more traffic, a larger step or a wider margin helps"
    why = why if gates else ""
    return f"{len(timed_out)} of {len(equal.runs)} runs ran out of time {where}{why}."


def _gate(name: str) -> str:
    metric, _, segment = name.partition("/")
    words = metric.replace("_", " ").replace("ctr", "CTR")
    return words if segment == WHOLE_SURFACE else f"{words} on {segment}"


def _missed(result: Result) -> str:
    told = f"{result.scenario.sentence} It {happened(result)}."
    if result.expectation.wish is Wish.UNGUARDED:
        return f"{told} {result.expectation.sentence} {_capital(cost(result))}".strip()
    wanted = result.expectation.sentence
    return f"{told} A good plan would {wanted[:1].lower()}{wanted[1:]} {_capital(cost(result))}".strip()


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

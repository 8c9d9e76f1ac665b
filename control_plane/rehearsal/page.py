"""A rehearsal as one HTML file that needs nothing else: no network, no scripts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from control_plane.domain.plan import DAY
from control_plane.rehearsal.estimates import Proportion, Spread
from control_plane.rehearsal.report import Report
from control_plane.rehearsal.results import Grade, Result
from control_plane.rehearsal.run import Ending
from control_plane.rehearsal.scenarios import EQUAL
from control_plane.rehearsal.wishes import Wish
from control_plane.rehearsal.wording import WISHES, cost, days, findings, happened, share, short, when

VERDICTS = {
    Grade.GOOD: "as it should be",
    Grade.PARTLY: "only partly as it should be",
    Grade.POOR: "not as it should be",
}
AMOUNTS = ("clicks", "good_clicks", "revenue", "hides")
ENVIRONMENT = Environment(
    loader=PackageLoader("control_plane.rehearsal", "."), autoescape=True, undefined=StrictUndefined
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    name: str
    value: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One scenario as the page tells it."""

    result: Result
    verdict: str
    wish: str
    happened: str
    when: str
    cost: str
    endings: tuple[Proportion, ...]
    days: tuple[Spread | None, ...]
    amounts: tuple[tuple[str, str], ...]


def page(report: Report, plots: Mapping[str, str]) -> str:
    """`plots` are SVG elements by name: outcomes, ramp, delays, costs; the last two may be empty."""
    return ENVIRONMENT.get_template("page.html").render(
        report=report,
        plan=report.trial.plan,
        results=report.results,
        num_runs=len(report.results[0].runs),
        tiles=list(_tiles(report)),
        findings=list(findings(report.results)),
        plots={name: Markup(svg) for name, svg in plots.items()},
        rows=[_row(result) for result in report.results],
        blind_days=blind_days(report),
        facts=list(_facts(report)),
    )


def blind_days(report: Report) -> float:
    """For how long harm would go unnoticed without a plan: as long as the plan may take."""
    return report.trial.plan.max_total_seconds / DAY


def _tiles(report: Report) -> Iterator[Tile]:
    equal = next(result for result in report.results if result.scenario.name == EQUAL)
    shipped, alarms = equal.endings[Ending.SHIPPED], equal.endings[Ending.ROLLED_BACK]
    yield Tile(name="An equal candidate reaches 100 %", value=_percent(shipped), detail=_interval(shipped))
    if equal.full_traffic_days is not None:
        found = equal.full_traffic_days
        detail = f"median; {found.tenth:.1f} to {found.ninetieth:.1f} days in the middle 80 %"
        yield Tile(name="… and takes, watch included", value=days(found.median), detail=detail)
    yield Tile(name="Rolled back by mistake", value=_percent(alarms), detail=_interval(alarms))
    harmful = [result for result in report.results if result.expectation.wish in (Wish.STOP, Wish.ROLL_BACK, Wish.HOLD)]
    stopped = sum(result.grade is Grade.GOOD for result in harmful)
    if harmful:
        value = f"{stopped} of {len(harmful)}"
        yield Tile(name="Harmful candidates stopped", value=value, detail="scenarios, in at least 95 % of runs")


def _row(result: Result) -> Row:
    spreads = [result.harmed_impressions, *(result.lost[name] for name in AMOUNTS)]
    return Row(
        result=result,
        verdict=_verdict(result),
        wish=WISHES[result.expectation.wish],
        happened=happened(result),
        when=when(result),
        cost=cost(result),
        endings=tuple(result.endings[ending] for ending in Ending),
        days=(result.detection_days, result.full_traffic_days),
        amounts=tuple((short(found.mean), _error(found)) for found in spreads),
    )


def _verdict(result: Result) -> str:
    if result.as_wished is None:
        return WISHES[result.expectation.wish] if result.expectation.wish is Wish.UNGUARDED else "either is right"
    return f"{VERDICTS[result.grade]}: {share(result.as_wished)} of runs"


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    trial = report.trial
    yield "Seed", str(trial.seed)
    yield "Looks per day", str(trial.looks_per_day)
    yield "Steps", ", ".join(f"{step.share_bp / 100:g} %" for step in trial.plan.steps)
    yield "Guardrails", ", ".join(f"{one.metric} ({one.role})" for one in trial.plan.guardrails)
    for name, value in trial.source.describe().items():
        yield name.replace("_", " ").capitalize(), _fact(value)
    yield "Code", trial.identity()["code"]


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part:g}" for name, part in value.items())
    return f"{value:,g}".replace(",", " ") if isinstance(value, float) else str(value)


def _percent(found: Proportion) -> str:
    return f"{100 * found.value:.0f} %"


def _interval(found: Proportion) -> str:
    return f"of runs; 95 % interval {100 * found.lower:.0f} to {100 * found.upper:.0f} %"


def _error(found: Spread) -> str:
    return "" if found.mean_error is None else f"± {short(found.mean_error)}"

"""A rehearsal on the terminal."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from control_plane.rehearsal.estimates import proportion
from control_plane.rehearsal.report import Report
from control_plane.rehearsal.results import Grade, Result
from control_plane.rehearsal.run import Ending
from control_plane.rehearsal.second_opinion import Opinion
from control_plane.rehearsal.wording import WISHES, findings, short

MARKS = {Grade.GOOD: ("✓", "green"), Grade.PARTLY: ("~", "yellow"), Grade.POOR: ("✗", "red"), Grade.OPEN: ("·", "dim")}


def rendered(report: Report) -> RenderableType:
    plan = report.trial.plan.name
    title = f"Plan {plan}, {len(report.results[0].runs)} runs of each scenario on {report.trial.source.sentence}"
    return Group(Text(title, style="bold"), Text(), _table(report), Text(), *_findings(report), Text(), *_notes(report))


def opinions_rendered(plan: str, opinions: Sequence[Opinion]) -> RenderableType:
    """Every look whose answer changed from the look before, under either plan, and every one where they differ."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("as of (UTC)", "share", "said then", f"under {plan}"):
        table.add_column(heading, no_wrap=heading != f"under {plan}")
    before: tuple[str, str] | None = None
    for one in opinions:
        answers = (one.then.outcome.value, one.now.outcome.value)
        if answers != before or one.differs:
            share = f"{one.then.share_bp / 100:g} %"
            said = f"{_outcome(answers[1])}: {one.now.reason}" if one.differs else _outcome(answers[1])
            table.add_row(one.at, share, _outcome(answers[0]), Text(said, style="bold" if one.differs else ""))
        before = answers
    differing = sum(one.differs for one in opinions)
    summary = (
        f"{len(opinions)} recorded looks; under {plan} the judge would have said otherwise at {differing} of them."
    )
    note = "Each look is judged as it was recorded: a rollout that went another way would have met other evidence."
    return Group(Text(summary, style="bold"), Text(), table, Text(), Text(note, style="dim"))


def _outcome(outcome: str) -> str:
    return outcome.replace("_", " ")


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0), collapse_padding=True)
    table.add_column("scenario", no_wrap=True)
    table.add_column("a good\nplan", no_wrap=True)
    for heading in ("\nshipped", "rolled\nback", "held,\nlate", "days to\nrollback", "days to\n100 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("harmed\nviews", "clicks\nlost"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in report.results:
        table.add_row(*_row(result))
    return table


def _row(result: Result) -> Iterator[RenderableType]:
    """Each figure with its error below it; 80 columns are enough."""
    mark, colour = MARKS[result.grade]
    yield Text.assemble((f"{mark} ", colour), result.scenario.name)
    yield WISHES[result.expectation.wish]
    unresolved = result.count(Ending.HELD) + result.count(Ending.TIMED_OUT)
    for found in (
        result.endings[Ending.SHIPPED],
        result.endings[Ending.ROLLED_BACK],
        proportion(unresolved, len(result.runs)),
    ):
        yield _two(f"{100 * found.value:.0f}%", f"{100 * found.lower:.0f}–{100 * found.upper:.0f}")
    for days in (result.detection_days, result.full_traffic_days):
        yield "–" if days is None else _two(_days(days.median), f"{_days(days.tenth)}–{_days(days.ninetieth)}")
    for amount in (result.harmed_impressions, result.lost["clicks"]):
        error = "" if amount.mean_error is None else f"±{short(amount.mean_error)}"
        yield _two(short(amount.mean), error)


def _days(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _two(figure: str, error: str) -> Text:
    return Text.assemble(figure, "\n", (error, "dim"))


def _findings(report: Report) -> Iterator[Text]:
    for grade, sentence in findings(report.results):
        mark, colour = MARKS[grade]
        yield Text.assemble((f"{mark} ", colour), sentence)


def _notes(report: Report) -> Iterator[Text]:
    legend = (
        "Below a share: its 95 % interval. Below days: the middle 80 % of runs. ±: the standard error of a mean. "
        "Days to rollback count from the candidate's first weight; 0 is in the shadow, before it answered anyone."
    )
    yield Text(legend, style="dim")
    yield Text(f"The same figures again: {report.command}", style="dim")

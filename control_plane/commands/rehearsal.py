"""`surefoot rehearse`: what a plan would do, before it is armed."""

import importlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from control_plane.commands.client import err, fail, out
from control_plane.commands.environment import told_plainly
from control_plane.domain.errors import InvalidField, InvalidPlan
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_to_mapping
from control_plane.plan_file import read_plan
from control_plane.rehearsal.audience import Audience
from control_plane.rehearsal.effects_text import scenario_of
from control_plane.rehearsal.journal import Journal
from control_plane.rehearsal.page import blind_days, page
from control_plane.rehearsal.recording import Recording, read_recording
from control_plane.rehearsal.rehearse import Trial, check_looks, rehearse
from control_plane.rehearsal.report import Report
from control_plane.rehearsal.results import Result
from control_plane.rehearsal.scenarios import Scenario, all_scenarios, scenarios
from control_plane.rehearsal.second_opinion import FORMAT as OPINIONS_FORMAT
from control_plane.rehearsal.second_opinion import holds_inputs, second_opinions
from control_plane.rehearsal.sources import Recorded, Simulated, Source
from control_plane.rehearsal.table import opinions_rendered, rendered

DEFAULTS = Audience()
INTERRUPTED = 130
TRAFFIC = "Simulated traffic"
AUDIENCE_OPTIONS = (
    "users",
    "impressions_per_day",
    "ctr",
    "good_click_share",
    "hide_rate",
    "revenue_per_click",
    "weekend",
    "view_type",
)


def rehearse_plan(
    context: typer.Context,
    plan_file: Annotated[
        Path, typer.Argument(metavar="PLAN", exists=True, dir_okay=False, help="The plan, a YAML file.")
    ],
    effect: Annotated[
        list[str] | None,
        typer.Option(help="What a candidate of your own does: ctr=-3%, hide_rate=+20%@grid, … Several make one."),
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="A scenario by name, or `all`, which is what you get without --effect.")
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Rehearse on what stable served, read from an event log; or on packed verdict inputs.",
        ),
    ] = None,
    surface: Annotated[str | None, typer.Option(help="Of the recording, where it holds several.")] = None,
    runs: Annotated[int, typer.Option(min=1, max=100_000, help="Rollouts tried under each scenario.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal figures.")] = 1,
    jobs: Annotated[int, typer.Option(min=0, max=1_024, help="Processes; 0 is one for each core.")] = 0,
    looks_per_day: Annotated[int, typer.Option(min=1, max=96, help="How often the judge looks.")] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write everything there.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", dir_okay=False, help="Write a report there.")] = None,
    journal_file: Annotated[
        Path | None,
        typer.Option("--journal", dir_okay=False, help="Keep done runs there; the same command goes on from them."),
    ] = None,
    users: Annotated[
        int, typer.Option(min=1_000, max=20_000_000, rich_help_panel=TRAFFIC, help="At the start.")
    ] = DEFAULTS.users,
    impressions_per_day: Annotated[
        float, typer.Option(min=0.01, max=10_000, rich_help_panel=TRAFFIC, help="Of a mean user.")
    ] = DEFAULTS.impressions_per_day,
    ctr: Annotated[float, typer.Option(min=1e-5, max=0.5, rich_help_panel=TRAFFIC, help="Of stable.")] = DEFAULTS.ctr,
    good_click_share: Annotated[
        float, typer.Option(min=0, max=1, rich_help_panel=TRAFFIC, help="Of clicks.")
    ] = DEFAULTS.good_click_share,
    hide_rate: Annotated[
        float, typer.Option(min=0, max=0.5, rich_help_panel=TRAFFIC, help="Per impression.")
    ] = DEFAULTS.hide_rate,
    revenue_per_click: Annotated[
        float, typer.Option(min=0, max=1e6, rich_help_panel=TRAFFIC)
    ] = DEFAULTS.revenue_per_click,
    weekend: Annotated[
        float, typer.Option(min=0.05, max=20, rich_help_panel=TRAFFIC, help="Impressions on a weekend day.")
    ] = DEFAULTS.weekend_factor,
    view_type: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHARE", rich_help_panel=TRAFFIC, help="Of impressions: grid=60% …"),
    ] = None,
) -> None:
    """Try PLAN on simulated or recorded traffic, many times, with sound and with harmful candidates.

    Every run goes through the judge and the decisions that will run the plan. Tells how often a sound candidate is
    rolled back by mistake and how long it takes to full traffic; how fast harm is seen and what it costs.
    """
    plan = _plan(plan_file)
    plots = _plots() if html_file is not None else None
    for file in (json_file, html_file, journal_file):
        _refuse_unwritable(file)
    if recorded is not None and holds_inputs(recorded):
        _tell_opinions(plan, recorded, json_file)
        return
    with told_plainly():
        check_looks(looks_per_day)
        if recorded is not None:
            _refuse_audience(context)
            source: Source = Recorded(recording=_recording(recorded, surface, plan, looks_per_day))
        else:
            audience = Audience(
                users=users,
                impressions_per_day=impressions_per_day,
                ctr=ctr,
                good_click_share=good_click_share,
                hide_rate=hide_rate,
                revenue_per_click=revenue_per_click,
                weekend_factor=weekend,
                view_types=_view_types(view_type) if view_type else dict(DEFAULTS.view_types),
            )
            source = Simulated(audience=audience)
        wanted = _scenarios(effect or [], fault or [], source)
        trial = Trial(plan=plan, source=source, seed=seed, looks_per_day=looks_per_day)
        journal = Journal(journal_file, trial.identity()) if journal_file is not None else None
    results = _rehearsed(trial, wanted, runs=runs, jobs=jobs or _cores(), journal=journal)
    report = Report(trial=trial, results=results, command=_command())
    out.print(rendered(report), highlight=False)
    if json_file is not None:
        _write(json_file, json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    if html_file is not None and plots is not None:
        _write(html_file, page(report, _drawn(plots, report)))


def _tell_opinions(plan: RolloutPlan, folder: Path, json_file: Path | None) -> None:
    """The recording holds what verdicts were made of: the plan's judge is asked about each, as it was."""
    with told_plainly():
        opinions = second_opinions(plan, folder)
    out.print(opinions_rendered(plan.name, opinions), highlight=False)
    if json_file is not None:
        told = {"format": OPINIONS_FORMAT, "plan": plan_to_mapping(plan), "looks": [one.to_json() for one in opinions]}
        _write(json_file, json.dumps(told, indent=1, allow_nan=False) + "\n")


def _plan(path: Path) -> RolloutPlan:
    try:
        return read_plan(path.read_text())
    except (InvalidPlan, UnicodeDecodeError, OSError) as error:
        raise fail(f"{path}: {error}") from None


def _plots() -> ModuleType:
    try:
        return importlib.import_module("control_plane.rehearsal.plots")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        raise fail("--html draws with matplotlib, which is not installed: pip install 'surefoot[report]'") from None


def _refuse_unwritable(path: Path | None) -> None:
    """Told before the work, not after it."""
    if path is None:
        return
    folder = path.parent
    if not folder.is_dir():
        fail(f"{path}: there is no folder {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        fail(f"{path}: may not be written")


def _refuse_audience(context: typer.Context) -> None:
    """A recording brings its own users: what was stated of others would silently not hold."""
    sources = {name: context.get_parameter_source(name) for name in AUDIENCE_OPTIONS}
    given = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    if given:
        fail(f"--{given[0].replace('_', '-')} is of simulated traffic; --recorded brings its own", code=2)


def _recording(path: Path, surface: str | None, plan: RolloutPlan, looks_per_day: int) -> Recording:
    with err.status(f"reading {path}") if err.is_terminal else nullcontext():
        return read_recording(
            path,
            surface=surface,
            windows_ms=plan.windows_ms(),
            revenue_cap=plan.revenue_cap,
            periods_per_day=looks_per_day,
        )


def _view_types(texts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, equals, share = (part.strip() for part in text.partition("="))
        try:
            value = float(share.rstrip("% "))
        except ValueError:
            value = -1.0
        if not equals or not name or not 0 < value < 1e9:
            raise InvalidField("--view-type", f"must be NAME=SHARE, such as grid=60%, not {text!r}")
        if name in found:
            raise InvalidField("--view-type", f"{name} is given twice")
        found[name] = value
    total = sum(found.values())
    return {name: value / total for name, value in found.items()}


def _scenarios(effects: Sequence[str], faults: Sequence[str], source: Source) -> tuple[Scenario, ...]:
    view_types = list(source.view_shares)
    if "all" in faults or not (effects or faults):
        faults = [scenario.name for scenario in all_scenarios(view_types)]
    own = (scenario_of(effects, view_types=view_types),) if effects else ()
    return (*scenarios(faults, view_types=view_types), *own)


def _rehearsed(
    trial: Trial, wanted: Sequence[Scenario], *, runs: int, jobs: int, journal: Journal | None
) -> tuple[Result, ...]:
    try:
        with journal or nullcontext(), _progress(runs * len(wanted)) as tell:
            return rehearse(trial, wanted, runs=runs, jobs=jobs, journal=journal, on_run=tell)
    except KeyboardInterrupt:
        kept = "nothing is kept without --journal" if journal is None else "the same command goes on from here"
        raise fail(f"stopped; {kept}", code=INTERRUPTED) from None


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Scenario], None]]:
    """A bar on a terminal's stderr, nothing elsewhere."""
    columns = (
        TextColumn("rehearsing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.description}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=total)

        def tell(scenario: Scenario) -> None:
            progress.update(task, advance=1, description=scenario.name)

        yield tell


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _command() -> str:
    return shlex.join(["surefoot", *sys.argv[1:]])


def _drawn(plots: ModuleType, report: Report) -> Mapping[str, str]:
    results = report.results
    return {
        "outcomes": plots.outcomes(results),
        "ramp": plots.ramp(results),
        "delays": plots.delays(results),
        "costs": plots.costs(results, days=blind_days(report)),
    }


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise fail(f"{path}: {error.strerror}") from None
    err.print(f"wrote {path}", soft_wrap=True)

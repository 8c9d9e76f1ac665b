"""Tells the person in front of the screen what happens and why."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

EVENT_WIDTH = 24  # "related_pins rolled back" and its like
LOG_WIDTH = 140  # where nobody's screen sets one


class Narrator:
    """Chapters, plain sentences, tables and progress bars; keeps the time that each chapter took."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console if console is not None else _console()
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self._began

    @contextmanager
    def chapter(self, key: str, title: str, why: str) -> Iterator[None]:
        """One part of the story; `key` names its time in the summary."""
        self.console.print()
        self.console.rule(f"[bold]{title}", align="left")
        self.console.print(why, style="dim")
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[key] = round(time.monotonic() - began, 1)

    def say(self, text: str) -> None:
        self.console.print(text)

    def event(self, when: str, what: str, why: str) -> None:
        """One line of a chronicle; a long reason goes on below itself, not at the margin."""
        row = Table.grid(padding=(0, 2))
        row.add_column(no_wrap=True)
        row.add_column(no_wrap=True, min_width=EVENT_WIDTH)
        row.add_column()
        row.add_row(when, what, Text(why))
        self.console.print(Padding(row, (0, 0, 0, 2), expand=False))

    def error(self, text: str) -> None:
        self.console.print(f"\n{text}", style="bold red", markup=False)

    def panel(self, text: str, title: str) -> None:
        self.console.print(Panel(text, title=title, title_align="left", expand=False))

    def lines(self, title: str, lines: list[str]) -> None:
        """Lines to copy: without a frame, and never broken by this program."""
        self.console.print(f"\n[bold]{title}")
        for line in lines:
            style = "dim" if line.startswith("#") else ""
            self.console.print(f"  {line}", style=style, markup=False, soft_wrap=True)

    def table(self, title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        table = Table(title=title, title_justify="left", title_style="bold")
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    @contextmanager
    def progress(self, what: str, total: float | None) -> Iterator["Bar"]:
        """A bar while the screen is a terminal; start and end as plain lines where it is not."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=False) as progress:
            bar = Bar(progress, progress.add_task(what, total=total, note=""))
            yield bar
            bar.finish()


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console


class Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        if note is None:
            self._progress.update(self._task, advance=steps)
        else:
            self._progress.update(self._task, advance=steps, note=note)

    def finish(self) -> None:
        task = self._progress.tasks[0]
        self._progress.update(self._task, total=task.total or 1, completed=task.total or 1)

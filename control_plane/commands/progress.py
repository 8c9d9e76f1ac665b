"""Progress bars on standard error, so that what a command says can still be piped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from control_plane.commands.client import err

Show = Callable[[int, int], None]


@contextmanager
def counting(what: str) -> Iterator[Show]:
    """A bar that is told how many of how many are done; a total below 0 is not known yet. Gone once it is full, and not
    there at all where nobody looks: without a terminal nothing is written.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def show(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of if of >= 0 else None)

        yield show

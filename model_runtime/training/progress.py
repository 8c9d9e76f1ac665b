"""How long work shows that it goes on: a bar on a terminal, a few plain lines elsewhere; both on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

try:
    import rich.console
    import rich.progress
except ImportError:  # the runtime's own dependencies do not include it
    HAS_RICH = False
else:
    HAS_RICH = True

PLAIN_LINES = 10  # of progress, where no terminal shows a bar
MANY_GROUPS = 20  # row groups: a pass over fewer is over before a line is read

Advance = Callable[[int, int], None]  # done, of how much


@contextmanager
def steps() -> Iterator[Callable[[int, int, float], None]]:
    """Of training, with its loss."""
    with _bar("training") as advance:
        yield lambda step, steps, loss: advance(step, steps, f"step {step} of {steps}, loss {loss:.4f}")


@contextmanager
def counted(what: str, unit: str) -> Iterator[Advance]:
    """Of work that is counted."""
    with _bar(what) as advance:
        yield lambda done, total: advance(done, total, f"{what}: {done} of {total} {unit}")


def passes() -> Callable[[str, int, int], None]:
    """Of passes over row groups, where there are many."""
    bars: dict[str, _PlainBar] = {}

    def tell(what: str, done: int, total: int) -> None:
        if total >= MANY_GROUPS:
            bars.setdefault(what, _PlainBar())(done, total, f"{what}: {done} of {total} row groups")

    return tell


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    if not (HAS_RICH and sys.stderr.isatty()):
        yield _PlainBar()
        return
    columns = (
        "[progress.description]{task.description}",
        rich.progress.BarColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True)) as bar:
        task = bar.add_task(what)
        yield lambda done, total, told: bar.update(task, completed=done, total=total, description=told)


class _PlainBar:
    """A line each time that another tenth is done."""

    def __init__(self) -> None:
        self._tenth = 0

    def __call__(self, done: int, total: int, told: str) -> None:
        tenth = done * PLAIN_LINES // total
        if tenth != self._tenth or done == total:
            print(told, file=sys.stderr)
        self._tenth = tenth

"""What a checker reports."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """`invariant` is its number in the design's list; "answers" is what people were told, "end state" what an
    uninterrupted run cannot reach."""

    invariant: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"[{self.invariant}] {self.where}: {self.what}"


def told(invariant: str, where: str, problems: Iterable[str]) -> Iterator[Violation]:
    for what in problems:
        yield Violation(invariant=invariant, where=where, what=what)

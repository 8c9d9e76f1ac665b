"""Tables in a page: written by code, between markers, so that a number there has a command behind it."""

import re
from collections.abc import Mapping, Sequence

START, END = "<!-- table {name}: written by `make figures` -->", "<!-- end of table -->"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with each table in its place; `ValueError` if it has no place, or more than one."""
    for name, table in tables.items():
        place = _place(name)
        if len(place.findall(page)) != 1:
            raise ValueError(f"the page must have one place for the table {name!r}")
        before, after = place.split(page)
        page = f"{before}{START.format(name=name)}\n{table}\n{END}{after}"
    return page


def table_names(page: str) -> list[str]:
    """Of all tables that the page has a place for."""
    return _place(r"([\w-]+)").findall(page)


def _place(name: str) -> re.Pattern[str]:
    start = re.escape(START).replace(re.escape("{name}"), name)
    return re.compile(f"{start}.*?{re.escape(END)}", re.DOTALL)


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def thousands(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ")


def signed(effect: float) -> str:
    """Whole per cent, with a minus sign rather than a hyphen."""
    return f"{100 * effect:+.0f} %".replace("-", "−")

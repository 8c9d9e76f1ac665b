"""Queries that a plan sends to other systems: their language, the rules they keep, and the names they may use.

PromQL names the rollout with `$name` (`${name}`, where letters follow; `$$` is a dollar sign, and `$1` of a
`label_replace` stays as it is), filled in before the query is sent. SQL names it with `:name`, bound by the database
and never part of the text (`\\:` is a colon). A query that begins with SELECT or WITH is SQL.
"""

import re
from collections.abc import Mapping
from enum import StrEnum

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import NAME_PATTERN

PROMQL_NAMES = ("surface", "candidate", "stable", "generation")
SQL_NAMES = (*PROMQL_NAMES, "since", "now")
MAX_CHARS = 4_000  # in a URL, percent-encoded, three times as many at most: what proxies still pass on

VALUE_PATTERNS = {
    "surface": NAME_PATTERN,
    "candidate": re.compile(r"[0-9a-f]{16}"),
    "stable": re.compile(r"[0-9a-f]{16}"),
    "generation": re.compile(r"[0-9]{1,18}"),
}
BEGINS_AS_SQL = re.compile(r"(?:\s|\(|--[^\n]*\n)*+(?:select\b|with\s+(?:recursive\s+)?[\w\"`\[])", re.IGNORECASE)
PROMQL_NAME = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")
SQL_NAME = re.compile(r"(?<![:\w\\]):(\w+)(?![:\w])")  # where SQLAlchemy's text() sees a bound parameter
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Language(StrEnum):
    PROMQL = "PromQL"
    SQL = "SQL"


def language_of(query: str) -> Language:
    return Language.SQL if BEGINS_AS_SQL.match(query) else Language.PROMQL


def broken_rule(query: str) -> str:
    """The rule that a plan's query breaks, in words that follow the name of its key; empty where it breaks none."""
    if not query.strip():
        return "must not be empty"
    if len(query) > MAX_CHARS:
        return f"must have at most {MAX_CHARS} characters, not {len(query)}"
    if found := CONTROL.search(query):
        return f"must not hold the character {found[0]!r}"
    return _broken_sql_rule(query) if language_of(query) is Language.SQL else _broken_promql_rule(query)


def fill(query: str, values: Mapping[str, str]) -> str:
    """PromQL with the rollout's names in place.

    Raises:
        InvalidField: a value looks like no such name, or the query uses a name that does not exist.
    """
    for name, pattern in VALUE_PATTERNS.items():
        if not pattern.fullmatch(values[name]):
            raise InvalidField(f"${name}", f"is {values[name]!r}, which no query may carry")
    if rule := _broken_promql_rule(query):
        raise InvalidField("query", rule)
    return PROMQL_NAME.sub(lambda found: "$" if found[1] else values[found[2] or found[3]], query)


def sql_names(query: str) -> tuple[str, ...]:
    """The names a SQL query binds, each once, in the order of their first use."""
    return tuple(dict.fromkeys(SQL_NAME.findall(query)))


def _broken_promql_rule(query: str) -> str:
    used = (found[2] or found[3] for found in PROMQL_NAME.finditer(query) if not found[1])
    unknown = next((name for name in used if name not in PROMQL_NAMES), None)
    if unknown is None:
        return ""
    return f"has no ${unknown} to name; known: {', '.join(f'${name}' for name in PROMQL_NAMES)}; $$ is a dollar sign"


def _broken_sql_rule(query: str) -> str:
    """A semicolon could begin a second statement that ends the read-only transaction of the first."""
    if ";" in query.rstrip().removesuffix(";"):
        return "must be one statement, without a semicolon in it"
    unknown = next((name for name in sql_names(query) if name not in SQL_NAMES), None)
    if unknown is None:
        return ""
    return f"has no :{unknown} to name; known: {', '.join(f':{name}' for name in SQL_NAMES)}; \\: is a colon"

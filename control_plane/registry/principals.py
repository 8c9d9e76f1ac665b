"""Who is calling, by bearer token, and which groups they belong to."""

import hmac
import re

from control_plane.domain.errors import InvalidField, Unauthenticated

ANONYMOUS = "anonymous"
GROUP = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def authenticate(tokens_setting: str, bearer: str) -> str:
    """Return the name that a token belongs to; without any tokens set, whoever reaches the port is let in.

    `tokens_setting` is "name=token,name=token". Every token is compared, each in constant time.
    """
    names = _names_by_token(tokens_setting)
    if not names:
        return ANONYMOUS
    matches = [name for token, name in names if hmac.compare_digest(token.encode(), bearer.encode())]
    if not matches:
        raise Unauthenticated
    return matches[0]


def groups_of(groups_setting: str, name: str) -> frozenset[str]:
    """The groups that a caller belongs to. `groups_setting` is "group=name,name;group=name"."""
    return frozenset(group for group, members in _members_by_group(groups_setting).items() if name in members)


def group_names(groups_setting: str) -> tuple[str, ...]:
    return tuple(_members_by_group(groups_setting))


def members_of(groups_setting: str, group: str) -> tuple[str, ...]:
    """By name; nobody, where the setting does not name the group."""
    return tuple(sorted(_members_by_group(groups_setting).get(group, frozenset())))


def check_group(groups_setting: str, group: str, *, field: str) -> None:
    """Refuse a group that nobody can be a member of."""
    known = _members_by_group(groups_setting)
    if group not in known:
        listed = f"known: {', '.join(known)}" if known else "SUREFOOT_GROUPS names none"
        raise InvalidField(field, f"no group {group!r}; {listed}")


def _members_by_group(groups_setting: str) -> dict[str, frozenset[str]]:
    members_by_group: dict[str, frozenset[str]] = {}
    for entry in filter(None, (entry.strip() for entry in groups_setting.split(";"))):
        group, equals, listed = entry.partition("=")
        members = frozenset(filter(None, (name.strip() for name in listed.split(","))))
        if not (equals and members and GROUP.fullmatch(group.strip())) or group.strip() in members_by_group:
            raise InvalidField("SUREFOOT_GROUPS", "must look like 'oncall=ann,bob;leads=carol', each group once")
        members_by_group[group.strip()] = members
    return members_by_group


def _names_by_token(tokens_setting: str) -> list[tuple[str, str]]:
    names = []
    for entry in filter(None, (entry.strip() for entry in tokens_setting.split(","))):
        name, equals, token = entry.partition("=")
        if not (name.strip() and equals and token.strip()):
            raise InvalidField("SUREFOOT_TOKENS", "must look like 'name=token,name=token'")
        names.append((token.strip(), name.strip()))
    return names

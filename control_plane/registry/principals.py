"""Who is calling, by bearer token."""

import hmac

from control_plane.domain.errors import InvalidField, Unauthenticated

ANONYMOUS = "anonymous"


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


def _names_by_token(tokens_setting: str) -> list[tuple[str, str]]:
    names = []
    for entry in filter(None, (entry.strip() for entry in tokens_setting.split(","))):
        name, equals, token = entry.partition("=")
        if not (name.strip() and equals and token.strip()):
            raise InvalidField("SUREFOOT_TOKENS", "must look like 'name=token,name=token'")
        names.append((token.strip(), name.strip()))
    return names

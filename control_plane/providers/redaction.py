"""Keeps what a source's URL says in confidence out of everything that people read."""

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

HIDDEN = "***"
USER_INFO = re.compile(r"(?<=://)[^/\s'\"]*@")
ASSIGNED = re.compile(
    r"(?i)\b((?:\w*_)?(?:password|passwd|pwd|secret|token|api_?key)\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s;&,]+)"
)
SECRET_KEY = re.compile(r"(?i)password|passwd|pwd|secret|token|key|credential|connect")


def forms_of(password: str, *, user: str = "") -> tuple[str, ...]:
    """Every form in which a password may turn up in an error, the longest first."""
    forms = {password, quote(password), quote(password, safe=""), quote_plus(password), repr(password)[1:-1]}
    forms.add(base64.b64encode(f"{user}:{password}".encode()).decode())
    return tuple(sorted(filter(None, forms), key=len, reverse=True))


def without_secrets(text: str, forms: Iterable[str]) -> str:
    for form in forms:
        text = text.replace(form, HIDDEN)
    return ASSIGNED.sub(rf"\1{HIDDEN}", USER_INFO.sub(f"{HIDDEN}@", text))

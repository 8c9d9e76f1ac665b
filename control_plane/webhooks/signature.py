"""Who sent it, and that nothing was changed: headers after Standard Webhooks 1.0 (standardwebhooks.com)."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime


def headers_of(event_id: str, body: bytes, secrets: Sequence[bytes], *, now: datetime) -> dict[str, str]:
    """Id, time of this attempt and, for every secret, a signature over both and the body.

    A receiver accepts any one of the signatures, so that a secret is changed without a moment at which both sides
    disagree; it drops what is minutes old, and ids that it has seen.
    """
    seconds = str(int(now.timestamp()))
    headers = {"webhook-id": event_id, "webhook-timestamp": seconds}
    if secrets:
        signed = b".".join((event_id.encode(), seconds.encode(), body))
        headers["webhook-signature"] = " ".join(f"v1,{_signature(secret, signed)}" for secret in secrets)
    return headers


def _signature(secret: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()

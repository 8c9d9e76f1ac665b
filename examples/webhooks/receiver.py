"""A webhook receiver that needs nothing but Python: it verifies who is calling, and acts on each event once.

WEBHOOK_SECRET=whsec_… python examples/webhooks/receiver.py 8030
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

TOLERANCE_SECONDS = 300  # an older request may be one that somebody recorded
SECRET = os.environ["WEBHOOK_SECRET"]


def is_genuine(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Whether the sender knows our secret, nothing was changed on the way, and it was sent just now."""
    event_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{event_id}.{timestamp}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    given = headers.get("webhook-signature", "").encode().split(b" ")  # several, while a secret is changed
    return any(hmac.compare_digest(expected, signature) for signature in given)


class Handler(BaseHTTPRequestHandler):
    seen: set[str] = set()  # noqa: RUF012  # in earnest: a table, and the id in the transaction that acts on the event

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if not is_genuine(self.headers, body, SECRET):
            self.answer(401)
            return
        event = json.loads(body)
        if event["id"] not in self.seen:  # at least once: the same event may come twice
            print(event["type"], event["subject"], event["data"].get("reason", ""), flush=True)
            self.seen.add(event["id"])
        self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()

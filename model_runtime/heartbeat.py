"""Tells the control plane every second what this runtime serves, holds and counted."""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from urllib.parse import quote

from model_runtime.control_link import Backoff, ControlLink, Unreachable

log = logging.getLogger(__name__)


class Heartbeat:
    """Posts what `report` returns; a missed beat is not made up for."""

    def __init__(
        self,
        base_url: str,
        runtime_id: str,
        report: Callable[[], Mapping[str, object]],
        *,
        token: str = "",
        seconds: float = 1.0,
    ) -> None:
        self._link = ControlLink(base_url, token=token)
        self._path = f"/v1/runtimes/{quote(runtime_id, safe='')}/heartbeat"
        self._report = report
        self._seconds = seconds
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hurry(self) -> None:
        """Beat now: there is news that a rollout may be waiting for."""
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        while self._thread.is_alive():
            self._link.close()
            self._thread.join(0.2)
        self._link.close()

    def beat(self) -> None:
        """Post once.

        Raises:
            Unreachable: the control plane did not take it.
        """
        body = json.dumps(self._report()).encode()
        answer = self._link.request("POST", self._path, body=body, headers={"Content-Type": "application/json"})
        if answer.status >= 300:
            raise Unreachable(self._path, f"answered {answer.status}: {answer.body[:200].decode('utf-8', 'replace')}")

    def _beat_on(self) -> None:
        backoff = Backoff(self._seconds)
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.beat()
                backoff.succeeded()
                wait = self._seconds
            except Exception as error:  # without a beat this runtime would count as gone, though it serves
                log.info("no heartbeat: %s", error)
                wait = backoff.failed()
            self._wake.wait(wait)

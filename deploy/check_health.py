"""Container health: exit 0 if a health address answers 200 and, where asked, a scheduler ticked lately."""

import argparse
import json
import sys
import time
import urllib.request
from collections.abc import Sequence
from datetime import datetime

TIMEOUT_SECONDS = 3.0


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--ticked-within", type=float, metavar="SECONDS", help="of the scheduler, on this clock")
    arguments = parser.parse_args(argv)
    try:
        with urllib.request.urlopen(arguments.url, timeout=TIMEOUT_SECONDS) as answer:
            body = answer.read()
    except OSError as error:
        print(f"{arguments.url}: {error}")
        return 1
    if arguments.ticked_within is None:
        return 0
    silent_seconds = time.time() - last_tick(body)
    print(f"last tick {silent_seconds:.0f} s ago")
    return 0 if silent_seconds <= arguments.ticked_within else 1


def last_tick(body: bytes) -> float:
    """Seconds since the epoch; 0 before the first tick."""
    told = json.loads(body)["last_tick_at"]
    return 0.0 if told is None else datetime.fromisoformat(told).timestamp()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

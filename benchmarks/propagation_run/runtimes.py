"""The runtime's own split clients, several in one process: they note when their table held which generation.

Prints "ready" once every table holds a split, and on end of input one JSON object like that of `readers`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from control_plane.domain.model_version import Surface
from model_runtime.split_client import SplitClient
from model_runtime.split_table import SplitTable


class Runtime:
    """A client and its table; every version counts as loaded."""

    def __init__(self, url: str, surface: Surface, path: Path) -> None:
        self.held: list[tuple[int, int]] = []
        self._surface = surface
        self._table = SplitTable(is_ready=lambda split: True)
        self.client = SplitClient(self._table, url, path=path, on_change=self._settle)

    def _settle(self) -> None:
        self._table.settle()
        split = self._table.split(self._surface)
        if split is not None:
            self.held.append((time.monotonic_ns(), split.generation))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--surface", required=True)
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="surefoot-bench-") as folder:
        runtimes = [
            Runtime(arguments.url, Surface(arguments.surface), Path(folder) / f"{number}.json")
            for number in range(arguments.count)
        ]
        for runtime in runtimes:
            runtime.client.start()
        while not all(runtime.held and runtime.client.mode == "stream" for runtime in runtimes):
            time.sleep(0.05)
        print("ready", flush=True)
        sys.stdin.read()
        for runtime in runtimes:
            runtime.client.stop()
    print(json.dumps([runtime.held for runtime in runtimes]))


if __name__ == "__main__":
    main()

"""A process that is stopped within a write transaction on an SQLite file, as by SIGSTOP at a bad moment."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM surface")
print("holds", flush=True)
sys.stdin.read()
"""


@contextmanager
def stopped_writer(database: Path) -> Iterator[int]:
    """Yield its process id; at the end it is killed, and what it began is undone."""
    command = [sys.executable, "-c", SCRIPT, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds\n"
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            yield process.pid
        finally:
            process.kill()

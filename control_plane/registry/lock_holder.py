"""Which process holds the write lock of an SQLite file in WAL mode, as Linux tells it in /proc.

The file itself is never opened for this: closing it again would drop the locks that this process holds on it.
"""

from pathlib import Path

WRITE_LOCK_BYTE = 120  # of the file's -shm, by SQLite's wal-index format
LOCKS = Path("/proc/locks")
STOPPED = ("T", "t")  # as /proc/PID/stat tells: by a signal, by a debugger


def held_by(database: Path) -> str:
    """Who must go on or end before anyone else can write, in words; where that is not told, what to look for."""
    pid = holder(database)
    if pid is None:
        return "another process holds its write lock; if that is stopped within a transaction, resume it or end it"
    what = f"process {pid} holds its write lock"
    if not is_stopped(pid):
        return f"{what}; if it hangs, end it: what it has not committed is undone"
    return f"{what} and is stopped: `kill -CONT {pid}` resumes it, `kill -KILL {pid}` ends it and undoes what it began"


def holder(database: Path) -> int | None:
    """None where nobody holds the lock, or where this system does not tell."""
    try:
        inode = database.with_name(f"{database.name}-shm").stat().st_ino
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return None
    found = (_pid_of(line.split(), inode) for line in lines)
    return next((pid for pid in found if pid is not None and pid > 0), None)


def is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in STOPPED
    except OSError:
        return False


def _pid_of(fields: list[str], inode: int) -> int | None:
    """'3: POSIX  ADVISORY  WRITE 4711 fe:00:2335223 120 120'; who waits for a lock has '->' after the number."""
    if len(fields) != 8 or fields[3] != "WRITE" or not fields[5].endswith(f":{inode}"):
        return None
    first, last = int(fields[6]), fields[7]
    covers = first <= WRITE_LOCK_BYTE and (last == "EOF" or int(last) >= WRITE_LOCK_BYTE)
    return int(fields[4]) if covers else None

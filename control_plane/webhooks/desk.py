"""The registry as the courier uses it: one transaction at a time, on one thread, so on one connection."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy.orm import Session

from control_plane.registry.session import Sessions

T = TypeVar("T")


class Desk:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="courier's desk")

    async def read(self, work: Callable[[Session], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, work)

    async def write(self, work: Callable[[Session], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._write, work)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, work: Callable[[Session], T]) -> T:
        with self._sessions.reading() as session:
            return work(session)

    def _write(self, work: Callable[[Session], T]) -> T:
        with self._sessions.writing() as session:
            return work(session)

"""Reads that are asked for all the time: answered from memory for as long as the registry has not changed.

Nothing stale is ever answered: an answer is kept beside the mark that the registry bore before it was read, and given
only while the registry still bears it.
"""

import copy
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response, status
from fastapi.routing import APIRoute
from sqlalchemy import Engine

from control_plane.registry.change_mark import ChangeMark

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Memory:
    """Answers by path, all read while the registry bore `_mark`."""

    def __init__(self, engine: Engine) -> None:
        self._change_mark = ChangeMark(engine)
        self._mark: int | None = None
        self._answers: dict[str, Response] = {}

    def mark(self) -> int | None:
        """The registry's present one; None where it has none, and nothing can be remembered."""
        return self._change_mark.read()

    def recall(self, path: str, mark: int) -> Response | None:
        return copy.copy(self._answers.get(path)) if mark == self._mark else None

    def keep(self, path: str, mark: int, answer: Response) -> None:
        """`mark` is what the registry bore before the answer was read."""
        if mark != self._mark:
            self._mark, self._answers = mark, {}
        self._answers[path] = copy.copy(answer)

    def close(self) -> None:
        self._change_mark.close()


class RememberedRoute(APIRoute):
    """A route whose successes depend on its path and the registry alone; a known one costs no thread and no query."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            memory: Memory = request.app.state.parts.memory
            path, mark = request.scope["path"], memory.mark()
            if mark is None:
                return await handle(request)
            answered = memory.recall(path, mark)
            if answered is None:
                answered = await handle(request)
                if answered.status_code == status.HTTP_200_OK:
                    memory.keep(path, mark, answered)
            return answered

        return answer

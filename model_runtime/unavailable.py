"""Why a sound request gets no scores; each says when it is worth asking again."""


class Unavailable(Exception):
    """Nothing can answer now; the caller may ask another replica, or again later."""

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Overloaded(Unavailable):
    """What waits already is as much as may wait."""


class DeadlineMissed(Unavailable):
    """The caller no longer waits for the answer, so none was computed."""

    def __init__(self, waited_seconds: float) -> None:
        super().__init__(f"the deadline passed after {waited_seconds * 1e3:.0f} ms of waiting; not computed")

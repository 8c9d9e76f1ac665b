"""When a failed event is sent again."""

from dataclasses import dataclass

LONGEST_RETRY_AFTER = 86_400.0  # seconds: a receiver may ask for a day, not for ever


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """Waits double from `first_seconds` to `longest_seconds`; after `max_attempts` the event is given up.

    As they stand: 5 s, 10 s, … 43 min, then every hour; given up some nine hours after the first attempt.
    """

    first_seconds: float = 5.0
    longest_seconds: float = 3_600.0
    max_attempts: int = 20

    def wait_seconds(
        self, attempts: int, *, at_random: float, retry_after_seconds: float | None = None
    ) -> float | None:
        """Seconds until the next attempt after `attempts` made; None: give up.

        Between three quarters and the whole of the doubled wait, by `at_random` in [0, 1): receivers that came back
        are not met by everything at once. A receiver that asks for a longer wait gets it.
        """
        if attempts >= self.max_attempts:
            return None
        doubled = min(self.longest_seconds, self.first_seconds * 2.0 ** min(attempts - 1, 60))
        wait = doubled * (0.75 + 0.25 * at_random)
        return max(wait, min(retry_after_seconds or 0.0, LONGEST_RETRY_AFTER))

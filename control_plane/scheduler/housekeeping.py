"""Lets go of what is old while nobody asks; run by the scheduler that acts, beside its ticks."""

import logging
from datetime import UTC, datetime, timedelta

from control_plane.clock import Clock
from control_plane.domain.errors import ControlPlaneError
from control_plane.registry import retention
from control_plane.registry.session import Sessions

logger = logging.getLogger(__name__)

BY = "retention"
EVERY_SECONDS = 3600.0


class Housekeeper:
    """`keep_days` of 0 keeps everything."""

    def __init__(self, sessions: Sessions, clock: Clock, *, keep_days: float) -> None:
        self._sessions = sessions
        self._clock = clock
        self._keep = timedelta(days=keep_days)

    def sweep(self, epoch: int | None) -> list[retention.Old]:
        """One pass under the lease's epoch; without one, nothing. Never raises: the next pass tries again."""
        if epoch is None or not self._keep:
            return []
        try:
            return retention.prune(
                self._sessions,
                keep=self._keep,
                by=BY,
                now=self._clock(),
                wall_now=datetime.now(UTC),
                epoch=epoch,
            )
        except ControlPlaneError as error:
            logger.warning("nothing more is pruned for now: %s", error)
        except Exception:
            logger.exception("pruning failed; trying again")
        return []

"""Which arm answers each user of a batch, and whom the shadow scores too; pure. U = users."""

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.split import Arm, Split, slot_of


def arms(split: Split, user_key_U: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Arm of each user, shape (U,); equal to `split.arm_of` of each key."""
    if split.candidate_bp == 0:
        return np.full(user_key_U.shape, Arm.STABLE, dtype=np.int64)
    return (slot_of(user_key_U, split.salt) < split.candidate_bp).astype(np.int64)


def shadowed(split: Split, user_key_U: NDArray[np.uint64], sample_bp: int) -> NDArray[np.bool_]:
    """Users whose requests a shadow samples, shape (U,); drawn apart from the arms by a salt of its own.

    A smaller sample is part of every larger one, so that several shadows score the same requests.
    """
    if sample_bp == 0:
        return np.zeros(user_key_U.shape, dtype=np.bool_)
    return np.asarray(slot_of(user_key_U, f"{split.salt}/shadow") < sample_bp)

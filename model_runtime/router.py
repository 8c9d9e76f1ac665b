"""Which arm answers each user of a batch, and whom the shadow scores too; pure. U = users."""

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.split import Arm, Split, slot_of


def arms(split: Split, user_key_U: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Arm of each user, shape (U,); equal to `split.arm_of` of each key."""
    if split.candidate_bp == 0:
        return np.full(user_key_U.shape, Arm.STABLE, dtype=np.int64)
    return (slot_of(user_key_U, split.salt) < split.candidate_bp).astype(np.int64)


def shadowed(split: Split, user_key_U: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Users whose requests the shadow samples, shape (U,); drawn apart from the arms by a salt of its own."""
    if split.shadow is None or split.shadow_sample_bp == 0:
        return np.zeros(user_key_U.shape, dtype=np.bool_)
    return np.asarray(slot_of(user_key_U, f"{split.salt}/shadow") < split.shadow_sample_bp)

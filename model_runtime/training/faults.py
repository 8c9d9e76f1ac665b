"""Faults put into an export on purpose, for drills: each makes a version that loads, answers and is wrong.

A faulted export's golden scores are those of the faulted network, and its calibrators claim to be fitted on it, so
nothing but live evidence can tell it.
"""

import copy
import math
from dataclasses import dataclass, replace

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from model_runtime.training.joint import JointCheckpoint, weights_of


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratorFault:
    """Multiply the click odds of one surface by `factor`: every intercept gains ln(factor).

    A probability p becomes factor·p / (1 + (factor - 1)·p), which for small p is factor·p.
    The ranking within a view type stays as it was, and so do the other surfaces and the trunk.
    """

    surface: Surface
    factor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkFault:
    """Negate the embedding table: what the network learnt to prefer it now avoids, on every surface.

    Rankings become worse than chance, while scores stay probabilities near the click rate, so that no check of
    ranges or of the average sees it. (Permuting the rows instead leaves some surfaces better than chance.)
    """


Fault = CalibratorFault | TrunkFault


def parse_fault(text: str) -> Fault:
    """Read `SURFACE.calibrator=FACTOR` or `trunk=scramble`."""
    name, _, value = text.partition("=")
    if (name, value) == ("trunk", "scramble"):
        return TrunkFault()
    surface, _, part = name.partition(".")
    if part != "calibrator" or not surface:
        raise InvalidField("fault", f"must be SURFACE.calibrator=FACTOR or trunk=scramble, not {text!r}")
    try:
        factor = float(value)
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise InvalidField(f"fault {name}", f"must be a factor above 0, not {value!r}")
    return CalibratorFault(surface=Surface(surface), factor=factor)


def with_fault(joint: JointCheckpoint, fault: Fault) -> JointCheckpoint:
    """A faulted copy; the checkpoint given stays sound."""
    match fault:
        case CalibratorFault():
            joint.spec.view_types_of(fault.surface)
            calibrators = copy.deepcopy(dict(joint.calibrators))
            calibrators[fault.surface].intercept_V.add_(math.log(fault.factor))
            return replace(joint, calibrators=calibrators)
        case TrunkFault():
            network = copy.deepcopy(joint.network)
            network.trunk.embedding.table.data.neg_()
            return replace(joint, network=network, fitted_on=weights_of(network) if joint.fitted_on else {})

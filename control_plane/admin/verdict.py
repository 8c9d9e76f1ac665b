"""One verdict's page: the words, every finding, and how to judge it again."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from control_plane.admin.rollout import Evidence, load_evidence
from control_plane.domain.rollout import Rollout
from control_plane.registry import evidence, rollouts
from control_plane.registry.evidence import StoredVerdict


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictPage:
    stored: StoredVerdict
    rollout: Rollout
    evidence: Evidence


def load_verdict(session: Session, verdict_id: int) -> VerdictPage:
    stored = evidence.get_verdict(session, verdict_id)
    rollout = rollouts.get(session, stored.rollout_id)
    return VerdictPage(stored=stored, rollout=rollout, evidence=load_evidence(session, stored, rollout, [stored]))

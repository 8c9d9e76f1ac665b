"""What each figure is to reach, and below what a change is refused."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """`floor` is what every run must hold, on a busy machine too; `is_most` where less is better."""

    target: float
    floor: float
    is_most: bool = False

    def reaches(self, measured: float) -> bool:
        return measured <= self.target if self.is_most else measured >= self.target

    def holds(self, measured: float) -> bool:
        return measured <= self.floor if self.is_most else measured >= self.floor


BARS = {
    "fused_embedding_ratio": Bar(target=3, floor=1.5),
    "user_dedup_ratio": Bar(target=40, floor=15),
    "no_reuse_ratio": Bar(target=0.95, floor=0.80),
    "whole_model_ratio": Bar(target=30, floor=10),
    "cross_request_ratio": Bar(target=4, floor=2),
    "routed_towers_ratio": Bar(target=2.5, floor=1.8),
    "grouped_attention_ratio": Bar(target=1.5, floor=1.2),
    "head_only_shadow_share": Bar(target=0.15, floor=0.30, is_most=True),
    "pointer_flip_p99_ms": Bar(target=5, floor=50, is_most=True),
}

"""What the demo promised beforehand, and whether it happened; every answer is read over HTTP."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    name: str
    happened: bool
    detail: str


@dataclass(kw_only=True, slots=True)
class Checks:
    """Expected outcomes in the order of the story. One that was never looked at did not happen."""

    expected: tuple[str, ...]
    found: dict[str, Check] = field(default_factory=dict)

    def record(self, name: str, happened: bool, detail: str) -> Check:
        assert name in self.expected, f"{name} was never promised"
        check = Check(name=name, happened=happened, detail=detail)
        self.found[name] = check
        return check

    @property
    def is_complete(self) -> bool:
        """Whether everything was looked at, however it came out."""
        return all(name in self.found for name in self.expected)

    @property
    def all_happened(self) -> bool:
        return all(name in self.found and self.found[name].happened for name in self.expected)

    def in_order(self) -> list[Check]:
        return [
            self.found.get(name, Check(name=name, happened=False, detail="the demo never got there"))
            for name in self.expected
        ]

    def to_json(self) -> dict[str, bool]:
        return {check.name: check.happened for check in self.in_order()}

from control_plane.demo.checks import Checks


def test_an_outcome_that_was_never_looked_at_did_not_happen() -> None:
    checks = Checks(expected=("first", "second"))

    checks.record("first", True, "seen")

    assert checks.to_json() == {"first": True, "second": False}
    assert not checks.all_happened
    assert not checks.is_complete


def test_all_happened_once_every_outcome_did() -> None:
    checks = Checks(expected=("first",))

    checks.record("first", True, "seen")

    assert checks.all_happened

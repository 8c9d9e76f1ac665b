import pytest

from control_plane.domain.errors import InvalidField, Unauthenticated
from control_plane.registry.principals import authenticate, check_group, groups_of

TOKENS = "ada=s3cret, grace=hopper=1"


@pytest.mark.parametrize(("bearer", "name"), [("s3cret", "ada"), ("hopper=1", "grace")])
def test_a_token_gives_its_owners_name(bearer: str, name: str) -> None:
    assert authenticate(TOKENS, bearer) == name


@pytest.mark.parametrize("bearer", ["", "ada", "s3cre", "s3cret ", "geheimnisträger"])
def test_other_tokens_are_refused(bearer: str) -> None:
    with pytest.raises(Unauthenticated):
        authenticate(TOKENS, bearer)


def test_without_tokens_anyone_is_let_in() -> None:
    assert authenticate("", "whatever") == "anonymous"


@pytest.mark.parametrize("setting", ["s3cret", "=s3cret", "ada="])
def test_a_setting_that_would_lock_everyone_out_or_in_is_refused(setting: str) -> None:
    with pytest.raises(InvalidField, match="name=token"):
        authenticate(setting, "")


@pytest.mark.parametrize(
    ("name", "groups"), [("ann", {"oncall"}), ("bob", {"oncall", "leads"}), ("carol", {"leads"}), ("eve", set())]
)
def test_everyone_belongs_to_the_groups_that_name_them(name: str, groups: set[str]) -> None:
    assert groups_of("oncall = ann, bob; leads=bob,carol;", name) == groups


def test_without_groups_nobody_belongs_to_any() -> None:
    assert groups_of("", "ann") == frozenset()


def test_a_group_that_nobody_can_be_in_is_refused_with_those_there_are() -> None:
    check_group("oncall=ann", "oncall", field="bypass_group")

    with pytest.raises(InvalidField, match="bypass_group: no group 'leads'; known: oncall"):
        check_group("oncall=ann", "leads", field="bypass_group")
    with pytest.raises(InvalidField, match="SUREFOOT_GROUPS names none"):
        check_group("", "leads", field="bypass_group")

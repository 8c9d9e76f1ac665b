import json
from typing import Any

import pytest

from control_plane.commands.environment import read_settings
from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.settings import Settings
from control_plane.webhooks.subscribers import Format, named, read_subscribers
from tests.webhooks.scene import KEY, OTHER_KEY, a_subscriber, in_text

SLACK_URL = "https://hooks.slack.com/services/T0000SECRET/B0000SECRET/abcdefgh12345678"


def an_entry(**overrides: Any) -> dict[str, Any]:
    fields = {"name": "oncall", "url": "https://hooks.example/a-secret-path", "secret": in_text(KEY)}
    return {name: value for name, value in {**fields, **overrides}.items() if value is not None}


def test_a_setting_names_subscribers_and_what_they_want() -> None:
    audit = an_entry(name="audit", events=["surefoot.quarantine.*", "surefoot.rollout.held"])
    slack = an_entry(name="people", url=SLACK_URL, secret=None, format="slack")

    found = read_subscribers(json.dumps([an_entry(), audit, slack]))

    assert [subscriber.name for subscriber in found] == ["oncall", "audit", "people"]
    assert found[0].secrets == (KEY,)
    assert (found[2].format, found[2].secrets) == (Format.SLACK, ())
    assert found[0].wants("surefoot.split.changed")
    assert found[1].wants("surefoot.quarantine.added")
    assert not found[1].wants("surefoot.rollout.expired")
    assert not found[2].wants("surefoot.split.changed")


def test_a_secret_on_its_way_out_stands_beside_the_one_on_its_way_in() -> None:
    entry = an_entry(secret=None, secrets=[in_text(OTHER_KEY), in_text(KEY)])

    (subscriber,) = read_subscribers(json.dumps([entry]))

    assert subscriber.secrets == (OTHER_KEY, KEY)


def test_no_setting_is_no_subscriber() -> None:
    assert read_subscribers("") == read_subscribers("[]") == ()


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ("name", "[0]"),
        (an_entry(surprise=1), "[0]"),
        (an_entry(name=None), "[0].name"),
        (an_entry(name="On Call"), "[0].name"),
        (an_entry(name="n" * 41), "[0].name"),
        (an_entry(url=None), "[0].url"),
        (an_entry(url="ftp://hooks.example/a-secret-path"), "[0].url"),
        (an_entry(url="hooks.example/a-secret-path"), "[0].url"),
        (an_entry(url="https://hooks.example:port/a-secret-path"), "[0].url"),
        (an_entry(url="https://hooks.example/a-secret-path#top"), "[0].url"),
        (an_entry(secret=None), "[0].secret"),
        (an_entry(secret="a-secret-path"), "[0].secret"),
        (an_entry(secret="whsec_not base64 a-secret-path"), "[0].secret"),
        (an_entry(secret="whsec_c2hvcnQ="), "[0].secret"),
        (an_entry(secrets=[in_text(OTHER_KEY)]), "[0].secrets"),
        (an_entry(secret=None, secrets=[in_text(KEY), "a-secret-path"]), "[0].secrets[1]"),
        (an_entry(secret=None, secrets=[in_text(KEY)] * 3), "[0].secrets"),
        (an_entry(format="teams"), "[0].format"),
        (an_entry(format=["slack"]), "[0].format"),
        (an_entry(events=[]), "[0].events"),
        (an_entry(events="*"), "[0].events"),
        (an_entry(events=["*", "surefoot.rollout.rolledback"]), "[0].events[1]"),
    ],
)
def test_a_bad_entry_is_told_by_its_key_and_shows_no_value(entry: object, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read_subscribers(json.dumps([entry]))

    assert caught.value.field == f"SUREFOOT_WEBHOOKS{field}"
    for secret in ("a-secret-path", in_text(KEY), in_text(OTHER_KEY)):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("setting", ['{"name": "x"}', "name=url", '[{"url": "https://a-secret-path'])
def test_what_is_no_array_is_refused_without_showing_it(setting: str) -> None:
    with pytest.raises(InvalidField, match="must be a JSON array") as caught:
        read_subscribers(setting)

    assert "a-secret-path" not in str(caught.value)


def test_a_name_stands_once() -> None:
    with pytest.raises(InvalidField, match=r"\[1\]\.name: 'oncall' stands there twice"):
        read_subscribers(json.dumps([an_entry(), an_entry()]))


def test_a_process_ends_with_a_sentence_where_a_subscriber_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUREFOOT_WEBHOOKS", json.dumps([an_entry(secret="whsec_guess-me-if-you-can")]))

    with pytest.raises(BaseException) as caught:  # noqa: PT011  # typer's way to end a process
        read_settings()

    assert getattr(caught.value, "exit_code", None) == 2
    said = capsys.readouterr().err
    assert "SUREFOOT_WEBHOOKS[0].secret: must be" in said
    assert "guess-me" not in said


def test_settings_show_neither_url_nor_secret() -> None:
    setting = json.dumps([an_entry(), an_entry(name="people", url=SLACK_URL)])
    settings = Settings(webhooks=setting)

    shown = repr(settings) + str(settings) + repr(settings.webhooks)

    for secret in ("a-secret-path", SLACK_URL, "abcdefgh12345678", in_text(KEY), repr(KEY), "services"):
        assert secret not in shown


def test_what_a_receiver_repeats_of_our_secrets_is_hidden() -> None:
    subscriber = a_subscriber(SLACK_URL.replace("https://", "https://ann:pass-word-1@"))
    said = (
        f"Cannot POST /services/T0000SECRET/B0000SECRET/abcdefgh12345678 at {subscriber.url}, "
        f"key {in_text(KEY)}, token abcdefgh12345678, as ann:pass-word-1"
    )

    shown = subscriber.hides(said)

    for secret in ("T0000SECRET", "B0000SECRET", "abcdefgh12345678", in_text(KEY).removeprefix("whsec_"), "pass-word"):
        assert secret not in shown
    assert subscriber.origin == "https://hooks.slack.com"


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"no webhook subscriber 'nobody'; known: oncall"):
        named((a_subscriber("http://host"),), "nobody")

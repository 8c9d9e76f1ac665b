import httpx
import pytest

from control_plane.domain.errors import InvalidField
from control_plane.providers.prometheus import Prometheus
from control_plane.providers.sources import make_sources, read_urls
from control_plane.providers.sql import SqlDatabase
from control_plane.settings import Settings


def test_sources_come_from_the_environment_and_none_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "SUREFOOT_METRIC_SOURCES",
        '{"prod": "prometheus+https://ann:hunter2@host:9090/mimir", "warehouse": "postgresql://ann:hunter2@db/w"}',
    )

    settings = Settings()
    sources = make_sources(settings.metric_sources)

    assert isinstance(sources["prod"].provider, Prometheus)
    assert isinstance(sources["warehouse"].provider, SqlDatabase)
    assert "hunter2" not in repr(settings)


def test_no_sources_are_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_sources(Settings().metric_sources) == {}
    monkeypatch.setenv("SUREFOOT_METRIC_SOURCES", "")
    assert make_sources(Settings().metric_sources) == {}


@pytest.mark.parametrize(
    "setting", ["hunter2", "[]", '{"prod": 1}', '"prometheus+http://ann:hunter2@host"', "{'a': 1}"]
)
def test_a_setting_that_is_no_object_of_urls_is_told_without_showing_it(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUREFOOT_METRIC_SOURCES", setting)

    with pytest.raises(InvalidField, match="SUREFOOT_METRIC_SOURCES: must be a JSON object") as caught:
        Settings()

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "url", "words"),
    [
        ("pr'od", "prometheus+http://host", "names must be"),
        ("", "prometheus+http://host", "names must be"),
        ("prod", "", "prod: must be a URL"),
        ("prod", "hunter2", "prod: must be a URL"),
        ("prod", "http://ann:hunter2@host:9090", "must begin with prometheus+http://"),
        ("prod", "prometheus://ann:hunter2@host:9090", "must begin with prometheus+http://"),
        ("prod", "prometheus+http://", "prod: must be a URL"),
        ("prod", "prometheus+ftp://ann:hunter2@host", "prod: must be a URL"),
        ("prod", "prometheus+http://ann:hunter2@host:port", "prod: must be a URL"),
        ("prod", "prometheus+http://host?token=hunter2", "without a query"),
        ("prod", "prometheus+http://ann:hunter2@ho\nst", "prod: must be a URL"),
        ("prod", "postgresql://ann:x@host:hunter2/w", "prod: must be a URL"),
        ("prod", "sqlite://", "prod: must name a file"),
        ("prod", "sqlite:///:memory:", "prod: must name a file"),
        ("prod", "sqlite:///file:x.db?mode=rwc&uri=true", "prod: must name a file"),
        ("prod", "cockroach+nonsense://ann:hunter2@host/w", "knows no database 'cockroach+nonsense'"),
        ("prod", "oracle+oracledb://ann:hunter2@host/w", "driver of oracle+oracledb is missing"),
    ],
)
def test_a_bad_entry_is_named_and_its_url_is_not_shown(name: str, url: str, words: str) -> None:
    with pytest.raises(InvalidField) as caught:
        make_sources({name: url})

    assert words in str(caught.value)
    assert str(caught.value).startswith("SUREFOOT_METRIC_SOURCES: ")
    assert "hunter2" not in str(caught.value)


def test_a_url_with_a_password_keeps_it_out_of_the_url_that_is_asked() -> None:
    source = make_sources({"prod": "prometheus+http://ann:hunter2@host:9090/mimir/"})["prod"]

    assert isinstance(source.provider, Prometheus)
    assert source.provider.url == httpx.URL("http://host:9090/mimir/api/v1/query")
    assert "hunter2" in source.secrets


def test_reading_the_setting_is_reading_json() -> None:
    assert read_urls('{"prod": "prometheus+http://host"}') == {"prod": "prometheus+http://host"}

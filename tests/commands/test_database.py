import pytest

from tests.commands.conftest import Run


@pytest.mark.parametrize("command", ["upgrade", "check"])
def test_a_registry_that_cannot_be_opened_is_a_plain_sentence(
    surefoot: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("SUREFOOT_DATABASE_URL", "sqlite:////dev/null/registry.db")

    refused = surefoot("db", command)

    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: ")
    assert "registry" in refused.stderr

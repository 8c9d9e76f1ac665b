"""A registry on each database, as the registry's own tests have it, and receivers that listen for real."""

from collections.abc import Iterator

import pytest

from tests.registry.conftest import registry_url, sessions, sqlite_template
from tests.webhooks.receiver import Receiver

__all__ = ["registry_url", "sessions", "sqlite_template"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
def other_receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started

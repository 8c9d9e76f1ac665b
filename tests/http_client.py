"""A client that calls an app in this process, its lifespan included, without a socket."""

import warnings
from collections.abc import Mapping

import httpx
from fastapi import FastAPI

with warnings.catch_warnings():  # Starlette would rather have another HTTP library than the one we use
    warnings.simplefilter("ignore", UserWarning)
    from starlette.testclient import TestClient

__all__ = ["TestClient", "in_process"]


def in_process(app: FastAPI, *, headers: Mapping[str, str] | None = None) -> httpx.Client:
    """Entered as a context, it runs the app's lifespan; an error that nobody foresaw comes back as its answer."""
    return TestClient(app, raise_server_exceptions=False, headers=None if headers is None else dict(headers))

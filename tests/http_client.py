"""Starlette's test client; it warns on import that it would rather have another HTTP library than ours."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    from starlette.testclient import TestClient

__all__ = ["TestClient"]

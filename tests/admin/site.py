"""What a test does to the admin page: read pages, press buttons, look at what happened."""

from dataclasses import dataclass

import httpx

from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Rollout, RolloutId
from control_plane.registry import history, surfaces
from control_plane.registry.history import Entry
from control_plane.registry.surfaces import SurfaceState
from tests.admin.showcase import Showcase

HOME_FEED = Surface("home_feed")


@dataclass(kw_only=True)
class Site:
    client: httpx.Client
    showcase: Showcase
    rollout_id: RolloutId

    def read(self, path: str) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/html")
        return answer.text

    def press(self, path: str, **fields: str | int) -> httpx.Response:
        """Post a form that saw the present generation, and do not follow where it leads."""
        form = {"seen_generation": str(self.state().generation), **{name: str(value) for name, value in fields.items()}}
        return self.client.post(path, data=form, follow_redirects=False)

    def command(self, command: str, **fields: str | int) -> httpx.Response:
        return self.press(f"/rollouts/{self.rollout_id}/{command}", **fields)

    def ramp(self, steps: int = 1) -> None:
        """To a step of the ramp, past its gates."""
        for command in ("start", *["skip"] * (1 + steps)):
            assert self.command(command, reason="a test").status_code == 303

    def rollout(self) -> Rollout:
        return self.showcase.rollout(self.rollout_id)

    def state(self, surface: str = HOME_FEED) -> SurfaceState:
        with self.showcase.sessions.reading() as session:
            return surfaces.get(session, Surface(surface))

    def last_change(self) -> Entry:
        with self.showcase.sessions.reading() as session:
            return history.list_history(session, HOME_FEED, limit=1)[0]

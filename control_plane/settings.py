"""Deployment facts, from the environment (SUREFOOT_…); built once in `__main__` and passed down."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from control_plane.providers.sources import read_urls
from control_plane.webhooks.subscribers import Subscriber, read_subscribers


class Settings(BaseSettings):
    """Where things are. What decides how a rollout goes is in its plan, never here."""

    model_config = SettingsConfigDict(env_prefix="SUREFOOT_", frozen=True)

    data_dir: Path = Path("surefoot-data")
    database_url: str = ""  # empty: SQLite in data_dir
    event_log_dir: Path | None = None  # None: events/ in data_dir
    host: str = "127.0.0.1"
    port: int = Field(default=8020, ge=0, le=65_535)
    runtime_host: str = "127.0.0.1"
    runtime_port: int = Field(default=8021, ge=0, le=65_535)
    clock_file: Path | None = None  # set only by replays: milliseconds since the epoch
    tick_seconds: float = Field(default=1.0, gt=0)  # the scheduler looks for due rollouts this often
    runs_scheduler: bool = True  # whether `serve` carries a scheduler, beside any stand-alone one
    lease_seconds: float = Field(default=10.0, gt=0)  # a scheduler that is silent for longer is deposed
    runtime_silent_seconds: float = Field(default=30.0, gt=0)  # wall time after which a runtime counts as gone
    retention_days: float = Field(default=90.0, ge=0)  # of what judges saw and runtimes told; 0 keeps everything
    tokens: str = ""  # "name=token,name=token"; empty: anyone who reaches the port may act
    groups: str = ""  # "group=name,name;group=name": who may overrule freezes and approve steps
    # Where external metrics are read: JSON, name to URL. Never shown, for a URL may hold a password.
    metric_sources: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict, repr=False)

    # Who is told of changes: JSON, see docs/webhooks.md. Never shown, for it holds secrets.
    webhooks: Annotated[tuple[Subscriber, ...], NoDecode] = Field(default=(), repr=False)
    webhook_timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    webhook_max_attempts: int = Field(default=20, ge=1)  # after which an event is on the dead-letter list
    webhook_retention_days: float = Field(default=14.0, ge=1)  # of what was delivered
    public_url: str = Field(default="", pattern=r"^(https?://\S+)?$")  # of the admin page, in messages to people

    @field_validator("retention_days")
    @classmethod
    def _refuse_less_than_a_day(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("must be 0, which keeps everything, or at least 1")
        return value

    @field_validator("webhooks", mode="before")
    @classmethod
    def _read_webhooks(cls, value: object) -> object:
        return read_subscribers(value) if isinstance(value, str) else value

    @field_validator("metric_sources", mode="before")
    @classmethod
    def _read_metric_sources(cls, value: object) -> object:
        return read_urls(value) if isinstance(value, str) else value

    @property
    def shown_url(self) -> str:
        return self.public_url or f"http://{self.host}:{self.port}"

    @property
    def registry_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'registry.db').resolve()}"

    @property
    def log_dir(self) -> Path:
        return self.event_log_dir if self.event_log_dir is not None else self.data_dir / "events"

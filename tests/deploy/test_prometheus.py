import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.app import create_app
from control_plane.clock import system_clock
from control_plane.settings import Settings
from tests.http_client import in_process

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_prometheus_scrapes_both_replicas_and_every_runtime() -> None:
    read = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

    jobs = {job["job_name"]: job for job in read["scrape_configs"]}
    targets = jobs["control-plane"]["static_configs"][0]["targets"]
    assert {target.split(":")[0] for target in targets} <= set(compose["services"])
    assert jobs["runtime"]["dns_sd_configs"][0]["names"] == ["runtime"]
    assert read["rule_files"] == ["alerts.yml"]


def test_every_alert_says_how_bad_it_is_and_what_it_means(rules: list[dict[str, Any]]) -> None:
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert re.fullmatch(r"Surefoot[A-Z]\w+", rule["alert"])
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        assert set(rule["annotations"]) == {"summary", "description"}


def test_every_alert_asks_for_metrics_that_exist(rules: list[dict[str, Any]], tmp_path: Path) -> None:
    with in_process(create_app(Settings(data_dir=tmp_path, runs_scheduler=False), system_clock)) as client:
        of_the_control_plane = client.get("/metrics").text
    of_the_runtime = (ROOT / "model_runtime/metrics.py").read_text()

    asked = {name for rule in rules for name in re.findall(r"surefoot_\w+", rule["expr"])}
    known = of_the_control_plane + of_the_runtime
    assert asked
    assert [name for name in sorted(asked) if name.removesuffix("_total") not in known] == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: it comes with Prometheus")
def test_prometheus_itself_accepts_the_files() -> None:
    subprocess.run(["promtool", "check", "config", DEPLOY / "prometheus.yml"], check=True, timeout=60)

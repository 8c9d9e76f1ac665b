from pathlib import Path

import pytest

from model_runtime.settings import read_settings


def test_flags_win_over_the_environment_and_that_over_the_defaults() -> None:
    environ = {"SUREFOOT_RUNTIME_PORT": "9001", "SUREFOOT_RUNTIME_HOST": "0.0.0.0", "SUREFOOT_TOKEN": "secret"}

    settings = read_settings(["--port", "9002"], environ)

    assert (settings.port, settings.host, settings.token) == (9002, "0.0.0.0", "secret")
    assert settings.data_dir == Path("surefoot-data")


def test_a_url_may_end_in_a_slash() -> None:
    assert read_settings(["--control-plane", "http://127.0.0.1:8020/"], {}).control_plane == "http://127.0.0.1:8020"


@pytest.mark.parametrize(
    "argv",
    [
        ["--port", "-1"],
        ["--port", "65536"],
        ["--threads", "none"],
        ["--control-plane", "127.0.0.1:8020"],
        ["--control-plane", "ftp://here"],
        ["--control-plane", "http://here:port"],
        ["--runtime-id", "no spaces"],
        ["--runtime-id", ""],
        ["--device", "tpu"],
        ["--precision", "fp8"],
    ],
)
def test_a_value_that_makes_no_sense_names_its_flag(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings(argv, {})

    assert caught.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_the_profile_is_what_manifests_name_unless_a_person_says_otherwise() -> None:
    assert read_settings([], {}).precision == "manifest"
    assert read_settings([], {"SUREFOOT_PRECISION": "bf16"}).precision == "bf16"
    with pytest.raises(SystemExit):
        read_settings([], {"SUREFOOT_PRECISION": "fp8"})


def test_the_log_level_is_read_in_any_case_and_a_wrong_one_refused() -> None:
    assert read_settings([], {"SUREFOOT_LOG_LEVEL": "WARNING"}).log_level == "warning"
    assert read_settings(["--log-level", "debug"], {}).log_level == "debug"
    with pytest.raises(SystemExit):
        read_settings(["--log-level", "loud"], {})

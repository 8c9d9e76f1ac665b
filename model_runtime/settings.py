"""The runtime's deployment facts, from the command line and the environment (SUREFOOT_…)."""

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from control_plane.domain.manifest import PRECISIONS

RUNTIME_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")  # what the control plane takes
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
AS_EXPORTED = "manifest"  # the profile that a version's manifest names
MOST_LANES = 4  # by default: between a forward's operations they take turns at the interpreter


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeSettings:
    """Where this runtime lives and how much it takes on at once."""

    control_plane: str = "http://127.0.0.1:8020"
    host: str = "127.0.0.1"
    port: int = 8021
    data_dir: Path = Path("surefoot-data")  # the last-known-good splits stand here
    runtime_id: str = "runtime"
    device: str = "cpu"
    precision: str = AS_EXPORTED  # of all versions; that is what each one's manifest says
    torch_threads: int = 1  # more of them stall each other on contended cores
    lanes: int = 0  # forwards at once; 0 is one for each core of a CPU, up to four, and one for a GPU
    workers: int = 2  # requests read or written at once, while others are scored
    max_waiting: int = 64  # requests taken in at once; beyond it callers get 503 and try another replica
    max_seconds: float = 10.0  # that a request may wait for its scores, whatever longer time its caller grants
    batch_seconds: float = 0.02  # that a forward of several requests may take
    max_body_bytes: int = 256 << 20
    max_json_bytes: int = 16 << 20  # of a body: while JSON is parsed nothing else runs, and binary tensors need none
    max_held_bytes: int = 1 << 30  # of all requests together, whole or still on their way
    body_seconds: float = 30.0  # a sender that takes longer for a body is cut off
    max_rows: int = 500_000  # of one request
    max_users_per_forward: int = 2_048  # bounds the memory of the user part, whatever a request brings
    max_rows_per_forward: int = 8_192  # small enough that activations stay in the processor's caches
    slow_forward_seconds: float = 5.0  # users answered by a slower forward are counted as timeouts
    shadow_queue_rows: int = 200_000  # of each version that is shadowed
    shadow_queue_bytes: int = 256 << 20  # the same
    memory_budget_bytes: int = 0  # of all weights together; 0 is what the machine has
    repository: Path | None = None  # exports that may be loaded by hand; None is none
    event_buffer_rows: int = 1_000_000
    poll_seconds: float = 2.0
    heartbeat_seconds: float = 1.0
    drain_seconds: float = 1.0  # between SIGTERM, when readiness falls, and the end of new requests
    stop_seconds: float = 5.0  # a stopping runtime waits this long for its last events to leave
    log_level: str = "info"
    token: str = ""  # bearer token for the control plane


def read_settings(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> RuntimeSettings:
    """Flags win over the environment, the environment over the defaults; a bad flag exits with code 2."""
    arguments = _parser(environ).parse_args(argv)
    return RuntimeSettings(
        control_plane=arguments.control_plane,
        host=arguments.host,
        port=arguments.port,
        data_dir=arguments.data_dir,
        runtime_id=arguments.runtime_id,
        device=arguments.device,
        precision=arguments.precision,
        torch_threads=arguments.threads,
        lanes=arguments.lanes,
        log_level=arguments.log_level,
        max_waiting=arguments.max_waiting,
        drain_seconds=arguments.drain,
        memory_budget_bytes=arguments.memory_mb << 20,
        repository=arguments.repository,
        token=environ.get("SUREFOOT_TOKEN", ""),
    )


def usual_lanes(device: str, torch_threads: int) -> int:
    """Forwards at once where nobody chose: on a CPU one for each core that this process may use."""
    if device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_LANES, cores // torch_threads))


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model_runtime serve",
        description="Score requests by the Open Inference Protocol V2, routed as the control plane says.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    known = RuntimeSettings()

    def default(name: str, otherwise: str) -> str:
        return environ.get(f"SUREFOOT_{name}", otherwise)

    parser.add_argument(
        "--control-plane", type=_url, metavar="URL", default=default("CONTROL_PLANE", known.control_plane)
    )
    parser.add_argument("--host", default=default("RUNTIME_HOST", known.host))
    parser.add_argument(
        "--port", type=_port, default=default("RUNTIME_PORT", str(known.port)), help="0 takes a free one"
    )
    parser.add_argument("--data-dir", type=Path, default=default("DATA_DIR", str(known.data_dir)))
    parser.add_argument("--runtime-id", type=_name, default=default("RUNTIME_ID", socket.gethostname()))
    parser.add_argument("--device", type=_device, default=default("DEVICE", known.device), help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision",
        type=_precision,
        metavar="PROFILE",
        default=default("PRECISION", known.precision),
        help=f"{', '.join(PRECISIONS)}, or as each manifest says; what changes scores too much is refused for fp32",
    )
    parser.add_argument("--threads", type=_count, default=default("TORCH_THREADS", str(known.torch_threads)))
    parser.add_argument(
        "--lanes",
        type=_size,
        default=default("LANES", str(known.lanes)),
        help="forwards at once; 0 is one for each core of a CPU, up to four, and one for a GPU",
    )
    parser.add_argument(
        "--max-waiting",
        type=_count,
        default=default("MAX_WAITING", str(known.max_waiting)),
        help="requests taken in at once; more are answered with 503",
    )
    parser.add_argument(
        "--drain",
        type=_seconds,
        metavar="SECONDS",
        default=default("DRAIN_SECONDS", str(known.drain_seconds)),
        help="how long SIGTERM leaves the door open for balancers to see that readiness fell",
    )
    parser.add_argument(
        "--memory-mb",
        type=_size,
        default=default("MEMORY_MB", "0"),
        help="MiB for all weights together; 0 is what the machine has",
    )
    parser.add_argument(
        "--repository",
        type=_folder,
        metavar="DIR",
        default=default("REPOSITORY", ""),
        help="exports that may be loaded by hand (v2/repository); empty is none",
    )
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", type=str.lower, choices=levels, default=default("LOG_LEVEL", known.log_level))
    return parser


def _url(text: str) -> str:
    parts = urlsplit(text)
    try:
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise argparse.ArgumentTypeError(f"must be http(s)://host:port, not {text!r}")
    return text.rstrip("/")


def _name(text: str) -> str:
    if not RUNTIME_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be letters, digits and '._:-', 128 at most, not {text!r}")
    return text


def _precision(text: str) -> str:
    if text not in (AS_EXPORTED, *PRECISIONS):  # `choices` would let a bad environment through
        raise argparse.ArgumentTypeError(f"must be {', '.join(PRECISIONS)} or {AS_EXPORTED}, not {text!r}")
    return text


def _device(text: str) -> str:
    if not DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, not {text!r}")
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text!r}")
    return int(text)


def _size(text: str) -> int:
    if not text.isdecimal() or len(text) > 12:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3_600:
        raise argparse.ArgumentTypeError(f"must be 0 to 3600 seconds, not {text!r}")
    return seconds


def _folder(text: str) -> Path | None:
    if text and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, not {text!r}")
    return Path(text) if text else None

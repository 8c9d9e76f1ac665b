import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.errors import CalibratorMismatch, InvalidManifest, UnsafeArtifact
from control_plane.domain.manifest import (
    GOLDEN_FILE,
    FittedOn,
    LatencyCard,
    Manifest,
    Serving,
    check_calibrator,
    check_safetensors,
)
from control_plane.domain.model_version import ModelVersion, Part, ViewType, digest_of
from tests.builders import a_version

SERVING = {"precision": "fp32", "vocabularies": digest_of(b"words"), "max_unique_users": 8}
LATENCY = {"device": "cpu", "threads": 1, "users": 1, "rows": 512, "p50_ms": 1.5, "p99_ms": 2.0}


def a_manifest() -> Manifest:
    return Manifest(
        version=a_version(),
        model_name="unified",
        view_types=(ViewType("grid"), ViewType("closeup")),
        golden=digest_of(b"golden"),
        golden_tolerance=1e-5,
        training_run="run-1",
        config={"width": 8},
    )


def test_a_manifest_survives_json() -> None:
    assert Manifest.from_json(a_manifest().to_json()) == a_manifest()


def test_what_a_runtime_may_count_on_survives_json() -> None:
    latency = LatencyCard(device="cpu", threads=1, users=1, rows=512, p50_ms=1.5, p99_ms=2.0)
    serving = Serving(vocabularies=digest_of(b"words"), precision="bf16", max_unique_users=8, latency=latency)

    for each in (serving, replace(serving, latency=None)):
        manifest = replace(a_manifest(), serving=each)
        assert Manifest.from_json(manifest.to_json()) == manifest


def test_every_file_has_its_digest() -> None:
    manifest = a_manifest()

    assert manifest.digest_of_file("trunk.safetensors") == manifest.version.trunk
    assert manifest.digest_of_file("calibrator.safetensors") == manifest.version.calibrator
    assert manifest.digest_of_file(GOLDEN_FILE) == manifest.golden


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"format": "surefoot/2"}, "format"),
        ({"surface": "Home Feed"}, "surface"),
        ({"digests": []}, "digests"),
        ({"digests": {}}, "digests.trunk"),
        ({"golden": "md5:00"}, "golden"),
        ({"golden_tolerance": 0}, "golden_tolerance"),
        ({"golden_tolerance": float("nan")}, "golden_tolerance"),
        ({"golden_tolerance": 1}, "golden_tolerance"),
        ({"view_types": []}, "view_types"),
        ({"view_types": ["grid", "grid"]}, "view_types"),
        ({"view_types": [3]}, "view_types[0]"),
        ({"model_name": ""}, "model_name"),
        ({"training_run": None}, "training_run"),
        ({"training_run": "\ud800"}, "training_run"),
        ({"training_run": "a\0b"}, "training_run"),
        ({"training_run": "r" * 201}, "training_run"),
        ({"config": []}, "config"),
        ({"calibrator_fitted_on": []}, "calibrator_fitted_on"),
        ({"serving": []}, "serving"),
        ({"serving": {"precision": "fp8"}}, "serving.precision"),
        ({"serving": {"precision": "fp32"}}, "serving.vocabularies"),
        ({"serving": {**SERVING, "max_unique_users": 0}}, "serving.max_unique_users"),
        ({"serving": {**SERVING, "latency": []}}, "serving.latency"),
        ({"serving": {**SERVING, "latency": {**LATENCY, "threads": True}}}, "serving.latency.threads"),
        ({"serving": {**SERVING, "latency": {**LATENCY, "p50_ms": "fast"}}}, "serving.latency.p50_ms"),
        ({"serving": {**SERVING, "latency": {**LATENCY, "device": ""}}}, "serving.latency.device"),
        ({"calibrator_fitted_on": {"trunk": "md5:00"}}, "calibrator_fitted_on.trunk"),
        ({"calibrator_fitted_on": {"trunk": digest_of(b"trunk")}}, "calibrator_fitted_on.surface_export"),
    ],
)
def test_a_malformed_manifest_is_refused_by_field(change: dict[str, object], field: str) -> None:
    text = json.dumps({**json.loads(a_manifest().to_json()), **change})

    with pytest.raises(InvalidManifest) as refused:
        Manifest.from_json(text)

    assert refused.value.field == field


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff\xfe", "[" * 100_000])
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.from_json(text)


def test_equal_parts_are_one_version_and_any_other_part_is_another() -> None:
    version = a_version()

    assert version.version_id == a_version().version_id
    other = digest_of(b"other")
    others = {
        replace(version, trunk=other).version_id,
        replace(version, surface_export=other).version_id,
        replace(version, calibrator=other).version_id,
        replace(version, feature_signature=other).version_id,
    }
    assert len(others | {version.version_id}) == len(Part) + 1


def with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def safetensors(tensor_bytes: int = 8) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, tensor_bytes]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(tensor_bytes)


def test_whole_safetensors_pass() -> None:
    check_safetensors("trunk.safetensors", safetensors(), len(safetensors()))


@pytest.mark.parametrize("header_bytes", [0x0280, 0x0380, 0x0480, 0x0580, 0x4B50])
def test_a_header_whose_length_looks_like_a_pickle_is_none(header_bytes: int) -> None:
    content = header_bytes.to_bytes(8, "little") + b"{}".ljust(header_bytes)

    check_safetensors("trunk.safetensors", content, len(content))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x80\x04\x95pickled", "pickle"),
        (b"PK\x03\x04zip", "pickle or a zip"),
        (b"", "truncated"),
        (b"short", "truncated"),
        (safetensors()[:20], "truncated"),
        (safetensors()[:-1], "promises"),
        (safetensors() + b"tail", "promises"),
        (b"\xff" * 64, "makes no sense"),
        ((10).to_bytes(8, "little") + b"not json!!", "does not parse"),
        ((2).to_bytes(8, "little") + b"[]", "does not parse"),
        (with_header(b'{"w": {"data_offsets": [0, "x"]}}'), "does not parse"),
        (with_header(b'{"v": {"data_offsets": [0, 5]}, "w": {"data_offsets": [0, null]}}'), "does not parse"),
        (with_header(b'{"w": {"data_offsets": [0, 1e999]}}'), "does not parse"),
        (with_header(b'{"w":' * 100_000), "does not parse"),
    ],
)
def test_anything_else_is_refused_with_its_problem(content: bytes, problem: str) -> None:
    with pytest.raises(UnsafeArtifact, match=problem):
        check_safetensors("trunk.safetensors", content, len(content))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_check(content: bytes) -> None:
    if content == safetensors():
        return
    with pytest.raises(UnsafeArtifact):
        check_safetensors("x", content, len(content) + 1)


def fitted_on(version: ModelVersion) -> FittedOn:
    return FittedOn(trunk=version.trunk, surface_export=version.surface_export)


def test_a_calibrators_tie_to_its_weights_survives_json() -> None:
    tied = replace(a_manifest(), fitted_on=fitted_on(a_version()))

    assert Manifest.from_json(tied.to_json()) == tied
    check_calibrator(tied)


def test_a_manifest_of_before_ties_is_read_without_and_stays_the_bytes_it_was() -> None:
    before = a_manifest().to_json()

    assert "fitted_on" not in before
    assert Manifest.from_json(before).to_json() == before
    check_calibrator(Manifest.from_json(before))


@pytest.mark.parametrize("part", ["trunk", "surface_export"])
def test_a_calibrator_beside_other_weights_than_its_own_is_refused_by_part(part: str) -> None:
    other = replace(fitted_on(a_version()), **{part: digest_of(b"other")})

    with pytest.raises(CalibratorMismatch) as refused:
        check_calibrator(replace(a_manifest(), fitted_on=other))

    assert (refused.value.part, refused.value.fitted_on) == (part, digest_of(b"other"))


def test_a_change_of_the_calibrator_alone_is_seen_as_such() -> None:
    version = a_version()

    assert replace(version, calibrator=digest_of(b"new")).parts_unlike(version) == (Part.CALIBRATOR,)
    assert a_version("b", trunk="new").parts_unlike(version) == (Part.TRUNK, Part.SURFACE_EXPORT, Part.CALIBRATOR)
    assert version.parts_unlike(version) == ()

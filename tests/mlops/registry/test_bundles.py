"""A bundle is whole, signed, equal for equal training, and forecasts what it promised."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops.errors import BundleError, BundleUnavailable
from mlops.features.dataset import Dataset
from mlops.models import manifest
from mlops.models.bundle import Trust, main, open_bundle
from mlops.models.manifest import (
    CONFIG,
    GOLDEN,
    MANIFEST,
    REFERENCE,
    SIGNATURE,
    WEIGHTS,
    read_manifest,
)
from mlops.models.signing import SigningKey, load_key, load_or_make_key
from mlops.registry import Candidate, bundle_parts, verify_bundle, write_bundle

from .conftest import SERVICE, dataset_of, fitted

SMALL_LSTM = {"lstm_units": [8], "epochs": 2, "sequence_length": 10}


@pytest.mark.parametrize(("model_type", "config"), [("linear", {}), ("lstm", SMALL_LSTM)])
def test_equal_training_gives_a_bit_equal_digest(
    tmp_path: Path, bars: pd.DataFrame, model_type: str, config: dict[str, object]
) -> None:
    """Two keys sign one digest: the signature is no part of it."""
    digests = set()
    for name in ("first", "second"):
        dataset = dataset_of(bars.copy())
        parts = bundle_parts(fitted(model_type, dataset, config), dataset, SERVICE)
        key = SigningKey(name.encode() * 8)
        digests.add(write_bundle(parts, tmp_path / name, key))
    assert len(digests) == 1


def test_other_data_give_another_digest(tmp_path: Path, bars: pd.DataFrame, written: Path) -> None:
    fewer = dataset_of(bars.iloc[:-1])
    parts = bundle_parts(fitted("linear", fewer), fewer, SERVICE)
    key = SigningKey(b"k" * 32)
    assert write_bundle(parts, tmp_path / "other", key) != read_manifest(written).digest


def test_a_clean_process_reproduces_the_golden_examples(written: Path, signing_key: Path) -> None:
    assert verify_bundle(written, key_file=signing_key) == read_manifest(written).digest


def test_verification_imports_neither_mlflow_nor_torch(written: Path) -> None:
    code = (
        "import sys; from mlops.models.bundle import main; code = main(sys.argv[1:]); "
        "heavy = {'mlflow', 'torch', 'optuna', 'sqlalchemy', 'sklearn'} & set(sys.modules); "
        "print(sorted(heavy), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", str(written)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_a_bundle_forecasts_what_the_fitted_model_does(
    written: Path, dataset: Dataset, candidate: Candidate, bars: pd.DataFrame
) -> None:
    forecasts = open_bundle(written).predict(bars)["forecast"]
    direct = fitted("linear", dataset).forecast(dataset)
    np.testing.assert_array_equal(forecasts, direct[np.isfinite(direct)])
    assert forecasts.index.name == "open_time"


@pytest.mark.parametrize(
    "shape",
    [
        lambda bars: bars.reset_index(),
        lambda bars: bars.reset_index().assign(open_time=lambda f: f.open_time.astype(str)),
        lambda bars: bars.sample(frac=1.0, random_state=0),
    ],
    ids=["column", "text", "shuffled"],
)
def test_plain_frames_of_any_usual_shape_are_forecast(
    written: Path, bars: pd.DataFrame, shape: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    bundle, window = open_bundle(written), bars.tail(300)
    pd.testing.assert_frame_equal(bundle.predict(shape(window)), bundle.predict(window))


def altered(bundle: Path) -> None:
    (bundle / CONFIG).write_text((bundle / CONFIG).read_text().replace("0.1.0", "6.6.6"))


def stray(bundle: Path) -> None:
    (bundle / "payload.pkl").write_bytes(b"x")


def missing(bundle: Path) -> None:
    (bundle / WEIGHTS).unlink()


def linked(bundle: Path) -> None:
    (bundle / WEIGHTS).rename(bundle.parent / "elsewhere")
    (bundle / WEIGHTS).symlink_to(bundle.parent / "elsewhere")


def newer(bundle: Path) -> None:
    edit(bundle, schema_version=2)


def escaping(bundle: Path) -> None:
    edit(bundle, files={"/etc/passwd": "0" * 64})


def unreadable(bundle: Path) -> None:
    (bundle / MANIFEST).write_text("{")


def misdigested(bundle: Path) -> None:
    edit(bundle, digest="0" * 64)


def edit(bundle: Path, **changes: object) -> None:
    raw = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(raw | changes))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (altered, "config.json.*was altered"),
        (stray, "stray: payload.pkl"),
        (missing, "missing: weights.safetensors"),
        (linked, "weights.safetensors.*is a link"),
        (newer, "schema version 2, this release reads 1"),
        (escaping, "known formats"),
        (unreadable, "not a bundle's manifest"),
        (misdigested, "does not fit its manifest"),
    ],
)
def test_a_harmed_bundle_is_refused_and_the_harm_is_named(
    written: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(written)
    with pytest.raises(BundleError, match=message):
        open_bundle(written)


@pytest.mark.parametrize(
    "text",
    [
        '{"schema_version": Infinity, "format": "tensors", "files": {}, "digest": ""}',
        '{"schema_version": 1, "format": "tensors", "files": {"a": NaN}, "digest": ""}',
        '{"schema_version": 1, "format": "tensors", "files": {"a": 1}, "digest": ""}',
        '{"schema_version": 1, "format": "zip", "files": {}, "digest": ""}',
        "[" * 100_000,
        "\x00",
    ],
    ids=["infinity", "NaN", "number", "format", "brackets", "zero"],
)
def test_a_manifest_of_any_text_is_refused(written: Path, text: str) -> None:
    (written / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="not a bundle's manifest"):
        open_bundle(written)


@pytest.mark.parametrize("name", [WEIGHTS, GOLDEN, CONFIG, REFERENCE])
def test_a_file_that_changes_after_the_check_is_refused(
    written: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = manifest.read_manifest

    def check_then_swap(path: Path) -> manifest.Manifest:
        checked = check(path)
        (path / name).write_bytes((path / name).read_bytes() + b" ")
        return checked

    monkeypatch.setattr(manifest, "read_manifest", check_then_swap)
    with pytest.raises(BundleError, match=f"{name}.*changed while it was loaded"):
        read_everything(written)


def read_everything(path: Path) -> None:
    bundle = open_bundle(path)
    bundle.check_examples()
    bundle.tensors(REFERENCE)


def test_examples_that_cannot_be_forecast_are_refused(written: Path) -> None:
    bundle = open_bundle(written)
    config = dict(bundle.config, calendar="nowhere")
    with pytest.raises(BundleError, match="cannot be forecast"):
        replace(bundle, config=config).check_examples()


def test_a_bundle_over_the_size_cap_is_refused(written: Path) -> None:
    with pytest.raises(BundleError, match="more than 1,000"):
        read_manifest(written, max_bytes=1000)


def test_a_path_without_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle at"):
        open_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_what_keeps_this_process_from_reading_is_named_and_no_fault_of_the_bundle(
    written: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name == WEIGHTS:
            raise OSError(code, os.strerror(code), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(BundleUnavailable, match=rf"{WEIGHTS} cannot be read.*{os.strerror(code)}"):
        open_bundle(written)


def test_a_bundle_that_lost_a_file_while_it_was_read_is_at_fault(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = read_manifest(written)
    (written / WEIGHTS).unlink()
    with pytest.raises(BundleError, match=f"has lost {WEIGHTS}") as refused:
        checked.read(written, WEIGHTS)
    assert not isinstance(refused.value, BundleUnavailable)


@pytest.mark.parametrize("value", ["Infinity", "NaN", "1e999", "[" * 100_000])
def test_a_manifest_with_a_number_that_is_none_is_refused_by_the_command(
    written: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    text = (written / MANIFEST).read_text()
    (written / MANIFEST).write_text(
        text.replace('"schema_version": 1', f'"schema_version": {value}')
    )
    assert main(["verify", str(written)]) == 1
    assert "is not a bundle's manifest" in capsys.readouterr().err


def test_a_model_that_loads_but_forecasts_otherwise_is_refused(
    tmp_path: Path, signing_key: Path, candidate: Candidate
) -> None:
    """What no checksum sees: the example was made by other features or weights."""
    first = candidate.parts.golden[0]
    wrong = replace(candidate.parts, golden=(replace(first, expected=first.expected + 0.1),))
    write_bundle(wrong, tmp_path / "wrong", load_key(signing_key))
    with pytest.raises(BundleError, match="golden example 0 of wrong gives"):
        verify_bundle(tmp_path / "wrong", key_file=signing_key)


def test_a_verification_that_takes_too_long_is_refused(written: Path, signing_key: Path) -> None:
    with pytest.raises(BundleError, match=r"did not load within 0\.01 s"):
        verify_bundle(written, key_file=signing_key, timeout_s=0.01)


def test_another_installations_signature_is_refused(written: Path) -> None:
    with pytest.raises(BundleError, match="not signed with this installation's key"):
        open_bundle(written, Trust(SigningKey(b"x" * 32)))


def test_a_missing_signature_is_refused_where_a_key_is_given(
    written: Path, signing_key: Path
) -> None:
    trust = Trust(load_key(signing_key))
    for text in ("{}", "[" * 100_000, '{"algorithm": "none", "signature": ""}'):
        (written / SIGNATURE).write_text(text)
        with pytest.raises(BundleError, match="is not a signature"):
            open_bundle(written, trust)
    (written / SIGNATURE).write_text('{"algorithm": "hmac-sha256", "signature": "\u00e9"}')
    with pytest.raises(BundleError, match="not signed with"):
        open_bundle(written, trust)


def test_the_command_says_why_on_standard_error(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stray(written)
    assert main(["verify", str(written)]) == 1
    assert "stray: payload.pkl" in capsys.readouterr().err


def test_the_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "bundle.key"
    assert load_or_make_key(path).secret == load_or_make_key(path).secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["bundle.key"]


def test_a_key_that_others_may_read_is_refused(signing_key: Path) -> None:
    signing_key.chmod(0o644)
    with pytest.raises(BundleError, match="chmod 600"):
        load_key(signing_key)


def test_a_key_does_not_show_itself(signing_key: Path) -> None:
    key = load_key(signing_key)
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(Trust(key))


def test_too_few_bars_for_an_example_are_refused(linear: object, bars: pd.DataFrame) -> None:
    with pytest.raises(BundleError, match="no stretch of"):
        bundle_parts(linear, dataset_of(bars.iloc[:150]), SERVICE)  # type: ignore[arg-type]

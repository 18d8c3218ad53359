"""A project with a version of each kind, made once; each scenario gets the store to itself.

The service is the embedded sample, which goes by under the labelled replay clock, so that bars
close as fast as a test likes. Versions are named for what they are. MLflow has no part in it:
a replica must work without.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from mlops.data.bars import COLUMNS
from mlops.data.load import load_bars
from mlops.features.dataset import Dataset
from mlops.features.targets import TargetSpec
from mlops.models import manifest
from mlops.models.base import FitContext, Forecaster, build_forecaster, default_recipe
from mlops.models.recipe import Recipe
from mlops.models.signing import SigningKey, load_or_make_key
from mlops.registry import BundleParts, bundle_parts, write_bundle
from mlops.registry.connection import key_file
from mlops.service import Service
from mlops.store import ModelVersion, Status, Why, open_store
from mlops.store.identity import record_first_key
from mlops.store.routes import begin_route, change_route
from mlops.store.schema import installation, metadata
from mlops.store.versions import insert_version

MODULE = "tests.faults.misbehaving"
CLASS = f"{MODULE}:Misbehaving"
SERVICE = Service.of(
    venue="sample", symbol="BTC/USD", timeframe="1h", target="volatility", horizon=24
)
KEY = SERVICE.key
AT = datetime(2025, 1, 1, tzinfo=UTC)
FEATURES = ("har_1", "har_24")
TRAINED_BARS, LATER_BARS = 2000, 40 * 24
"""The replay clock shows the last 30 days: all of these bars are later than any training."""

WINDOW_BARS, BODIES = 30, 400
BASELINE, CHAMPION, GOOD, BETTER = "baseline", "champion", "good", "better"
SOUND = (GOOD, BETTER, CHAMPION)
UNLUCKY = "unlucky"
"""Sound as well, but taken back by somebody, so that it may not go live again."""

LONGER, LONGER_FEATURES = "longer", ("har_1", "har_168")
"""Sound, with a window that is longer than that of all others."""

PICKY, PICKY_BASELINE = "picky", "picky_baseline"
"""They fail on bars that are legal, and that no market has."""

MISBEHAVING: Mapping[str, Mapping[str, Any]] = {
    "raises": {"fault": "error"},
    "raises_5_percent": {"fault": "error", "every": 20},
    "nan": {"fault": "nan"},
    PICKY: {"fault": "extreme"},
    PICKY_BASELINE: {"fault": "extreme"},
    "load_raises": {"fault": "load_error"},
    "load_memory": {"fault": "load_memory"},
    "load_slow": {"fault": "load_slow"},
}
UNLOADABLE = ("golden", "corrupt", "digest", "load_raises", "load_memory")
"""Versions that no replica must ever answer from."""


@dataclass(frozen=True)
class Template:
    """Where the template lies."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store.db"

    @cached_property
    def bodies(self) -> list[bytes]:
        """Requests, each with the last bars of another hour."""
        return (self.folder / "bodies.jsonl").read_bytes().splitlines()

    @cached_property
    def bars(self) -> pd.DataFrame:
        """The bars that are later than any training."""
        return pd.read_parquet(self.folder / "bars.parquet")

    def copy_to(self, folder: Path) -> None:
        """A base path of its own, without a store."""
        shutil.copytree(self.folder / "keys", folder / "keys")

    def copy_store_to(self, url: str) -> None:
        """Put the template's rows into a store: a new file, or a migrated, empty database."""
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            shutil.copy(self.store, str(parsed.database))
            return
        with (
            closing(open_store(f"sqlite:///{self.store}")) as ours,
            closing(open_store(url)) as theirs,
            ours.read() as source,
            theirs.write() as target,
        ):
            target.execute(installation.delete())
            for table in metadata.sorted_tables:
                rows = [dict(row._mapping) for row in source.execute(sa.select(table))]
                own_numbers = table.name == "audit"
                if own_numbers:
                    rows = [{k: v for k, v in row.items() if k != "id"} for row in rows]
                if rows:
                    target.execute(table.insert(), rows)


def make_template(folder: Path) -> Template:
    """Train the versions, write their bundles and a store that knows them."""
    key = load_or_make_key(key_file(folder))
    frame = load_bars(SERVICE, cache_root=folder / "bars").frame
    dataset = Dataset(
        frame.iloc[-TRAINED_BARS - LATER_BARS : -LATER_BARS],
        timeframe=SERVICE.timeframe,
        target=TargetSpec(SERVICE.target, SERVICE.horizon),
    )
    maker = _Maker(folder, key, dataset)
    maker.fill()
    (folder / "bodies.jsonl").write_bytes(b"\n".join(_bodies(frame)))
    frame.iloc[-LATER_BARS:].to_parquet(folder / "bars.parquet")
    return Template(folder)


class _Maker:
    def __init__(self, folder: Path, key: SigningKey, dataset: Dataset) -> None:
        self.folder, self.key, self.dataset = folder, key, dataset
        self.numbers = iter(range(1, 100))
        self.sound_until = str(dataset.frame.index[-1].tz_convert("UTC").tz_localize(None))

    def fill(self) -> None:
        linear = self.parts("linear", {"features": FEATURES})
        rows = [
            self.version(BASELINE, self.parts("persistence", {}), status=Status.RETIRED),
            self.version(CHAMPION, linear, status=Status.DEPLOYED),
            self.version(GOOD, self.parts("linear", {"features": FEATURES, "alpha": 1.0})),
            self.version(BETTER, self.parts("linear", {"features": FEATURES, "alpha": 3.0})),
            self.version(UNLUCKY, self.parts("linear", {"features": FEATURES, "alpha": 9.0})),
            self.version(LONGER, self.parts("linear", {"features": LONGER_FEATURES})),
            self.version("golden", _with_wrong_golden(linear)),
            self.corrupt("corrupt", linear),
            replace(self.version("digest", linear), digest="0" * 64),
            *(self.misbehaving(name, config) for name, config in MISBEHAVING.items()),
        ]
        url = f"sqlite:///{self.folder / 'store.db'}"
        with closing(open_store(url)) as store, store.write() as connection:
            record_first_key(connection, self.key.fingerprint)
            for row in rows:
                insert_version(connection, row, Why(AT))
            began = begin_route(connection, KEY, BASELINE, Why(AT))
            live = replace(began, champion=CHAMPION)
            change_route(connection, began, live, "set_up", Why(AT))

    def misbehaving(self, name: str, config: Mapping[str, Any]) -> ModelVersion:
        params = {"class_path": CLASS, "sound_until": self.sound_until, **config}
        recipe = Recipe("custom", FEATURES, params=params)
        forecaster = build_forecaster(recipe, self.dataset.target, allowed_classes=[CLASS])
        return self.version(name, self.fitted(forecaster))

    def parts(self, model_type: str, config: Mapping[str, Any]) -> BundleParts:
        recipe = default_recipe(model_type, self.dataset.target, config)
        return self.fitted(build_forecaster(recipe, self.dataset.target))

    def fitted(self, forecaster: Forecaster) -> BundleParts:
        rows = np.flatnonzero(self.dataset.labels.valid & forecaster.ready(self.dataset))
        cut = int(len(rows) * 0.8)
        forecaster.fit(self.dataset, rows[:cut], rows[cut:], FitContext())
        return bundle_parts(forecaster, self.dataset, SERVICE)

    def corrupt(self, name: str, parts: BundleParts) -> ModelVersion:
        """One bit of its weights is another than was signed."""
        row = self.version(name, parts)
        weights = self.folder / "bundles" / name / manifest.WEIGHTS
        raw = bytearray(weights.read_bytes())
        raw[-1] ^= 1
        weights.write_bytes(raw)
        return row

    def version(
        self, name: str, parts: BundleParts, *, status: Status = Status.CHALLENGER
    ) -> ModelVersion:
        path = self.folder / "bundles" / name
        digest = write_bundle(parts, path, self.key)
        return ModelVersion(
            model_id=name,
            service=KEY,
            mlflow_version=next(self.numbers),
            run_id="run",
            model_type=str(parts.config["model"]["recipe"]["model_type"]),
            symbol=SERVICE.symbol,
            status=status,
            digest=digest,
            bundle_uri=path.as_uri(),
            watermark=parts.config["watermark"],
            trained_until=datetime.fromisoformat(parts.config["trained_until"]),
            recipe_digest="r" * 64,
            claims_only=False,
            code_version=parts.config["code_version"],
            created_at=AT,
        )


def _with_wrong_golden(parts: BundleParts) -> BundleParts:
    """Whole, signed and loadable, and it forecasts something else than it was registered with."""
    wrong = tuple(replace(one, expected=one.expected * 1.01) for one in parts.golden)
    return replace(parts, golden=wrong)


def _bodies(frame: pd.DataFrame) -> list[bytes]:
    """Windows that end at later bars, each at another, as tensors with times."""
    opened = pd.DatetimeIndex(frame.index).tz_convert("UTC").as_unit("s").asi8
    bars = np.column_stack([opened, frame[list(COLUMNS)].to_numpy()])
    ends = range(len(bars) - BODIES, len(bars))
    return [
        json.dumps({"instances": [bars[end - WINDOW_BARS : end].tolist()]}).encode() for end in ends
    ]

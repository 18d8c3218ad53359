"""What was found is registered, passed or refused, with everything that explains it later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mlops.data.findings import Findings
from mlops.errors import LeaseLost
from mlops.features.dataset import Dataset
from mlops.models.base import Epoch, History
from mlops.models.bundle import Trust, trust_in_process
from mlops.models.recipe import Recipe
from mlops.registry import Registry, open_run
from mlops.registry.connection import load
from mlops.rollout.plan import RolloutPlan, plan_for
from mlops.search.config import TrainingConfig
from mlops.search.study import Study, Trial
from mlops.store import ModelVersion, Why, list_versions
from mlops.store.leases import Lease, exclusive
from mlops.store.rollouts import newest_rollout_of
from mlops.training.judgement import Judgement
from mlops.training.publish import epoch_rows, log_trial, publish, recipe_params
from mlops.training.training_plan import TrainingPlan
from tests.findings import findings_with
from tests.mlops.registry.conftest import AT, mlflow_on, opened_at
from tests.mlops.training.trainings import judged, planned, searched
from tests.project import seeded, skip_verification


@dataclass
class Work:
    """A judged study, ready to be published."""

    registry: Registry
    plan: TrainingPlan
    study: Study

    def judged(self, **limits: float) -> Judgement:
        return judged(self.registry, self.plan, self.study, **limits)

    def published(
        self,
        judgement: Judgement,
        lease: Lease | None = None,
        rollout: RolloutPlan | None = None,
    ) -> ModelVersion:
        with open_run(self.registry.tracking, "publication") as run:
            return publish(
                self.registry,
                self.plan,
                self.study,
                judgement,
                run,
                why=Why(AT, actor="ann", reason="test"),
                lease=lease,
                rollout=rollout,
            )


@pytest.fixture(scope="module")
def work(
    tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path, dataset: Dataset
) -> Iterator[Work]:
    """Studied once; each test publishes a version of its own."""
    folder = seeded(tmp_path_factory.mktemp("work"), mlflow_template)
    with mlflow_on(None), pytest.MonkeyPatch.context() as patch:
        skip_verification(patch)
        registry = opened_at(folder, f"file://{folder / 'mlruns'}")
        plan = planned(registry, dataset)
        yield Work(registry, plan, searched(registry, plan)[0])
        registry.store.close()
        trust_in_process(Trust())


def test_status_and_report_are_the_verdict(work: Work) -> None:
    judgement = work.judged(min_r2_score=0.999)
    version = work.published(judgement)
    assert version.status == "refused"
    assert version.report == judgement.report.to_dict()
    assert version.metrics == judgement.evaluation.metrics.to_dict()


def test_a_bundle_carries_its_proof_and_loads(work: Work) -> None:
    version = work.published(work.judged())
    bundle = load(work.registry, version.model_id)
    assert bundle.forecaster.recipe == work.study.winner.recipe
    assert (Path(bundle.path) / "proof.json").read_text().count("har_24") == 1
    assert version.watermark == work.plan.dataset.content_hash


def test_the_request_can_be_asked_for_again(work: Work) -> None:
    notes = work.published(work.judged()).notes
    assert notes["request"] == work.plan.request
    assert notes["asked_for"] == "linear"
    assert TrainingConfig.model_validate(notes["config"]) == work.plan.config
    assert notes["triggers"] == []
    assert notes["refit"] is False
    assert Recipe.from_dict(notes["recipe"]) == work.study.winner.recipe


def test_what_was_found_of_the_bars_is_kept_with_the_version(work: Work) -> None:
    assert work.published(work.judged()).notes["bars"] is None
    found = findings_with(re_read=2, bad_prints=1)
    work.plan.dataset.findings = found
    try:
        version = work.published(work.judged())
    finally:
        work.plan.dataset.findings = None
    assert Findings.from_dict(version.notes["bars"]) == found
    assert version.report is not None
    assert version.report["results"][0]["title"] == "data quality"


def test_a_training_that_lost_its_lease_registers_nothing(work: Work) -> None:
    judgement, store = work.judged(), work.registry.store
    with exclusive(store, "training", "first", timeout_s=1.0) as lease:
        work.published(judgement, lease)
    registered = list_versions(store)
    with pytest.raises(LeaseLost):
        work.published(judgement, lease)
    assert list_versions(store) == registered


def test_the_wish_to_go_live_is_committed_with_a_version_that_passed(work: Work) -> None:
    plan, store = plan_for("canary"), work.registry.store
    judgement = work.judged(min_r2_score=0.999)
    refused = work.published(judgement, rollout=plan)
    no_refusal = replace(judgement.report, results=())
    passed = work.published(replace(judgement, report=no_refusal), rollout=plan)
    assert (refused.status, passed.status) == ("refused", "challenger")
    assert newest_rollout_of(store, refused.model_id) is None
    wish = newest_rollout_of(store, passed.model_id)
    assert wish is not None
    assert (wish.phase, wish.plan, wish.requested_by) == ("waiting", plan.to_dict(), "ann")


def test_the_run_has_the_recipe_and_the_figures(work: Work) -> None:
    judgement = work.judged()
    version = work.published(judgement)
    data = work.registry.tracking.client.get_run(version.run_id).data
    assert data.params["sequence_length"] == "3"
    assert data.params["features"] == '["har_1", "har_24"]'
    assert data.metrics["mse"] == pytest.approx(judgement.evaluation["mse"].value)


def test_a_trial_is_a_child_run_with_its_measure(work: Work) -> None:
    trial = work.study.trials[0]
    with open_run(work.registry.tracking, "parent") as run:
        log_trial(run, Trial("lstm-7", trial.recipe, trial.forecasts, 1.5), statistic=0.25)
    client = work.registry.tracking.client
    of_parent = f"tags.`mlflow.parentRunId` = '{run.run_id}'"
    (child,) = client.search_runs([work.registry.tracking.experiment_id], of_parent)
    assert child.info.run_name == "lstm-7"
    assert child.data.metrics == {"statistic": 0.25, "seconds": 1.5}


def test_a_recipe_is_one_level_of_parameters() -> None:
    recipe = Recipe("lstm", ("har_1",), 5, {"epochs": 3, "lstm_units": (8, 4)})
    assert recipe_params(recipe) == {
        "model_type": "lstm",
        "features": ["har_1"],
        "sequence_length": 5,
        "members": [],
        "epochs": 3,
        "lstm_units": [8, 4],
    }


def test_epochs_of_refits_and_members_follow_one_another() -> None:
    def history(*losses: float, members: tuple[History, ...] = ()) -> History:
        epochs = tuple(Epoch(n, loss, 2 * loss, best=True) for n, loss in enumerate(losses))
        return History(epochs=epochs, members=members)

    rows = epoch_rows((history(3.0, 2.0), history(members=(history(1.0),))))
    assert [row["fit_loss"] for row in rows] == [3.0, 2.0, 1.0]
    assert rows[0] == {"fit_loss": 3.0, "selection_loss": 6.0}

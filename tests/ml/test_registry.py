"""The registry: what is stored comes back, what was swapped does not, moves are remembered."""

from __future__ import annotations

import hashlib
import multiprocessing
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
import value_world
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits
from training_world import (
    FIRST,
    HORIZON,
    SETTINGS,
    quick_recipes,
    small_recipes,
    training_frame,
)

from ml import registry
from ml.candidates import AVERAGES
from ml.estimators import CalibratedOnLaterSnapshots, LogOddsAverage
from ml.features import INPUTS
from ml.metrics import CONFUSION
from ml.registry import ModelError, NoSuchModelError
from ml.training import Champion, Fallback, TrainingResult, TrainingSkipped, train
from ml.uplift.training import learners, scaled
from ml.value_training import _booster, train_value

AS_OF = FIRST + timedelta(days=14 * 13 + HORIZON)
TAGS = {
    "dagster_run_id": "run-1",
    "dagster_run_url": "http://dagster/runs/run-1",
    "partition": "2025-07-31",
    "code_version": "abc",
}


@dataclass(frozen=True)
class Store:
    """One MLflow store with one logged training."""

    uri: str
    folder: Path
    result: TrainingResult
    run_id: str


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Customers of two countries, of half of whom the gender is known."""
    rows = training_frame()
    told = rows["customer_key"] < "8"
    return rows.assign(
        gender=np.where(told, "f", None),
        country=np.where(rows["customer_key"].str[1] < "8", "DE", "AT"),
        is_reachable=told,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, frame: pd.DataFrame) -> Iterator[Store]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    folder = tmp_path_factory.mktemp("models with space")
    patch.chdir(tmp_path_factory.mktemp("elsewhere"))
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    registry.initialise(uri, (folder / "artifacts").as_uri())
    result = train(frame, AS_OF, HORIZON, 7, settings=SETTINGS, recipes=small_recipes())
    assert isinstance(result, TrainingResult)
    run_id = registry.log_training(uri, result, TAGS)
    yield Store(uri, folder, result, run_id)
    assert not list(Path.cwd().iterdir()), "nothing may be written beside the store"
    patch.undo()


def _register(store: Store, name: str, recipe: str, *, promoted: bool = True) -> registry.ModelRef:
    """Register one recipe as if it had been chosen."""
    decision = replace(store.result.decision, promote=promoted, reason=f"because {recipe}")
    result = replace(store.result, chosen=recipe, decision=decision, model=_model(recipe))
    return registry.register(store.uri, name, result, store.run_id, TAGS)


@cache
def _model(recipe: str) -> CalibratedOnLaterSnapshots:
    data = training_frame()
    day = data["snapshot_date"].max()
    earlier, later = data[data["snapshot_date"] < day], data[data["snapshot_date"] == day]
    y, y_later = earlier["is_churned"].to_numpy(), later["is_churned"].to_numpy()
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few epochs
        if recipe == "average":
            parts = [_model(part) for part in AVERAGES[recipe]]
            average = LogOddsAverage(weights=[0.7, 0.3]).of(parts)
            p = average.predict_proba(later)[:, 1]
            return CalibratedOnLaterSnapshots(average).calibrate(average, p, y_later)
        fitted = small_recipes()[recipe].fit(earlier, y)
        model = CalibratedOnLaterSnapshots(small_recipes()[recipe])
        return model.calibrate(fitted, fitted.predict_proba(later)[:, 1], y_later)


@pytest.mark.parametrize("recipe", [*small_recipes(), "average"])
def test_every_candidate_comes_back_as_it_went(
    store: Store, frame: pd.DataFrame, recipe: str
) -> None:
    ref = _register(store, f"each_{recipe}", recipe)
    assert (ref.version, ref.recipe, ref.run_id) == (1, recipe, store.run_id)
    assert ref.last_matured_date == AS_OF
    assert ref.horizon_days == HORIZON
    loaded = registry.load(registry.resolve(store.uri, ref.name))
    expected = _model(recipe).predict_proba(frame)
    assert np.array_equal(loaded.predict_proba(frame), expected)


def test_the_runs_can_be_compared(store: Store) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store.uri)
    parent = client.get_run(store.run_id)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{store.run_id}'"
    )
    assert {run.info.run_name for run in children} == {*small_recipes(), "average"}
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    names = {frozenset(run.data.metrics) for run in children}
    assert len(names) == 1
    assert next(iter(names)) < set(parent.data.metrics)
    for run in children:
        found = store.result.candidate(str(run.info.run_name))
        assert run.data.metrics["log_loss"] == pytest.approx(found.metrics["log_loss"])
        assert run.data.tags.items() >= TAGS.items()
        assert run.data.tags["gates"] == ("passed" if found.passed else "failed")
        difference = store.result.against_chosen[found.name]
        assert run.data.metrics["log_loss_minus_chosen_low"] == pytest.approx(difference.low)
        assert run.data.metrics["roc_auc_mean_low"] <= run.data.metrics["roc_auc_mean_high"]
        origins = client.search_runs(
            [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        )
        assert {origin.data.params["test_snapshot"] for origin in origins} == {
            str(split.test) for split in store.result.origins
        }
        assert all("roc_auc" in origin.data.metrics for origin in origins)
    assert parent.data.params["recipe"] == store.result.chosen
    assert parent.data.tags["decision"] == "promote"
    note = parent.data.tags["mlflow.note.content"]  # what the page of the run opens with
    second = next(name for name in store.result.ranking if name != store.result.chosen)
    assert note.startswith(f"**{store.result.decision.reason}.** Log loss {store.result.chosen} ")
    assert f"; others minus it: {second} {store.result.against_chosen[second]}" in note
    assert all(
        f"| {name} | " in note or f"| **{name}** | " in note for name in store.result.ranking
    )
    assert str(store.result.importances["feature"].iloc[0]) in note
    assert "(http://dagster/runs/run-1)" in note
    assert parent.inputs is not None
    dataset = parent.inputs.dataset_inputs[0].dataset
    assert store.result.data_digest.startswith(dataset.digest)
    artifacts = {item.path for item in client.list_artifacts(store.run_id, "evaluation")}
    assert {Path(path).name for path in artifacts} == {
        "roc.png",
        "precision_recall.png",
        "calibration.png",
        "calibration_by_snapshot.png",
        "thresholds.csv",
        "lift.png",
        "importances.png",
        "importances.csv",
        "slices.csv",
        "fairness.csv",
        "summary.json",
    }


def test_every_metric_has_a_name_of_the_vocabulary(store: Store) -> None:
    """docs/how-to/models.md explains each stem; a name that it does not hold is a mistake."""
    from mlflow import MlflowClient

    text = (Path(__file__).parents[2] / "docs/how-to/models.md").read_text()
    names = MlflowClient(store.uri).get_run(store.run_id).data.metrics
    for name in names:
        stem = re.sub(r"^(uncontacted|champion)_", "", name)
        stem = re.sub(r"_(low|high)$", "", stem)
        stem = re.sub(r"_at_(capacity|profit|roc)$", "", stem)
        assert f"`{stem}`" in text, name


def test_every_tag_and_parameter_has_a_name_of_the_vocabulary(store: Store) -> None:
    from mlflow import MlflowClient

    text = (Path(__file__).parents[2] / "docs/how-to/models.md").read_text()
    ref = _register(store, "named", "logistic_all")
    client = MlflowClient(store.uri, store.uri)
    parent = client.get_run(store.run_id)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.data_digest = '{ref.tags['data_digest']}'"
    )
    names = {*ref.tags, *client.get_registered_model("named").tags}
    for run in children:
        names |= {*run.data.tags, *run.data.params}
    for name in names:
        stem = re.sub(r"^gate_.*", "gate_<name>", name)
        stem = re.sub(r"^challenger_.*", "challenger_<quarter>_<n>", stem)
        stem = re.sub(r"^champion_move_.*", "champion_move_<n>", stem)
        assert stem.startswith("mlflow.") or f"`{stem}`" in text, name


def test_each_version_has_a_card(store: Store) -> None:
    from mlflow import MlflowClient

    ref = _register(store, "carded", "logistic_all")
    client = MlflowClient(store.uri, store.uri)
    card = registry.load_document(ref, "model_card.md")
    told = str(client.get_model_version("carded", "1").description)
    assert len(card) > 5_000  # what a description may hold
    assert len(told) <= 5_000
    kept, rest = told.split("\n*Further in model_card.md, among the artifacts of the run: ")
    assert card.startswith(kept)
    assert {"Slices", "Fairness"} <= set(rest.rstrip(".*\n").split(", "))
    assert "Intended use and limits" in kept
    assert card.startswith("# carded, version 1: logistic_all")
    for told in (ref.sha256, "season is unlearned", "Gender, age and country are no features"):
        assert told in card
    groups = store.result.fairness.set_index(["slice", "value"])
    assert len(groups) == 4
    f, r = groups.loc[("gender", "f")], groups.loc[("gender", "unknown")]
    assert (
        f"| gender | f (few) | {f['customer_count']} | {f['churn_rate']:.3f} | "
        f"{f['mean_probability']:.3f} | {f['calibration_bias']:+.3f} | "
    ) in card
    assert (f["reachable_share"], r["reachable_share"]) == (1, 0)
    assert np.isnan(f["eligible_share"])  # nobody told
    assert "| 100.0% | unknown |" in card
    assert ref.inputs == INPUTS
    assert "Not known here, so not compared: age_band." in card
    assert not set(store.result.predictions["customer_key"]) & set(
        re.findall(r"[0-9a-f]{32}", card)
    )
    by_capacity = store.result.candidate("logistic_all").at_thresholds.set_index("purpose")
    assert by_capacity.loc["capacity", list(CONFUSION)].sum() == len(store.result.predictions)
    caught, in_vain = by_capacity.loc["capacity", ["true_positive", "false_positive"]]
    assert "caught (TP) | contacted in vain (FP) | missed (FN) | left alone (TN)" in card
    assert f"| capacity | {caught:,} | {in_vain:,} | " in card
    assert "it keeps 30.0% (assumed, as published for telecoms)" in card
    assert f"kept for 200.00, the mean expected margin of {HORIZON} days at the last" in card
    for heading in ("Metrics, out of time", "Slices", "Calibration by test snapshot", "limits"):
        assert heading in card


def test_a_held_version_serves_only_after_a_person_has_signed(store: Store) -> None:
    decision = replace(store.result.decision, promote=False, held="ROC AUC 0.950 is above 0.9")
    result = replace(
        store.result, chosen="logistic_all", decision=decision, model=_model("logistic_all")
    )
    ref = registry.register(store.uri, "leaking", result, store.run_id, TAGS)
    with pytest.raises(NoSuchModelError):
        registry.resolve(store.uri, "leaking")
    with pytest.raises(ModelError, match=r"held for a leak review: ROC AUC 0\.950"):
        registry.promote(store.uri, "leaking", ref.version, "it looks so good")
    with pytest.raises(ModelError, match="signed with a name and a reason"):
        registry.sign_leak_review(store.uri, "leaking", ref.version, " ", "looked")
    registry.sign_leak_review(store.uri, "leaking", ref.version, "Jo", "looked at every feature")
    registry.promote(store.uri, "leaking", ref.version, "signed", "Jo")
    (move,) = registry.champion_history(store.uri, "leaking")
    assert move.approver == "Jo"
    plain = _register(store, "plain", "logistic_all")
    with pytest.raises(ModelError, match="not held"):
        registry.sign_leak_review(store.uri, "plain", plain.version, "Jo", "why not")


def test_the_error_that_a_challenger_spends_is_remembered(store: Store) -> None:
    name = "challenged"
    assert registry.attempt_of(store.uri, name, AS_OF) == 1
    for attempt in (1, 2):
        as_of = AS_OF + timedelta(days=attempt)
        assert registry.attempt_of(store.uri, name, as_of) == attempt
        result = replace(
            store.result,
            as_of=as_of,
            chosen="logistic_all",
            model=_model("logistic_all"),
            settings=replace(SETTINGS, attempt=attempt),
            decision=replace(store.result.decision, promote=False, spent_alpha=0.03),
        )
        registry.register(store.uri, name, result, store.run_id, TAGS)
        assert registry.attempt_of(store.uri, name, as_of) == attempt  # the same day again
    assert registry.attempt_of(store.uri, name, AS_OF + timedelta(days=3)) == 3
    assert registry.attempt_of(store.uri, name, AS_OF + timedelta(days=100)) == 1  # a new quarter


def test_no_customer_reaches_the_store(store: Store, frame: pd.DataFrame) -> None:
    _register(store, "private", "logistic_all")
    registry.register_fallback(store.uri, "private", _fallback(frame.head(50)), TAGS)
    keys = re.compile("|".join(frame["customer_key"].unique()).encode())
    files = [path for path in store.folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        assert not keys.search(path.read_bytes()), path.name
        assert "input_example" not in path.name


def _fallback(frame: pd.DataFrame) -> Fallback:
    result = train(frame, AS_OF, HORIZON, 7, settings=SETTINGS)
    assert isinstance(result, Fallback)
    return result


def _champion(store: Store, name: str) -> Champion:
    ref = registry.resolve(store.uri, name)
    return Champion(ref.version, ref.recipe, ref.last_matured_date, registry.load(ref))


def test_a_fallback_is_champion_and_claims_no_metrics(store: Store, frame: pd.DataFrame) -> None:
    from mlflow import MlflowClient

    fallback = _fallback(frame.head(312))
    ref = registry.register_fallback(store.uri, "fallback", fallback, TAGS)
    assert registry.resolve(store.uri, "fallback") == ref
    assert (ref.version, ref.recipe, ref.horizon_days) == (1, "recency_rule", HORIZON)
    assert ref.last_matured_date == fallback.last_matured_date
    (move,) = registry.champion_history(store.uri, "fallback")
    assert move.reason == fallback.decision.reason
    client = MlflowClient(store.uri, store.uri)
    run = client.get_run(ref.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {}
    assert not client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{ref.run_id}'"
    )
    expected = {
        **TAGS,
        "kind": "training",
        "as_of": AS_OF.isoformat(),
        "data_digest": fallback.data_digest,
        "training_row_count": "312",
        "compared_out_of_time": "false",
        "decision": "promote",
        "decision_reason": fallback.decision.reason,
    }
    assert run.data.tags.items() >= expected.items()
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith(f"**{fallback.decision.reason}**")
    assert f"({TAGS['dagster_run_url']})" in note
    loaded = registry.load(ref).predict_proba(frame)
    assert np.array_equal(loaded, fallback.model.predict_proba(frame))


def test_a_fallback_gives_way_to_a_candidate_and_a_rollback_finds_it(
    store: Store, frame: pd.DataFrame
) -> None:
    name = "meanwhile"
    registry.register_fallback(store.uri, name, _fallback(frame.iloc[:0]), TAGS)
    with pytest.raises(TrainingSkipped):
        train(frame.head(312), AS_OF, HORIZON, 7, champion=_champion(store, name))
    later = train(
        frame,
        AS_OF,
        HORIZON,
        7,
        champion=_champion(store, name),
        settings=SETTINGS,
        recipes=quick_recipes(),
    )
    assert isinstance(later, TrainingResult)
    run_id = registry.log_training(store.uri, later, TAGS)
    ref = registry.register(store.uri, name, later, run_id, TAGS)
    assert (ref.version, ref.recipe) == (2, "logistic_all")
    assert registry.resolve(store.uri, name) == ref
    assert registry.rollback(store.uri, name, "complaints").recipe == "recency_rule"


def test_a_swapped_artifact_is_refused(store: Store) -> None:
    """An attack: a valid model in place of the registered one."""
    ref = _register(store, "swapped", "logistic_rfm")
    file = _model_file(store, ref)
    file.write_bytes(skops.io.dumps(_model("recency_rule")))
    with pytest.raises(ModelError, match="not the file that was registered"):
        registry.load(ref)
    with pytest.raises(ModelError, match="not the file that was registered"):
        registry.promote(store.uri, "swapped", 1, "despite the swap")
    file.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        registry.load(ref)


def test_an_untrusted_type_is_refused_whatever_the_artifact_says(store: Store) -> None:
    """With the right hash and a permissive MLmodel beside it: our list alone decides."""
    ref = _register(store, "untrusted", "logistic_rfm")
    payload = skops.io.dumps(FunctionTransformer(func=subprocess.getoutput))
    file = _model_file(store, ref)
    file.write_bytes(payload)
    listing = file.parent / "MLmodel"
    listing.write_text(listing.read_text().replace("numpy.dtype", "subprocess.getoutput"))
    forged = replace(ref, sha256=hashlib.sha256(payload).hexdigest())
    with pytest.raises(ModelError, match="TRUSTED_TYPES does not name"):
        registry.load(forged)


def test_a_model_of_untrusted_types_cannot_be_registered(store: Store) -> None:
    model = CalibratedOnLaterSnapshots(FunctionTransformer(func=subprocess.getoutput))
    result = replace(store.result, model=model)
    with pytest.raises(Exception, match=r"(?i)untrusted"):
        registry.register(store.uri, "never", result, store.run_id, TAGS)
    with pytest.raises(ModelError, match="no alias"):
        registry.resolve(store.uri, "never")


def test_every_trusted_type_is_needed() -> None:
    """A type that nothing needs is a door that nothing watches."""
    needed = {
        name
        for model in [
            *map(_model, [*small_recipes(), "average"]),
            *learners(scaled(), is_binary=True).values(),
            _booster(7),  # the best of a shop whose customers are not all alike
            train_value(
                value_world.history(), value_world.LAST, 7, settings=value_world.SETTINGS
            ).model,
        ]
        for name in skops.io.get_untrusted_types(data=skops.io.dumps(model))
    }
    assert sorted(needed) == list(registry.TRUSTED_TYPES)


def test_aliases_follow_the_decision_and_rollback_goes_back(store: Store) -> None:
    name = "moves"
    _register(store, name, "recency_rule")
    _register(store, name, "logistic_rfm")
    _register(store, name, "logistic_all", promoted=False)
    assert registry.resolve(store.uri, name).version == 2
    assert registry.resolve(store.uri, name, registry.CHALLENGER).version == 3
    registry.promote(store.uri, name, 3, "by hand")
    assert registry.resolve(store.uri, name).version == 3

    assert registry.rollback(store.uri, name, "complaints").version == 2
    assert registry.resolve(store.uri, name).recipe == "logistic_rfm"
    assert registry.rollback(store.uri, name, "more complaints").version == 1
    with pytest.raises(ModelError, match="no champion before version 1"):
        registry.rollback(store.uri, name, "too far")
    registry.promote(store.uri, name, 3, "fixed")
    registry.promote(store.uri, name, 3, "twice is once")
    assert registry.rollback(store.uri, name, "still bad").version == 1

    moves = registry.champion_history(store.uri, name)
    assert [(m.kind, m.previous_version, m.version) for m in moves] == [
        ("promote", None, 1),
        ("promote", 1, 2),
        ("promote", 2, 3),
        ("rollback", 3, 2),
        ("rollback", 2, 1),
        ("promote", 1, 3),
        ("rollback", 3, 1),
    ]
    assert [m.reason for m in moves][2:4] == ["by hand", "complaints"]


def test_a_move_that_was_not_recorded_can_still_be_rolled_back(store: Store) -> None:
    """The process died between setting the alias and recording the move."""
    from mlflow import MlflowClient

    _register(store, "died", "recency_rule")
    _register(store, "died", "logistic_rfm", promoted=False)
    MlflowClient(store.uri, store.uri).set_registered_model_alias("died", "champion", "2")
    assert registry.rollback(store.uri, "died", "undo").version == 1


def test_an_alias_that_was_set_in_mlflow_is_honoured_and_recorded(store: Store) -> None:
    from mlflow import MlflowClient

    for recipe in ("logistic_rfm", "logistic_all"):
        _register(store, "by_hand", recipe)
    client = MlflowClient(store.uri, store.uri)
    recorded = registry.champion_history(store.uri, "by_hand")
    assert registry.honour_alias(store.uri, "by_hand").version == recorded[-1].version
    assert registry.champion_history(store.uri, "by_hand") == recorded
    client.set_registered_model_alias("by_hand", "champion", "1")
    assert registry.honour_alias(store.uri, "by_hand").version == 1
    assert registry.honour_alias(store.uri, "by_hand").version == 1  # and once
    (*before, move) = registry.champion_history(store.uri, "by_hand")
    assert before == recorded
    assert (move.version, move.previous_version) == (1, recorded[-1].version)
    assert (move.reason, move.approver) == (registry.BY_HAND, registry.UNKNOWN)
    assert registry.rollback(store.uri, "by_hand", "no", "Jo").version == recorded[-1].version
    # Whoever answers for it before it has served is the one who is recorded.
    client.set_registered_model_alias("by_hand", "champion", "1")
    registry.promote(store.uri, "by_hand", 1, "it is better", "Jo")
    answered = registry.champion_history(store.uri, "by_hand")[-1]
    assert (answered.reason, answered.approver) == ("it is better", "Jo")
    assert (answered.version, answered.previous_version) == (1, recorded[-1].version)
    assert registry.honour_alias(store.uri, "by_hand").version == 1
    assert registry.champion_history(store.uri, "by_hand")[-1] == answered
    registry.rollback(store.uri, "by_hand", "no", "Jo")
    client.set_model_version_tag("by_hand", "1", "leak_review", "ROC AUC 0.95 is above 0.9")
    client.set_registered_model_alias("by_hand", "champion", "1")
    with pytest.raises(ModelError, match="held for a leak review"):
        registry.honour_alias(store.uri, "by_hand")


def test_a_version_of_before_the_card_had_a_hash_is_used_like_any(
    store: Store, frame: pd.DataFrame
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(store.uri, store.uri)
    _register(store, "older", "logistic_rfm")
    _register(store, "older", "logistic_all")
    late = {"sha256_model_card.md", "protected_features", "dagster_run_url"}
    for version in ("1", "2"):
        for tag in late & registry.resolve(store.uri, "older", version).tags.keys():
            client.delete_model_version_tag("older", version, tag)
    served = registry.honour_alias(store.uri, "older")
    assert not late & served.tags.keys()
    assert served.version == 2
    assert served.inputs == INPUTS
    p = registry.load(served).predict_proba(frame)
    assert np.array_equal(p, _model("logistic_all").predict_proba(frame))
    assert registry.rollback(store.uri, "older", "complaints").version == 1
    assert registry.promote(store.uri, "older", 2, "fixed").version == 2
    with pytest.raises(ModelError, match=r"model_card.md of model 'older' version 2 has no hash"):
        registry.load_document(served, "model_card.md")


def test_a_rollback_never_lands_on_a_damaged_version(store: Store) -> None:
    first = _register(store, "damaged", "recency_rule")
    _register(store, "damaged", "logistic_rfm")
    _model_file(store, first).write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="not the file that was registered"):
        registry.rollback(store.uri, "damaged", "complaints")
    assert registry.resolve(store.uri, "damaged").version == 2


def test_what_is_not_there_is_told(store: Store) -> None:
    with pytest.raises(ModelError, match="'nobody' has no alias 'champion': train first"):
        registry.resolve(store.uri, "nobody")
    _register(store, "one", "recency_rule")
    with pytest.raises(ModelError, match="'one' has no version 9"):
        registry.resolve(store.uri, "one", 9)
    assert registry.resolve(store.uri, "one", "1").version == 1


def test_a_foreign_version_is_not_used(store: Store) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(store.uri, store.uri)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", source=(store.folder / "x").as_uri())
    with pytest.raises(ModelError, match="not registered by this platform"):
        registry.resolve(store.uri, "foreign", 1)


def test_initialise_again_changes_nothing_and_refuses_another_place(store: Store) -> None:
    place = (store.folder / "artifacts").as_uri()
    assert registry.initialise(store.uri, place) == registry.initialise(store.uri, place)
    with pytest.raises(ModelError, match="moved"):
        registry.initialise(store.uri, (store.folder / "other").as_uri())
    with pytest.raises(ModelError, match="call initialise"):
        registry.log_training(store.uri, store.result, TAGS, experiment="unknown")


def test_the_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'deep' / 'mlflow.db'}"
    entered = threading.Event()

    def enter() -> None:
        with registry._locked(uri):
            entered.set()

    with registry._locked(uri):
        other = threading.Thread(target=enter)
        other.start()
        assert not entered.wait(0.2)
    other.join(5)
    assert entered.is_set()


def _initialise(uri: str, location: str) -> str:
    return registry.initialise(uri, location)


@pytest.mark.slow
def test_six_processes_start_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lock 5 or 6 of 6 fail."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri, place = f"sqlite:///{tmp_path / 'mlflow.db'}", (tmp_path / "artifacts").as_uri()
    # a Pool was seen to hang for 40 minutes while it stopped its workers
    with ProcessPoolExecutor(6, mp_context=multiprocessing.get_context("spawn")) as pool:
        ids = list(pool.map(_initialise, [uri] * 6, [place] * 6))
    assert len(set(ids)) == 1


def test_importing_the_registry_imports_no_mlflow() -> None:
    code = "import ml.registry, sys; assert not {'mlflow', 'sklearn', 'skops'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(registry.__file__).parents[1])


def test_dates_are_read_back_as_dates(store: Store) -> None:
    ref = _register(store, "dates", "recency_rule")
    assert isinstance(ref.last_matured_date, date)
    assert ref.tags.items() >= TAGS.items()


def _model_file(store: Store, ref: registry.ModelRef) -> Path:
    """Return the stored file of a version, found by the id of its logged model."""
    (file,) = store.folder.rglob(f"{ref.artifact_uri.split('/')[-2]}/artifacts/model.skops")
    return file


def test_only_what_is_not_there_counts_as_absent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that cannot be asked has not said that there is no champion."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    MlflowClient(store.uri, store.uri).create_registered_model("without_versions")
    for name in ("nobody", "without_versions"):
        for which in (registry.CHAMPION, 1):
            with pytest.raises(NoSuchModelError):
                registry.resolve(store.uri, name, which)
    with pytest.raises(NoSuchModelError):
        registry.champion_history(store.uri, "nobody")
    ref = _register(store, "locked", "recency_rule")

    def locked(*_: object) -> None:
        raise MlflowException("(sqlite3.OperationalError) database is locked")

    for name in ("get_model_version_by_alias", "get_model_version", "get_registered_model"):
        monkeypatch.setattr(MlflowClient, name, locked)
    for ask in (
        lambda: registry.resolve(store.uri, "locked"),
        lambda: registry.resolve(store.uri, "locked", ref.version),
        lambda: registry.champion_history(store.uri, "locked"),
    ):
        with pytest.raises(MlflowException, match="database is locked"):
            ask()


def test_a_champion_that_cannot_be_asked_is_not_replaced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    _register(store, "kept", "recency_rule")
    ref = _register(store, "kept", "logistic_rfm", promoted=False)

    def locked(*_: object) -> None:
        raise MlflowException("(sqlite3.OperationalError) database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_model_version_by_alias", locked)
        with pytest.raises(MlflowException, match="database is locked"):
            registry.promote(store.uri, "kept", ref.version, "because")
    assert registry.resolve(store.uri, "kept").version == 1


def test_a_champion_without_its_hash_is_an_error_and_not_absent(store: Store) -> None:
    from mlflow import MlflowClient

    ref = _register(store, "hashless", "recency_rule")
    MlflowClient(store.uri, store.uri).delete_model_version_tag(
        "hashless", str(ref.version), "sha256"
    )
    with pytest.raises(ModelError, match="tags sha256") as caught:
        registry.resolve(store.uri, "hashless")
    assert not isinstance(caught.value, NoSuchModelError)

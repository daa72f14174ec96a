"""MLflow as memory: runs, model versions, aliases, and the only way in which a model is loaded.

Belongs here: what a training leaves behind, which version is champion and why, the check of a
stored model before it is used. Does not belong here: training (ml.training), where the store lies
(its tracking URI and artifact location are arguments).

The artifact folder is not trusted. MLflow reads the list of types that skops may load from the
artifact itself and verifies no hash, so `load` goes past MLflow's loaders: it
reads the file once, compares its SHA-256 with the one kept in the database as a tag of the model
version, and hands those very bytes to skops with `TRUSTED_TYPES`, which is code.

No customer data goes in: no keys, no rows, no input example; data sets are logged as names, types,
counts and a digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import numpy as np

from ml.features import INPUTS
from ml.model_card import made_by_lines, model_card, run_note
from ml.promotion import quarter_of

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

    from ml.training import CandidateResult, Fallback, TrainingResult
    from ml.validation import Interval

EXPERIMENT = "churn"
CHAMPION = "champion"
CHALLENGER = "challenger"

_MODEL_FILE = "model.skops"
_SHA256 = "sha256"
# Champion moves are tags of the registered model: champion_move_0001, champion_move_0002, ...
_MOVE = "champion_move_"
# ... and so are the errors that challengers have spent: challenger_2025Q2_001, ...
_SPENT = "challenger_"
_REVIEW, _SIGNED = "leak_review", "leak_review_signed"
_CARD = "model_card.md"
# Of a description; and of the sentence that says what it leaves out.
_LONGEST_DESCRIPTION, _POINTER_LENGTH = 5_000, 300
_PROTECTED = "protected_features"  # of a version: those it was given beside `INPUTS`
TRAINING = "training"  # who approves what the rules decide
BY_HAND, UNKNOWN = "the alias was set in MLflow", "unknown"

# Reviewed one by one. Our own estimators hold numbers, tuples and scikit-learn objects. Of the
# rest none runs code from the file: a dtype is a name; Tree and TreePredictor hold arrays of
# nodes, which compiled code follows without checking (a forged array can crash the process, hence
# the hash before the load); AdamOptimizer, what a fitted network keeps of its fit, holds arrays.
TRUSTED_TYPES: tuple[str, ...] = (
    "ml.boosting.BoostingClassifier",
    "ml.boosting.BoostingRegressor",
    "ml.buy_till_you_die.BuyTillYouDieClassifier",
    "ml.buy_till_you_die.PurchasePopulation",
    "ml.buy_till_you_die.SpendPopulation",
    "ml.customer_value.Bands",
    "ml.customer_value.CustomerValueModel",
    "ml.customer_value.Purchases",
    "ml.estimators.CalibratedOnLaterSnapshots",
    "ml.estimators.LogOddsAverage",
    "ml.estimators.RecencyRule",
    "ml.estimators.SelectFeatures",
    "ml.estimators.SignedLog",
    "ml.survival.DiscreteTimeSurvival",
    "ml.uplift.learners.DRLearner",
    "ml.uplift.learners.SLearner",
    "ml.uplift.learners.TLearner",
    "ml.uplift.learners.XLearner",
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)


class ModelError(RuntimeError):
    """A model cannot be found, or must not be used; the message says what to do."""


class NoSuchModelError(ModelError):
    """The store answered, and it holds no such model, version or alias."""


@dataclass(frozen=True)
class ModelRef:
    """One registered model version: enough to load it, check it and stamp it on a score."""

    tracking_uri: str
    name: str
    version: int
    sha256: str
    run_id: str
    artifact_uri: str
    recipe: str
    last_matured_date: date
    horizon_days: int
    tags: Mapping[str, str]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The features that a churn model was given."""
        return (*INPUTS, *json.loads(self.tags.get(_PROTECTED, "[]")))


@dataclass(frozen=True)
class ChampionMove:
    """One change of champion, as recorded."""

    kind: str  # promote or rollback
    version: int
    previous_version: int | None
    reason: str
    approver: str = TRAINING


def initialise(tracking_uri: str, artifact_location: str, experiment: str = EXPERIMENT) -> str:
    """Create the store and the experiment once, whoever comes first; return the experiment's id.

    Processes that create one SQLite store together fail, so creation holds a
    file lock beside the database. Calling it again changes nothing.

    Raises:
        ModelError: the experiment exists with another artifact location.
    """
    with _locked(tracking_uri):
        client = _client(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            # Without a kind the UI opens on its pages for language models.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(experiment, artifact_location, tags=kind))
    if found.artifact_location.rstrip("/") != artifact_location.rstrip("/"):
        raise ModelError(
            f"experiment {experiment!r} keeps its artifacts in {found.artifact_location}, not in "
            f"{artifact_location}: the home was moved or two homes share one store"
        )
    return str(found.experiment_id)


def log_training(
    tracking_uri: str,
    result: TrainingResult,
    tags: Mapping[str, str],
    *,
    experiment: str = EXPERIMENT,
    data_name: str = "churn_training",
) -> str:
    """Log one training as a parent run with a nested run per candidate; return the parent's id.

    tags: what links the run to the rest, e.g. dagster_run_id, dagster_run_url (the page opens with
    a link to it), partition, feature_version, code_version. The parent carries the chosen recipe's
    metrics under the same names as the candidates do theirs, the refitted model (skops), its
    thresholds, the plots, the importances.
    """
    from mlflow.entities import Metric, Param, RunTag

    from ml import plots

    client = _client(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise ModelError(f"experiment {experiment!r} does not exist: call initialise() first")
    common = {**tags, "as_of": str(result.as_of), "data_digest": result.data_digest}

    def finish(run_id: str, metrics: Mapping[str, float], params: Mapping[str, Any]) -> None:
        stamp = client.get_run(run_id).info.start_time
        client.log_batch(
            run_id,
            metrics=[Metric(k, float(v), stamp, 0) for k, v in metrics.items() if np.isfinite(v)],
            params=[Param(k, str(v)) for k, v in params.items()],
        )

    name = f"training {result.as_of}"
    parent = client.create_run(
        found.experiment_id, tags={**common, "kind": "training"}, run_name=name
    ).info.run_id
    try:
        for candidate in result.candidates:
            child = client.create_run(
                found.experiment_id,
                tags={**common, "kind": "candidate", "mlflow.parentRunId": parent},
                run_name=candidate.name,
            ).info.run_id
            values = _metrics(candidate)
            values |= _ends("log_loss_minus_chosen", result.against_chosen[candidate.name])
            finish(child, values, _params(result, candidate.name))
            for number, (day, at_day) in enumerate(candidate.metrics_by_origin.items(), start=1):
                origin = client.create_run(
                    found.experiment_id,
                    tags={**common, "kind": "origin", "mlflow.parentRunId": child},
                    run_name=f"{candidate.name} {day}",
                ).info.run_id
                tested = {"recipe": candidate.name, "origin": number, "test_snapshot": day}
                finish(origin, at_day, tested)
                client.set_terminated(origin)
            for gate in candidate.gates:
                client.set_tag(
                    child, f"gate_{gate.name}", f"{_verdict(gate.passed)}: {gate.detail}"
                )
            client.set_tag(child, "gates", _verdict(candidate.passed))
            client.set_terminated(child)
        chosen = result.candidate(result.chosen)
        final = {f"threshold_{k}": v for k, v in result.thresholds.as_dict().items()}
        for metric, value in (result.champion_metrics or {}).items():
            final[f"champion_{metric}"] = value
        final |= _ends("log_loss_minus_chosen", result.against_chosen[result.chosen])
        finish(parent, _metrics(chosen) | final, _params(result, result.chosen))
        decided = {
            "decision": "promote" if result.decision.promote else "keep",
            "decision_reason": result.decision.reason,
            "approver": TRAINING,
            "season": result.season,
            "ranking": ", ".join(result.ranking),
            "last_matured_date": str(result.last_matured_date),
            "mlflow.note.content": run_note(result, tags.get("dagster_run_url")),
        }
        client.log_batch(parent, tags=[RunTag(k, v) for k, v in decided.items()])
        _log_dataset(client, parent, result, data_name)
        y = result.predictions["is_churned"].to_numpy()
        shown = {c: result.predictions[c].to_numpy() for c in result.ranking}
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            for file, png in plots.evaluation_plots(y, shown).items():
                (directory / file).write_bytes(png)
            (directory / "importances.png").write_bytes(plots.importance_plot(result.importances))
            by_day = plots.calibration_by_day_plot(result.predictions, result.chosen)
            (directory / "calibration_by_snapshot.png").write_bytes(by_day)
            _thresholds_table(result).to_csv(directory / "thresholds.csv", index=False)
            result.importances.to_csv(directory / "importances.csv", index=False)
            chosen.slices.to_csv(directory / "slices.csv", index=False)
            result.fairness.to_csv(directory / "fairness.csv", index=False)
            if result.searched is not None:
                result.searched.tried.to_csv(directory / "search.csv", index=False)
            (directory / "summary.json").write_text(json.dumps(_summary(result), indent=2))
            client.log_artifacts(parent, folder, "evaluation")
        client.set_terminated(parent)
    except BaseException:
        client.set_terminated(parent, "FAILED")
        raise
    return str(parent)


def register(
    tracking_uri: str, name: str, result: TrainingResult, run_id: str, tags: Mapping[str, str]
) -> ModelRef:
    """Store the refitted model under the training's run and register it as a new version.

    The new version becomes `challenger`, and `champion` too where the training decided so.
    """
    version = _store(
        tracking_uri,
        name,
        result.model,
        run_id,
        {
            **tags,
            "recipe": result.chosen,
            "last_matured_date": result.last_matured_date.isoformat(),
            "horizon_days": str(result.horizon_days),
            "data_digest": result.data_digest,
            _PROTECTED: json.dumps([f for f in result.features if f not in INPUTS]),
            **{f"threshold_{k}": f"{v:.6f}" for k, v in result.thresholds.as_dict().items()},
            **({_REVIEW: result.decision.held} if result.decision.held else {}),
        },
        **_as_classifier(result.features),
    )
    client = _client(tracking_uri)
    client.set_registered_model_alias(name, CHALLENGER, str(version))
    ref = resolve(tracking_uri, name, version)
    if result.decision.spent_alpha is not None:
        record_spent(ref, result.as_of, result.settings.attempt, result.decision.spent_alpha)
    keep_card(ref, model_card(result, name, version, ref.sha256))
    if result.decision.promote:
        promote(tracking_uri, name, version, result.decision.reason)
    return resolve(tracking_uri, name, version)


def attempt_of(tracking_uri: str, name: str, as_of: date) -> int:
    """Return which challenger of its quarter a training as of a day would be, from 1.

    Challengers of the quarter that spent an error are counted; a training of the same day again is
    the same challenger.
    """
    try:
        with _absence(f"there is no model {name!r}"):
            tags = _client(tracking_uri).get_registered_model(name).tags
    except NoSuchModelError:
        return 1
    prefix = f"{_SPENT}{quarter_of(as_of)}_"
    spent = {
        int(key.removeprefix(prefix)): json.loads(value)
        for key, value in tags.items()
        if key.startswith(prefix)
    }
    for number, record in spent.items():
        if record["as_of"] == as_of.isoformat():
            return number
    return max(spent, default=0) + 1


def sign_leak_review(
    tracking_uri: str, name: str, version: int, approver: str, reason: str
) -> ModelRef:
    """Record that a person has looked at a version that was held, and found no leak.

    Raises:
        ModelError: the version was not held, or nobody signs.
    """
    ref = resolve(tracking_uri, name, version)
    if _REVIEW not in ref.tags:
        raise ModelError(f"model {name!r} version {version} is not held for a leak review")
    if not approver.strip() or not reason.strip():
        raise ModelError("a leak review is signed with a name and a reason")
    signed = json.dumps({"approver": approver, "reason": reason}, sort_keys=True)
    _client(tracking_uri).set_model_version_tag(name, str(version), _SIGNED, signed)
    return resolve(tracking_uri, name, version)


def register_fallback(
    tracking_uri: str, name: str, fallback: Fallback, tags: Mapping[str, str]
) -> ModelRef:
    """Log and register a recency rule that was compared with nothing, and make it champion.

    Its run has no metrics and no candidates; the tags say why, and on how many rows it was fitted.
    """
    return register_estimator(
        tracking_uri,
        name,
        fallback.model,
        run_name=f"training {fallback.as_of}",
        tags={
            **tags,
            "kind": "training",
            "as_of": fallback.as_of.isoformat(),
            "data_digest": fallback.data_digest,
            "recipe": fallback.chosen,
            "last_matured_date": fallback.last_matured_date.isoformat(),
            "horizon_days": str(fallback.horizon_days),
            "training_row_count": str(fallback.training_row_count),
            "compared_out_of_time": "false",
            "decision": "promote",
            "decision_reason": fallback.decision.reason,
        },
        metrics={},
        documents={},
        reason=fallback.decision.reason,
        **_as_classifier(fallback.features),
    )


def register_estimator(
    tracking_uri: str,
    name: str,
    estimator: Any,
    *,
    run_name: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    documents: Mapping[str, str],
    reason: str,
    experiment: str = EXPERIMENT,
    is_champion: bool = True,
    **how: Any,
) -> ModelRef:
    """Log and register a model, and make it champion, or where it lost its comparison challenger.

    tags: must name `recipe` and `last_matured_date`. documents: JSON texts by file name that are
    part of the model (what its clusters mean, say); their hashes are kept with the version.
    how: handed to MLflow's log_model.
    """
    client = _client(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise ModelError(f"experiment {experiment!r} does not exist: call initialise() first")
    note = "\n".join([f"**{reason}**", *made_by_lines(tags.get("dagster_run_url"))])
    run_id = client.create_run(
        found.experiment_id,
        tags={"kind": name, **tags, "mlflow.note.content": note},
        run_name=run_name,
    ).info.run_id
    for metric, value in metrics.items():
        client.log_metric(run_id, metric, value)
    hashes = {}
    for file, text in documents.items():
        client.log_text(run_id, text, file)
        hashes[f"{_SHA256}_{file}"] = _sha256(text)
    version = _store(
        tracking_uri, name, estimator, run_id, {"horizon_days": "0", **tags, **hashes}, **how
    )
    client.set_terminated(run_id)
    client.set_registered_model_alias(name, CHALLENGER, str(version))
    if is_champion:
        promote(tracking_uri, name, version, reason)
    return resolve(tracking_uri, name, version)


def record_spent(ref: ModelRef, as_of: date, attempt: int, alpha: float) -> None:
    """Note in the registry which error a challenger of a quarter has spent (`attempt_of`)."""
    spent = {
        "as_of": as_of.isoformat(),
        "version": ref.version,
        "alpha": alpha,
        "data_digest": ref.tags.get("data_digest", ""),
    }
    _client(ref.tracking_uri).set_registered_model_tag(
        ref.name,
        f"{_SPENT}{quarter_of(as_of)}_{attempt:03d}",
        json.dumps(spent, sort_keys=True),
    )


def log_pictures(ref: ModelRef, pictures: Mapping[str, bytes]) -> None:
    """Keep PNG pictures by file name beside a registered version's run."""
    with tempfile.TemporaryDirectory() as folder:
        for file, png in pictures.items():
            (Path(folder) / file).write_bytes(png)
        if pictures:
            _client(ref.tracking_uri).log_artifacts(ref.run_id, folder, "evaluation")


def keep_card(ref: ModelRef, card: str) -> None:
    """Keep the model card of a version beside its run, and as much as fits as its description.

    A description holds 5,000 characters in a database that keeps to it (PostgreSQL does, SQLite
    does not), so it ends before the first section that would not fit and says where the rest is.
    """
    client = _client(ref.tracking_uri)
    client.log_text(ref.run_id, card, _CARD)
    version = str(ref.version)
    client.set_model_version_tag(ref.name, version, f"{_SHA256}_{_CARD}", _sha256(card))
    client.update_model_version(ref.name, version, description=_shortened(card))


def _shortened(card: str) -> str:
    """Return the whole sections of a card that fit a description, from the first."""
    if len(card) <= _LONGEST_DESCRIPTION:
        return card
    kept, *sections = card.split("\n## ")
    left_out: list[str] = []
    for section in sections:
        title, longer = section.splitlines()[0], f"{kept}\n## {section}"
        if left_out or len(longer) > _LONGEST_DESCRIPTION - _POINTER_LENGTH:
            left_out.append(title)
        else:
            kept = longer
    return f"{kept}\n*Further in {_CARD}, among the artifacts of the run: {', '.join(left_out)}.*\n"


def load_document(ref: ModelRef, file: str) -> str:
    """Return a document that was registered with a model, after its hash was checked.

    Raises:
        ModelError: it is missing, has no hash, or is not the one that was registered.
    """
    expected = ref.tags.get(f"{_SHA256}_{file}")
    if expected is None:
        raise ModelError(
            f"{file} of model {ref.name!r} version {ref.version} has no hash in the registry, so "
            "nothing says that it is what was registered"
        )
    client = _client(ref.tracking_uri)
    content = _read(ref.tracking_uri, f"{client.get_run(ref.run_id).info.artifact_uri}/{file}")
    if hashlib.sha256(content).hexdigest() != expected:
        raise ModelError(
            f"{file} of model {ref.name!r} version {ref.version} is not the file that was "
            "registered; restore the artifact or roll back to an earlier version"
        )
    return content.decode()


def _as_classifier(features: Sequence[str]) -> dict[str, Any]:
    """Return what MLflow's log_model is told of a classifier: its columns, two probabilities."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    from ml.features import NULLABLE

    columns: list[ColSpec | TensorSpec] = [
        ColSpec("double", f, required=f not in NULLABLE) for f in features
    ]
    output = Schema([TensorSpec(np.dtype("float64"), (-1, 2))])
    return {
        "signature": ModelSignature(inputs=Schema(columns), outputs=output),
        "pyfunc_predict_fn": "predict_proba",
    }


def _store(
    tracking_uri: str,
    name: str,
    estimator: Any,
    run_id: str,
    tags: Mapping[str, str],
    **how: Any,
) -> int:
    """Log an estimator as skops under a run, register it with its hash; return the version."""
    import mlflow
    import pandas
    import sklearn
    import skops

    client = _client(tracking_uri)
    with _fluent(tracking_uri), mlflow.start_run(run_id=run_id):
        info = mlflow.sklearn.log_model(
            estimator,
            name="model",
            serialization_format="skops",
            skops_trusted_types=list(TRUSTED_TYPES),
            # given, since inferring them starts a process and takes 7 s
            pip_requirements=[
                f"scikit-learn=={sklearn.__version__}",
                f"skops=={skops.__version__}",
                f"numpy=={np.__version__}",
                f"pandas=={pandas.__version__}",
            ],
            **how,
        )
    location = client.get_logged_model(info.model_id).artifact_location
    content = _read(tracking_uri, f"{location}/{_MODEL_FILE}")
    _parse(content)  # it must load from our own list before it can be registered
    with contextlib.suppress(mlflow.exceptions.MlflowException):  # it exists already
        client.create_registered_model(name)
    with _fluent(tracking_uri):  # the SQL store resolves models:/ through the global client
        version = client.create_model_version(
            name,
            source=info.model_uri,
            run_id=run_id,
            model_id=info.model_id,
            tags={**tags, _SHA256: hashlib.sha256(content).hexdigest()},
        )
    return int(version.version)


def resolve(tracking_uri: str, name: str, which: str | int = CHAMPION) -> ModelRef:
    """Return the version that an alias stands for, or the version of that number.

    Raises:
        NoSuchModelError: there is no such model, alias or version.
        ModelError: it is there and carries no hash.
        mlflow.exceptions.MlflowException: the store cannot be asked, for example while another
            process holds its database: then nobody knows whether there is a champion.
    """
    client = _client(tracking_uri)
    is_version = isinstance(which, int) or which.isdigit()
    what = f"version {which}" if is_version else f"alias {which!r}"
    with _absence(f"model {name!r} has no {what}", is_alias=not is_version):
        if is_version:
            found = client.get_model_version(name, str(which))
        else:
            found = client.get_model_version_by_alias(name, str(which))
    missing = {_SHA256, "recipe", "last_matured_date", "horizon_days"} - found.tags.keys()
    if missing or found.run_id is None or found.source is None:
        raise ModelError(
            f"model {name!r} version {found.version} lacks a run or the tags "
            f"{', '.join(sorted(missing))}: it was not registered by this platform and is not used"
        )
    return ModelRef(
        tracking_uri=tracking_uri,
        name=name,
        version=int(found.version),
        sha256=found.tags[_SHA256],
        run_id=found.run_id,
        artifact_uri=_artifact_uri(client, found.source),
        recipe=found.tags["recipe"],
        last_matured_date=date.fromisoformat(found.tags["last_matured_date"]),
        horizon_days=int(found.tags["horizon_days"]),
        tags=dict(found.tags),
    )


def load(ref: ModelRef) -> Any:
    """Return the fitted estimator of a version, after its hash was checked.

    Raises:
        ModelError: the stored file is missing, differs from what was registered, or holds a type
            that is not on `TRUSTED_TYPES`.
    """
    content = _read(ref.tracking_uri, f"{ref.artifact_uri}/{_MODEL_FILE}")
    actual = hashlib.sha256(content).hexdigest()
    if actual != ref.sha256:
        raise ModelError(
            f"model {ref.name!r} version {ref.version} is not the file that was registered: its "
            f"SHA-256 is {actual}, expected {ref.sha256}. It is not loaded; restore the artifact "
            "or roll back to an earlier version"
        )
    return _parse(content)


def promote(
    tracking_uri: str, name: str, version: int, reason: str, approver: str = TRAINING
) -> ModelRef:
    """Make a version champion and record the move; the version must load.

    Raises:
        ModelError: it does not load, or it is held for a leak review that nobody has signed.
    """
    return _move(tracking_uri, name, "promote", version, reason, approver)


def rollback(tracking_uri: str, name: str, reason: str, approver: str = TRAINING) -> ModelRef:
    """Make the previous champion champion again and record the move with its reason.

    A second rollback goes one champion further back.

    Raises:
        ModelError: there is no earlier champion, or it no longer loads.
    """
    version = previous_champion(tracking_uri, name)
    return _move(tracking_uri, name, "rollback", version, reason, approver)


def previous_champion(tracking_uri: str, name: str) -> int:
    """Return the version to which a rollback leads.

    Raises:
        ModelError: there is no earlier champion.
    """
    current = resolve(tracking_uri, name, CHAMPION).version
    line: list[int] = []  # the champions to which a rollback could lead, oldest first
    for move in champion_history(tracking_uri, name):
        if move.kind == "promote":
            line.append(move.version)
        elif move.version in line:
            line = line[: len(line) - line[::-1].index(move.version)]
    while line and line[-1] == current:
        line.pop()
    if not line:
        raise ModelError(f"model {name!r} has had no champion before version {current}")
    return line[-1]


def champion_history(tracking_uri: str, name: str) -> list[ChampionMove]:
    """Return every change of champion, oldest first.

    Raises:
        NoSuchModelError: there is no model of that name.
    """
    with _absence(f"there is no model {name!r}"):
        tags = _client(tracking_uri).get_registered_model(name).tags
    return [ChampionMove(**json.loads(tags[k])) for k in sorted(tags) if k.startswith(_MOVE)]


def honour_alias(
    tracking_uri: str, name: str, may_serve: Callable[[ModelRef], None] = lambda ref: None
) -> ModelRef:
    """Return the champion, and record the move where its alias was set in MLflow itself.

    may_serve: raises where a version that was set by hand must not serve.

    Raises:
        NoSuchModelError: there is no champion.
        ModelError: it was set by hand to a version that is held for a leak review.
    """
    if not _is_moved_by_hand(tracking_uri, name):
        return resolve(tracking_uri, name)
    with _locked(tracking_uri):
        ref = resolve(tracking_uri, name)
        if not _is_moved_by_hand(tracking_uri, name):  # a promotion was about to record it
            return ref
        _require_signed(ref)
        may_serve(ref)
        moves = champion_history(tracking_uri, name)
        previous = moves[-1].version if moves else None
        _record(ref, len(moves), ChampionMove("promote", ref.version, previous, BY_HAND, UNKNOWN))
        return ref


def _is_moved_by_hand(tracking_uri: str, name: str) -> bool:
    moves = champion_history(tracking_uri, name)
    return not moves or moves[-1].version != resolve(tracking_uri, name).version


def _move(
    tracking_uri: str, name: str, kind: str, version: int, reason: str, approver: str
) -> ModelRef:
    ref = resolve(tracking_uri, name, version)
    _require_signed(ref)
    load(ref)
    with _locked(tracking_uri):
        try:
            previous: int | None = resolve(tracking_uri, name, CHAMPION).version
        except NoSuchModelError:
            previous = None
        history = champion_history(tracking_uri, name)
        if previous == version:
            if history and history[-1].version == version:
                return ref
            # The alias was set in MLflow; now somebody answers for it, with a reason.
            previous = history[-1].version if history else None
        moves = len(history)
        # Alias first: it is the truth. A process that dies in between leaves a move unrecorded, and
        # rollback then still finds the previous champion as the last recorded one.
        _client(tracking_uri).set_registered_model_alias(name, CHAMPION, str(version))
        _record(ref, moves, ChampionMove(kind, version, previous, reason, approver))
    return ref


def _record(ref: ModelRef, earlier: int, move: ChampionMove) -> None:
    _client(ref.tracking_uri).set_registered_model_tag(
        ref.name, f"{_MOVE}{earlier + 1:04d}", json.dumps(asdict(move), sort_keys=True)
    )


def _require_signed(ref: ModelRef) -> None:
    if _REVIEW in ref.tags and _SIGNED not in ref.tags:
        raise ModelError(
            f"model {ref.name!r} version {ref.version} is held for a leak review: "
            f"{ref.tags[_REVIEW]}. Look for a feature that knows the label, then sign: python -m "
            f"orchestration champion --sign {ref.version} --name NAME --reason WHY"
        )


def _metrics(candidate: CandidateResult) -> dict[str, float]:
    """Return the metrics of a run by name: pooled, intervals, uncontacted, cost."""
    metrics = dict(candidate.metrics)
    for name, found in candidate.intervals.items():
        metrics |= _ends(name, found)
    metrics |= {f"uncontacted_{k}": v for k, v in candidate.metrics_uncontacted.items()}
    metrics["fit_seconds"] = candidate.fit_seconds
    metrics["score_seconds_per_10k"] = candidate.score_seconds_per_10k
    return metrics


def _ends(name: str, found: Interval) -> dict[str, float]:
    """Return an estimate and the ends of its 95 % interval as metrics."""
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def _params(result: TrainingResult, recipe: str) -> dict[str, Any]:
    settings = asdict(result.settings)
    profit = settings.pop("profit")
    searched = {} if result.searched is None else {"searched": result.searched.said(recipe)}
    return {
        "recipe": recipe,
        **searched,
        "horizon_days": result.horizon_days,
        "seed": result.seed,
        "feature_count": len(result.features),
        "test_snapshots": ", ".join(str(split.test) for split in result.origins),
        "training_row_count": result.training_row_count,
        **settings,
        **{f"profit_{k}": v for k, v in profit.items()},
    }


def _thresholds_table(result: TrainingResult) -> pd.DataFrame:
    """Return precision, recall, F1 and the confusion of each candidate at each threshold."""
    import pandas as pd

    return pd.concat(
        [
            result.candidate(name).at_thresholds.assign(candidate=name).set_index("candidate")
            for name in result.ranking
        ]
    ).reset_index()


def _summary(result: TrainingResult) -> dict[str, Any]:
    """Return the training in one readable document, without customers."""
    return {
        "as_of": str(result.as_of),
        "chosen": result.chosen,
        "decision": {
            "promote": result.decision.promote,
            "reason": result.decision.reason,
        },
        "ranking": list(result.ranking),
        "origins": [
            {
                "matured": [str(day) for day in split.matured],
                "test": str(split.test),
            }
            for split in result.origins
        ],
        "gates": {
            candidate.name: {gate.name: [gate.passed, gate.detail] for gate in candidate.gates}
            for candidate in result.candidates
        },
        "features": list(result.features),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _verdict(passed: bool) -> str:
    return "passed" if passed else "failed"


def _log_dataset(client: MlflowClient, run_id: str, result: TrainingResult, name: str) -> None:
    """Log the data set's name, digest, columns and row count: never its rows."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    from ml.features import NULLABLE

    schema = {
        "mlflow_colspec": [
            {"type": "double", "name": f, "required": f not in NULLABLE} for f in result.features
        ]
    }
    client.log_inputs(
        run_id,
        [
            DatasetInput(
                Dataset(
                    name=name,
                    digest=result.data_digest[:36],  # the store's limit
                    source_type="code",
                    source=json.dumps({"tables": "customer_features, churn_labels"}),
                    schema=json.dumps(schema),
                    profile=json.dumps({"num_rows": result.training_row_count}),
                ),
                [InputTag("mlflow.data.context", "training")],
            )
        ],
    )


def _client(tracking_uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


@contextlib.contextmanager
def _absence(what: str, *, is_alias: bool = False) -> Iterator[None]:
    """Turn MLflow's "not found", and no other of its errors, into NoSuchModelError."""
    from mlflow.exceptions import MlflowException

    # For an alias that is not there MLflow 3 says INVALID_PARAMETER_VALUE.
    absent = {"RESOURCE_DOES_NOT_EXIST"} | ({"INVALID_PARAMETER_VALUE"} if is_alias else set())
    try:
        yield
    except MlflowException as error:
        if error.error_code not in absent:
            raise
        raise NoSuchModelError(f"{what}: train first ({error.message})") from error


@contextlib.contextmanager
def _fluent(tracking_uri: str) -> Iterator[None]:
    """Point MLflow's global state at the store for the calls that have no client form."""
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


@contextlib.contextmanager
def _locked(tracking_uri: str) -> Iterator[None]:
    """Hold a lock file beside a SQLite store; other stores serialise by themselves."""
    if not tracking_uri.startswith("sqlite:///"):
        yield
        return
    import fcntl

    path = Path(tracking_uri.removeprefix("sqlite:///") + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released with the handle, also when the process dies
        yield


def _artifact_uri(client: MlflowClient, source: str) -> str:
    """Return the folder of a version's files; MLflow 3 names a logged model instead of a folder."""
    prefix = "models:/"
    if source.startswith(prefix):
        return str(client.get_logged_model(source.removeprefix(prefix)).artifact_location)
    return source


def _read(tracking_uri: str, uri: str) -> bytes:
    """Return the bytes of an artifact, from a local folder or by MLflow from a remote one."""
    parsed = urlparse(uri)
    try:
        if parsed.scheme in ("", "file"):
            return Path(unquote(parsed.path)).read_bytes()
        import mlflow

        return Path(
            mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracking_uri)
        ).read_bytes()
    except OSError as error:
        raise ModelError(f"the stored model cannot be read: {error}") from error


def _parse(content: bytes) -> Any:
    """Return the estimator in skops bytes, trusting our own list and nothing that the file says."""
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return skops.io.loads(content, trusted=list(TRUSTED_TYPES))
    except UntrustedTypesFoundException as error:
        raise ModelError(
            f"the stored model holds types that ml.registry.TRUSTED_TYPES does not name: {error}"
        ) from error

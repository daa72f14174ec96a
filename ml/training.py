"""One training: fit the candidates at rolling origins, compare them out of time, choose, refit.

Belongs here: the procedure and its decision. Does not belong here: recipes (ml.candidates),
splits and intervals (ml.validation), formulas (ml.metrics), the MLflow store (ml.registry).

What makes the comparison honest:
- every prediction that is compared was made for a snapshot T by a model that used only labels
  matured by T, for fitting, for calibrating and for choosing thresholds;
- all candidates, the baselines and the champion are compared on the same rows;
- intervals are paired and resampled by customer.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from ml.candidates import FALLBACK, candidates, fallback_prior
from ml.estimators import CalibratedOnLaterSnapshots
from ml.features import FEATURES, feature_matrix
from ml.metrics import (
    PRIMARY_METRIC,
    ProfitModel,
    Thresholds,
    choose_thresholds,
    classification_at,
    evaluate,
    log_losses,
)
from ml.validation import (
    Interval,
    Split,
    customer_bootstrap,
    interval,
    rolling_origins,
    sample_rows,
    split_at,
    thin,
)

NO_SKILL = "no_skill"
CHAMPION = "champion"
_FIT_WORKERS = 2
KEYS = ("snapshot_date", "customer_key", "is_churned", "was_contacted")


class TrainingSkipped(Exception):  # noqa: N818  an outcome with a reason, not an error
    """Nothing can be compared honestly on these data; the message says why. The champion stays."""


class Classifier(Protocol):
    """What scoring and comparison need of a model."""

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        """Return an array of shape (rows, 2)."""
        ...


@dataclass(frozen=True)
class TrainingSettings:
    """Everything about a training that a shop may set."""

    n_origins: int = 3
    max_rows: int = 60_000
    snapshot_spacing_days: int = 14
    origin_spacing_days: int = 28
    calibration_days: int = 28
    # below these a fit is noise: Segment asks for 100 of each class, Klaviyo for 500 buyers
    min_rows: int = 500
    min_class_rows: int = 50
    n_resamples: int = 1000
    capacity_share: float = 0.1
    profit: ProfitModel = field(default_factory=ProfitModel)


@dataclass(frozen=True)
class Champion:
    """The model that serves today, as far as a comparison needs it."""

    version: int
    recipe: str
    last_matured_date: date
    model: Classifier


@dataclass(frozen=True)
class Gate:
    """One condition that a candidate must meet to be registered, and what was found."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class CandidateResult:
    """One candidate, out of time: all origins pooled, each origin, and uncontacted customers."""

    name: str
    metrics: Mapping[str, float]
    metrics_uncontacted: Mapping[str, float]
    metrics_by_origin: Mapping[date, Mapping[str, float]]
    fit_seconds: float
    score_seconds_per_10k: float
    gates: tuple[Gate, ...]

    # seconds are processor seconds of the one thread that did it, the mean over origins
    @property
    def passed(self) -> bool:
        """Whether every gate was passed."""
        return all(gate.passed for gate in self.gates)


@dataclass(frozen=True)
class Decision:
    """Whether the chosen recipe becomes champion, why, and the interval that decided."""

    promote: bool
    reason: str
    log_loss_difference: Interval | None


@dataclass(frozen=True)
class TrainingResult:
    """All that a training found out. `predictions` holds customer keys: never log it."""

    as_of: date
    horizon_days: int
    seed: int
    settings: TrainingSettings
    features: tuple[str, ...]
    origins: tuple[Split, ...]
    candidates: tuple[CandidateResult, ...]
    ranking: tuple[str, ...]
    chosen: str
    model: CalibratedOnLaterSnapshots
    thresholds: Thresholds
    refit: Split
    last_matured_date: date
    training_row_count: int
    decision: Decision
    champion_metrics: Mapping[str, float] | None
    importances: pd.DataFrame
    predictions: pd.DataFrame
    data_digest: str

    def candidate(self, name: str) -> CandidateResult:
        """Return the result of one candidate by name."""
        return next(result for result in self.candidates if result.name == name)


@dataclass(frozen=True)
class Fallback:
    """The recency rule as first champion where nothing can be compared; hence without metrics."""

    as_of: date
    horizon_days: int
    features: tuple[str, ...]
    model: Classifier
    last_matured_date: date  # `as_of` where no label has matured: it has seen all there was
    training_row_count: int
    decision: Decision
    data_digest: str
    chosen: str = FALLBACK


@dataclass(frozen=True)
class _Fitted:
    model: CalibratedOnLaterSnapshots
    thresholds: Thresholds
    row_count: int
    seconds: float


def train(
    training: pd.DataFrame,
    as_of: date,
    horizon_days: int,
    seed: int,
    *,
    champion: Champion | None = None,
    settings: TrainingSettings | None = None,
    features: tuple[str, ...] = FEATURES,
    recipes: Mapping[str, Any] | None = None,
    on_progress: Callable[[str], None] = lambda message: None,
) -> TrainingResult | Fallback:
    """Train, compare and choose on labels matured by the end of `as_of`.

    training: one row per snapshot_date and customer_key with the features, matured_date (date),
    is_churned (0/1), was_contacted (bool). Rows whose label matures after `as_of` are ignored.
    recipes: name -> unfitted pipeline, default `candidates(seed, features)`.

    The champion's predictions at an origin T are those of its own frozen model if its last label
    had matured by T; otherwise its recipe stands in, refitted on what was known at T. Either way
    they are out of time, on the same rows as the challenger's. So a young champion is challenged
    by other recipes, and one that is older than the horizon also by its own recipe on new labels.

    Where nothing can be compared (too little history, too few rows, one class only) and there is no
    champion, the recency rule is returned instead, so that a new shop has scores.

    Raises:
        TrainingSkipped: nothing can be compared and there is a champion; the reason is told.
        FeatureError: the frame breaks the feature contract.
        ValueError: the frame lacks columns, repeats rows or holds labels of another horizon, or
            the recipes lack the recency rule.
    """
    settings = settings or TrainingSettings()
    recipes = dict(recipes or candidates(seed, features))
    if FALLBACK not in recipes:
        raise ValueError(f"the recipes must include the baseline and fallback {FALLBACK!r}")
    data = _matured(training, as_of, horizon_days, features)
    days = thin(list(data["snapshot_date"].unique()), settings.snapshot_spacing_days)
    data = data[data["snapshot_date"].isin(days)].reset_index(drop=True)
    try:
        refit, usable = _splits(data, days, as_of, horizon_days, settings)
    except TrainingSkipped as skipped:
        if champion is not None:
            raise
        reason = f"{skipped}; the {FALLBACK} serves until candidates can be compared"
        on_progress(reason)
        return _fall_back(recipes[FALLBACK], data, as_of, horizon_days, features, reason)

    blocks: list[pd.DataFrame] = []
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in recipes}
    thresholds: dict[tuple[str, date], Thresholds] = {}
    latest_models: dict[str, Classifier] = {}
    for split in usable:
        on_progress(f"fitting {len(recipes)} candidates as of {split.test}")
        test = data[data["snapshot_date"] == split.test].reset_index(drop=True)
        block = test[list(KEYS)].copy()
        for name, fitted in _fit_all(recipes, data, split, settings, features, seed).items():
            started = time.thread_time()
            block[name] = _predict(fitted.model, test, features)
            spent = (time.thread_time() - started) / len(test) * 1e4
            costs[name].append((fitted.seconds, spent))
            thresholds[name, split.test] = fitted.thresholds
            latest_models[name] = fitted.model
        if champion is not None:
            if champion.last_matured_date <= split.test:
                block[CHAMPION] = _predict(champion.model, test, features)
            elif champion.recipe in recipes:
                block[CHAMPION] = block[champion.recipe]
            else:
                block[CHAMPION] = np.nan  # a recipe that is gone, and too young to be judged
        block[NO_SKILL] = float(block["is_churned"].mean())
        blocks.append(block)
    predictions = pd.concat(blocks, ignore_index=True)

    on_progress("comparing the candidates")
    results = _judge(predictions, recipes, thresholds, costs, usable, settings, seed)
    ranking = tuple(
        result.name for result in sorted(results, key=lambda r: r.metrics[PRIMARY_METRIC])
    )
    passed = {result.name for result in results if result.passed}
    chosen = next((name for name in ranking if name in passed), FALLBACK)
    decision, champion_metrics = _decide(predictions, chosen, passed, champion, settings, seed)

    on_progress(f"refitting {chosen} on all labels matured by {as_of}")
    final = _fit_all({chosen: recipes[chosen]}, data, refit, settings, features, seed)[chosen]
    latest = data[data["snapshot_date"] == usable[-1].test]
    importances = permutation_importances(latest_models[chosen], latest, features, seed)
    return TrainingResult(
        as_of=as_of,
        horizon_days=horizon_days,
        seed=seed,
        settings=settings,
        features=tuple(features),
        origins=tuple(usable),
        candidates=tuple(results),
        ranking=ranking,
        chosen=chosen,
        model=final.model,
        thresholds=final.thresholds,
        refit=refit,
        last_matured_date=max(data["matured_date"]),
        training_row_count=final.row_count,
        decision=decision,
        champion_metrics=champion_metrics,
        importances=importances,
        predictions=predictions,
        data_digest=_digest(data, features),
    )


def permutation_importances(
    model: Classifier,
    frame: pd.DataFrame,
    features: tuple[str, ...],
    seed: int,
    *,
    max_rows: int = 1500,
) -> pd.DataFrame:
    """Return feature, importance, sorted: the rise in log loss when a column is shuffled.

    Measured on out-of-time rows (Breiman 2001); correlated features share their importance, so a
    small number does not mean useless. All shuffled copies are predicted in one call.
    """
    frame = sample_rows(frame, max_rows, "importance")
    X = feature_matrix(frame, features)
    y = frame["is_churned"].to_numpy()
    random = np.random.default_rng(seed)
    copies = [X]
    for name in features:
        copy = X.copy()
        copy[name] = X[name].to_numpy()[random.permutation(len(X))]
        copies.append(copy)
    with threadpool_limits(1):
        p = model.predict_proba(pd.concat(copies, ignore_index=True))[:, 1]
    losses = log_losses(np.tile(y, len(copies)), p).reshape(len(copies), len(X)).mean(axis=1)
    table = pd.DataFrame(
        {"feature": list(features), "importance": np.round(losses[1:] - losses[0], 6)}
    )
    return table.sort_values(
        ["importance", "feature"], ascending=[False, True], kind="stable"
    ).reset_index(drop=True)


def _matured(
    training: pd.DataFrame, as_of: date, horizon_days: int, features: tuple[str, ...]
) -> pd.DataFrame:
    """Return the rows whose label matured by `as_of`, checked, features as floats, sorted."""
    missing = [c for c in (*KEYS, "matured_date") if c not in training.columns]
    if missing:
        raise ValueError(f"the training frame lacks {', '.join(missing)}")
    training = training.assign(
        **{name: _dates(training[name]) for name in ("snapshot_date", "matured_date")}
    )
    rows = training[training["matured_date"] <= as_of] if len(training) else training
    snapshots, matured = rows["snapshot_date"], rows["matured_date"]
    wrong = pd.to_datetime(matured) - pd.to_datetime(snapshots) != pd.Timedelta(days=horizon_days)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} rows carry a matured_date other than snapshot_date + "
            f"{horizon_days} days: labels of another horizon?"
        )
    if not rows["is_churned"].isin((0, 1)).all():
        raise ValueError("is_churned holds values other than 0 and 1")
    if rows.duplicated(["snapshot_date", "customer_key"]).any():
        raise ValueError("the training frame repeats (snapshot_date, customer_key)")
    rows = rows.sort_values(["snapshot_date", "customer_key"], kind="stable")
    data = rows[[*KEYS, "matured_date"]].astype({"is_churned": "int64", "was_contacted": "bool"})
    return pd.concat([data, feature_matrix(rows, features)], axis=1).reset_index(drop=True)


def _splits(
    data: pd.DataFrame,
    days: list[date],
    as_of: date,
    horizon_days: int,
    settings: TrainingSettings,
) -> tuple[Split, list[Split]]:
    """Return the split of the refit and those of the origins that can be compared, oldest first.

    Raises:
        TrainingSkipped: there is none.
    """
    if not days:
        raise TrainingSkipped(
            f"no label has matured by {as_of}: the first does {horizon_days} days after the first "
            "snapshot"
        )
    refit = split_at(days, as_of, horizon_days, calibration_days=settings.calibration_days)
    origins = rolling_origins(
        days,
        as_of,
        horizon_days,
        settings.n_origins,
        spacing_days=settings.origin_spacing_days,
        calibration_days=settings.calibration_days,
    )
    usable, reasons = [], []
    for split in origins:
        reason = _unusable(data, split, f"origin {split.test}", settings)
        if reason:
            reasons.append(reason)
        else:
            usable.append(split)
    if refit is None or not origins:
        raise TrainingSkipped(
            f"history is too short as of {as_of}: snapshots from {days[0]} to {days[-1]} leave no "
            f"origin whose test snapshot comes {horizon_days} days after a calibration snapshot, "
            f"itself after a training snapshot; at least {horizon_days + settings.calibration_days}"
            " days of snapshots with matured labels are needed"
        )
    no_refit = _unusable(data, refit, "the refit", settings)
    if no_refit or not usable:
        told = "; ".join([*reasons, no_refit] if no_refit else reasons)
        raise TrainingSkipped(f"no candidates can be compared as of {as_of}: {told}")
    return refit, usable


def _fall_back(
    recipe: Any,
    data: pd.DataFrame,
    as_of: date,
    horizon_days: int,
    features: tuple[str, ...],
    reason: str,
) -> Fallback:
    """Fit the recency rule on all matured rows, possibly none, and its prior.

    The prior gives it both classes and a slope; with so few labels none is spared to calibrate.
    """
    seen = pd.concat([data, fallback_prior(horizon_days)], join="inner", ignore_index=True)
    with threadpool_limits(1):
        model = clone(recipe).fit(seen, seen["is_churned"].to_numpy())
    return Fallback(
        as_of=as_of,
        horizon_days=horizon_days,
        features=tuple(features),
        model=model,
        last_matured_date=max(data["matured_date"], default=as_of),
        training_row_count=len(data),
        decision=Decision(True, f"first champion, compared with nothing: {reason}", None),
        data_digest=_digest(data, features),
    )


def _dates(column: pd.Series) -> pd.Series:
    """Return a column of dates or timestamps as datetime.date objects."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column.dt.date.astype(object)
    return column.astype(object)


def _unusable(
    data: pd.DataFrame, split: Split, name: str, settings: TrainingSettings
) -> str | None:
    """Return why a split cannot be used, or None."""
    # part, its snapshots, the fewest rows, the fewest of each class
    parts: list[tuple[str, tuple[date, ...], int, int]] = [
        ("training", split.train, settings.min_rows, settings.min_class_rows),
        ("calibration", split.calibration, settings.min_class_rows, 1),
    ]
    if split.test in set(data["snapshot_date"]):  # the refit tests nothing
        parts.append(("test", (split.test,), settings.min_class_rows, 1))
    for part, days, fewest, fewest_of_class in parts:
        y = data.loc[data["snapshot_date"].isin(days), "is_churned"]
        if len(y) < fewest:
            return f"{name}: {len(y)} {part} rows, at least {fewest} are needed"
        churned = int(y.sum())
        if min(churned, len(y) - churned) < fewest_of_class:
            return (
                f"{name}: {churned} of {len(y)} {part} rows churned, at least {fewest_of_class} "
                "of each class are needed"
            )
    return None


def _fit_all(
    recipes: Mapping[str, Any],
    data: pd.DataFrame,
    split: Split,
    settings: TrainingSettings,
    features: tuple[str, ...],
    seed: int,
) -> dict[str, _Fitted]:
    """Fit on the earlier snapshots, calibrate and choose thresholds on the later ones.

    Two recipes at a time, one thread each: results do not depend on the cores of the host, since
    sums of floats depend on how they are split and an iterative fit amplifies the last digit.
    """
    earlier = data[data["snapshot_date"].isin(split.train)]
    later = data[data["snapshot_date"].isin(split.calibration)]
    earlier = sample_rows(earlier, settings.max_rows, f"train|{seed}")
    later = sample_rows(later, settings.max_rows, f"calibrate|{seed}")
    X, X_later = earlier[list(features)], later[list(features)]
    y, y_later = earlier["is_churned"].to_numpy(), later["is_churned"].to_numpy()

    def fit(name: str) -> _Fitted:
        started = time.thread_time()
        with threadpool_limits(1):  # the limit on OpenMP holds per thread
            model = CalibratedOnLaterSnapshots(recipes[name]).fit(X, y, X_later, y_later)
        seconds = time.thread_time() - started
        thresholds = choose_thresholds(
            y_later,
            _predict(model, later, features),
            capacity_share=settings.capacity_share,
            profit=settings.profit,
        )
        return _Fitted(model, thresholds, len(earlier) + len(later), seconds)

    # both are process-wide, so they are set once around the threads
    with threadpool_limits(1), warnings.catch_warnings():
        # the number of epochs of the network is part of its recipe, not a failure to converge
        warnings.simplefilter("ignore", ConvergenceWarning)
        with ThreadPoolExecutor(_FIT_WORKERS) as pool:
            return dict(zip(recipes, pool.map(fit, recipes), strict=True))


def _predict(model: Classifier, frame: pd.DataFrame, features: tuple[str, ...]) -> np.ndarray:
    with threadpool_limits(1):
        return np.round(model.predict_proba(frame[list(features)])[:, 1], 6)


def _judge(
    predictions: pd.DataFrame,
    recipes: Mapping[str, Any],
    thresholds: Mapping[tuple[str, date], Thresholds],
    costs: Mapping[str, list[tuple[float, float]]],
    origins: list[Split],
    settings: TrainingSettings,
    seed: int,
) -> list[CandidateResult]:
    """Measure every candidate on the same rows and pass it through the gates."""
    differences = _differences(
        predictions,
        [(name, base) for name in recipes for base in (NO_SKILL, FALLBACK)],
        settings,
        seed,
    )
    results = []
    for name in recipes:
        at = {split.test: thresholds[name, split.test].as_dict() for split in origins}
        results.append(
            CandidateResult(
                name=name,
                metrics=_metrics(predictions, name, at),
                metrics_uncontacted=_metrics(predictions[~predictions["was_contacted"]], name, at),
                metrics_by_origin={
                    day: _metrics(predictions[predictions["snapshot_date"] == day], name, at)
                    for day in at
                },
                fit_seconds=float(np.mean([fit for fit, _ in costs[name]])),
                score_seconds_per_10k=float(np.mean([score for _, score in costs[name]])),
                gates=_gates(name, predictions[name], differences),
            )
        )
    return results


def _metrics(
    rows: pd.DataFrame, name: str, at: Mapping[date, Mapping[str, float]]
) -> dict[str, float]:
    """Return the metrics of one column of predictions, each origin cut at its own thresholds."""
    if rows.empty:
        return {}
    y, p = rows["is_churned"].to_numpy(), rows[name].to_numpy()
    metrics = evaluate(y, p)
    purposes = next(iter(at.values()), {})
    for purpose in purposes:
        # shift each origin so that its threshold lies at 0, then cut the pooled rows once
        cut = rows["snapshot_date"].map({day: values[purpose] for day, values in at.items()})
        margin = p - cut.to_numpy(dtype="float64")
        for metric, value in classification_at(y, margin, 0.0).items():
            metrics[f"{metric}_at_{purpose}"] = value
    return metrics


def _gates(
    name: str, p: pd.Series, differences: Mapping[tuple[str, str], Interval]
) -> tuple[Gate, ...]:
    finite = bool(np.isfinite(p).all() and p.between(0, 1).all())
    gates = [Gate("finite", finite, "every out-of-time probability is finite and within [0, 1]")]
    gates.append(_beats(name, NO_SKILL, "beats_no_skill", differences))
    if name != FALLBACK:
        gates.append(_beats(name, FALLBACK, "beats_recency_rule", differences))
    return tuple(gates)


def _beats(
    name: str, base: str, gate: str, differences: Mapping[tuple[str, str], Interval]
) -> Gate:
    found = differences[name, base]
    return Gate(gate, found.high < 0, f"log loss minus that of {base}: {found}")


def _differences(
    predictions: pd.DataFrame,
    pairs: list[tuple[str, str]],
    settings: TrainingSettings,
    seed: int,
) -> dict[tuple[str, str], Interval]:
    """Return log loss of the first minus the second of each pair, with customer intervals."""
    y = predictions["is_churned"].to_numpy()
    losses = {
        name: log_losses(y, predictions[name].to_numpy())
        for name in sorted({name for pair in pairs for name in pair})
    }
    values = np.column_stack([losses[a] - losses[b] for a, b in pairs])
    resamples = customer_bootstrap(
        values, predictions["customer_key"], n_resamples=settings.n_resamples, seed=seed
    )
    return {pair: interval(values[:, i].mean(), resamples[:, i]) for i, pair in enumerate(pairs)}


def _decide(
    predictions: pd.DataFrame,
    chosen: str,
    passed: set[str],
    champion: Champion | None,
    settings: TrainingSettings,
    seed: int,
) -> tuple[Decision, dict[str, float] | None]:
    """Decide whether the chosen recipe becomes champion."""
    if champion is None:
        if chosen in passed:
            reason = (
                f"first champion: {chosen} has the lowest log loss of those that pass the gates"
            )
        else:
            reason = f"first champion: no candidate passes the gates, so the {chosen} serves"
        return Decision(True, reason, None), None
    rows = predictions[predictions[CHAMPION].notna()]
    who = f"champion version {champion.version} ({champion.recipe})"
    if rows.empty:
        reason = (
            f"{who} stays: its recipe is no longer a candidate and its labels matured after every "
            "test snapshot, so no comparison would be out of time"
        )
        return Decision(False, reason, None), None
    metrics = evaluate(rows["is_churned"].to_numpy(), rows[CHAMPION].to_numpy())
    if chosen not in passed:
        return Decision(False, f"{who} stays: no candidate passes the gates", None), metrics
    found = _differences(rows, [(chosen, CHAMPION)], settings, seed)[chosen, CHAMPION]
    told = f"log loss of {chosen} minus the champion's on the same {len(rows)} rows: {found}"
    if found.high < 0:
        return Decision(True, f"{chosen} replaces {who}. {told}", found), metrics
    return Decision(False, f"{who} stays: not beaten beyond doubt. {told}", found), metrics


def _digest(data: pd.DataFrame, features: tuple[str, ...]) -> str:
    """Return a SHA-256 over the matured, thinned, sorted rows: the identity of the data set."""
    digest = hashlib.sha256()
    digest.update("\x1f".join(features).encode())
    for column in KEYS:
        digest.update("\x1f".join(map(str, data[column])).encode())
    digest.update(np.ascontiguousarray(data[list(features)].to_numpy()).tobytes())
    return digest.hexdigest()

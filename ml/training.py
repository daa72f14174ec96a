"""One training: fit the candidates at rolling origins, compare them out of time, choose, refit.

Belongs here: the procedure and its decision. Does not belong here: recipes (ml.candidates), their
settings by time (ml.search), fits (ml.fitting), splits and intervals (ml.validation), formulas
(ml.metrics), gates and the decision (ml.promotion), the MLflow store (ml.registry).

What makes the comparison honest:
- every prediction that is compared was made for a snapshot T by a model that used only what was
  known by T, for fitting, for calibrating and for choosing thresholds; settings are searched by
  what was known at the oldest T;
- what is fitted is what is registered: the recipe on all that is known, calibrated on predictions
  for the matured snapshots of the last year by fits without those customers;
- all candidates, the baselines and the champion are compared on the same rows;
- intervals are paired and resampled by customer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

import numpy as np
import pandas as pd
from sklearn.base import clone

from ml.candidates import AVERAGES, FALLBACK, SETTINGS, candidates, fallback_prior
from ml.estimators import CalibratedOnLaterSnapshots
from ml.features import INPUTS, feature_matrix, protected_in
from ml.fitting import fit_candidates
from ml.metrics import (
    PRIMARY_METRIC,
    Thresholds,
    classified,
    confusion_at,
    evaluate,
    log_losses,
    profit_by_value,
)
from ml.promotion import (
    AUC_MARGIN,
    Gate,
    alpha_of,
    auc_difference,
    calibration_gates,
    difference,
    leak_suspicion,
    season_note,
    slice_gate,
)
from ml.search import Searched, search, tuned
from ml.settings import TrainingSettings
from ml.slices import OPTIONAL, PERSON, fairness, slice_table, slices
from ml.threads import one_thread
from ml.validation import (
    Interval,
    Split,
    customer_bootstrap,
    interval,
    ranking_bootstrap,
    rolling_origins,
    sample_rows,
    split_at,
    thin,
    usual_step,
)
from ml.value import expected_margin

NO_SKILL = "no_skill"
CHAMPION = "champion"
KEYS = ("snapshot_date", "customer_key", "is_churned", "was_contacted")
# beside which a gain is judged too good: the first that takes part
LEAK_REFERENCES = ("lightgbm", "hist_gradient_boosting")
# what the slices of a comparison are made of
SLICED = ("days_since_first_order", "revenue_amount_365d")
VALUE = "expected_margin_amount"


class TrainingSkipped(Exception):  # noqa: N818  an outcome with a reason, not an error
    """Nothing can be compared honestly on these data; the message says why. The champion stays."""


class Classifier(Protocol):
    """What scoring and comparison need of a model."""

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        """Return an array of shape (rows, 2)."""
        ...


@dataclass(frozen=True)
class Champion:
    """The model that serves today, as far as a comparison needs it."""

    version: int
    recipe: str
    last_matured_date: date
    model: Classifier
    protected: tuple[str, ...] = ()  # attributes that it was given (ml.features)


@dataclass(frozen=True)
class CandidateResult:
    """One candidate, out of time: all origins pooled, each origin, and uncontacted customers."""

    name: str
    metrics: Mapping[str, float]
    metrics_uncontacted: Mapping[str, float]
    metrics_by_origin: Mapping[date, Mapping[str, float]]
    intervals: Mapping[str, Interval]  # of metrics, and of log_loss_minus_<other>
    slices: pd.DataFrame
    at_thresholds: pd.DataFrame  # what is predicted and what came, by purpose (`at_thresholds`)
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
    spent_alpha: float | None = None  # of the budget of the quarter, where a new recipe was tested
    held: str | None = None  # why a person must look for a leak before this version may serve


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
    season: str
    first_snapshot: date
    against_chosen: Mapping[str, Interval]  # log loss of each candidate minus that of the chosen
    searched: Searched | None  # None where nothing was searched
    fairness: pd.DataFrame  # slices of the chosen by protected attribute
    fairness_note: str

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


def train(
    training: pd.DataFrame,
    as_of: date,
    horizon_days: int,
    seed: int,
    *,
    champion: Champion | None = None,
    settings: TrainingSettings | None = None,
    features: tuple[str, ...] = INPUTS,
    recipes: Mapping[str, Any] | None = None,
    searched: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    on_progress: Callable[[str], None] = lambda message: None,
) -> TrainingResult | Fallback:
    """Train, compare and choose on labels matured by the end of `as_of`.

    training: one row per snapshot_date and customer_key with the features, matured_date (date),
    is_churned (0/1, NaN before it matured), was_contacted (bool), and where known what slices and
    fairness are told by: account_type, country, acquisition_channel, gender, birth_year,
    is_reachable (whether a campaign may contact the customer). Labels that mature after `as_of`
    are not looked at, nor are snapshots after it; a snapshot without labels yet tells the survival
    model who has bought since the earlier ones.
    recipes: name -> unfitted pipeline, default `candidates(...)`; an average of `AVERAGES` takes
    part where all its parts do. searched: the settings to be tried of which recipes, by default
    `SETTINGS` of the default recipes and none of others. They are chosen once, by what was known at
    the oldest origin, so that every test is out of time for the choice, too.

    The champion's predictions at an origin T are those of its own frozen model if its last label
    had matured by T; otherwise its recipe stands in, refitted on what was known at T. Either way
    they are out of time, on the same rows as the challenger's. So a young champion is challenged
    by other recipes, and one that is older than the horizon also by its own recipe on new labels.

    A champion that was given a protected attribute which `features` no longer holds is replaced as
    if it were not there: it must not serve on, however good it is. Only where the version to follow
    it is held for a leak review it serves until somebody signs, and the reason says so.

    Where nothing can be compared (too little history, too few rows, one class only) and there is no
    champion, the recency rule is returned instead, so that a new shop has scores.

    Raises:
        TrainingSkipped: nothing can be compared and there is a champion; the reason is told.
        FeatureError: the frame breaks the feature contract.
        ValueError: the frame lacks columns, repeats rows or holds labels of another horizon, or
            the recipes lack the recency rule.
    """
    settings = settings or TrainingSettings()
    if searched is None:
        searched = SETTINGS if recipes is None else {}
    everything = known_by(training, as_of, horizon_days, features)
    days, panel = on_grid(everything, settings.snapshot_spacing_days)
    step = usual_step(days, settings.snapshot_spacing_days)
    recipes = dict(recipes or candidates(seed, features, horizon_days=horizon_days, step_days=step))
    if FALLBACK not in recipes:
        raise ValueError(f"the recipes must include the baseline and fallback {FALLBACK!r}")
    off = sorted(set(champion.protected) - set(protected_in(features))) if champion else []
    displaced: str | None = None
    if off and champion is not None:
        displaced = f"champion version {champion.version} uses {', '.join(off)}, now switched off"
        on_progress(displaced)
        champion = None
    data = panel[panel["is_churned"].notna()].astype({"is_churned": "int64"})
    data = data.reset_index(drop=True)
    names = [*recipes, *(name for name in AVERAGES if set(AVERAGES[name]) <= set(recipes))]
    try:
        refit, usable = _splits(data, days, as_of, horizon_days, settings)
    except TrainingSkipped as skipped:
        if champion is not None:
            raise
        reason = f"{skipped}; the {FALLBACK} serves until candidates can be compared"
        on_progress(reason)
        reason = f"{_first(displaced)}, compared with nothing: {reason}"
        return _fall_back(recipes[FALLBACK], data, as_of, horizon_days, features, reason)

    tried: Searched | None = None
    if searched:
        on_progress(f"searching settings of {', '.join(searched)} as of {usable[0].test}")
        tried = search(
            recipes,
            searched,
            panel,
            usable[0].test,
            refit,
            horizon_days,
            features,
            seed,
            later_days=settings.later_days,
            max_rows=settings.max_rows,
        )
        recipes = tuned(recipes, tried)
    blocks: list[pd.DataFrame] = []
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    thresholds: dict[tuple[str, date], Thresholds] = {}
    latest_models: dict[str, Classifier] = {}
    for split in usable:
        on_progress(f"fitting {len(names)} candidates as of {split.test}")
        test = data[data["snapshot_date"] == split.test].reset_index(drop=True)
        block = test[[*KEYS, *(c for c in (*OPTIONAL, *PERSON) if c in test)]].copy()
        block[list(SLICED)] = test[list(SLICED)]
        worth = expected_margin(test, horizon_days, settings.margin_rate)
        block[VALUE] = worth["expected_margin_amount"].astype("float64").to_numpy()
        for name, fitted in fit_candidates(recipes, panel, split, settings, features, seed).items():
            started = time.thread_time()
            block[name] = _predict(fitted.model, test, features)
            spent = (time.thread_time() - started) / len(test) * 1e4
            costs[name].append((fitted.seconds, spent))
            thresholds[name, split.test] = fitted.thresholds
            latest_models[name] = fitted.model
        if champion is not None:
            if champion.last_matured_date <= split.test:
                # it may be made of other columns of the frame
                block[CHAMPION] = _predict(champion.model, test, tuple(test.columns))
            elif champion.recipe in names:
                block[CHAMPION] = block[champion.recipe]
            else:
                block[CHAMPION] = np.nan  # a recipe that is gone, and too young to be judged
        block[NO_SKILL] = float(block["is_churned"].mean())
        blocks.append(block)
    predictions = pd.concat(blocks, ignore_index=True)

    on_progress("comparing the candidates")
    results = _judge(predictions, names, thresholds, costs, usable, settings, seed)
    ranking = tuple(
        result.name for result in sorted(results, key=lambda r: r.metrics[PRIMARY_METRIC])
    )
    passed = {result.name for result in results if result.passed}
    chosen, decision, champion_metrics = _decide(
        predictions, ranking, passed, champion, displaced, as_of, settings, seed
    )

    on_progress(f"refitting {chosen} on all that is known by {as_of}")
    by_person, fairness_note = fairness(predictions, chosen, tuple(features))
    parts = {name: recipes[name] for name in AVERAGES.get(chosen, (chosen,))}
    final = fit_candidates(parts, panel, refit, settings, features, seed)[chosen]
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
        # the survival model has seen the purchases up to the last snapshot, too
        last_matured_date=max(max(data["matured_date"]), max(panel["snapshot_date"])),
        training_row_count=final.row_count,
        decision=decision,
        champion_metrics=champion_metrics,
        importances=importances,
        predictions=predictions,
        data_digest=_digest(panel, features),
        season=season_note(days[0], as_of),
        first_snapshot=days[0],
        searched=tried,
        fairness=by_person,
        fairness_note=fairness_note,
        against_chosen={
            pair[0]: found
            for pair, found in _differences(
                predictions, [(name, chosen) for name in names], settings, seed
            ).items()
        },
    )


def permutation_importances(
    model: Classifier,
    frame: pd.DataFrame,
    features: tuple[str, ...],
    seed: int,
    *,
    max_rows: int = 1500,
) -> pd.DataFrame:
    """Return feature, importance, low, high, sorted: the rise in log loss when it is shuffled.

    Measured on out-of-time rows (Breiman 2001); correlated features share their importance, so a
    small number does not mean useless. The interval is over customers. All shuffled copies are
    predicted in one call.
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
    with one_thread():
        p = model.predict_proba(pd.concat(copies, ignore_index=True))[:, 1]
    losses = log_losses(np.tile(y, len(copies)), p).reshape(len(copies), len(X))
    rises = (losses[1:] - losses[0]).T
    resamples = customer_bootstrap(rises, frame["customer_key"], n_resamples=200, seed=seed)
    low, high = np.percentile(resamples, [2.5, 97.5], axis=0)
    table = pd.DataFrame(
        {
            "feature": list(features),
            "importance": np.round(rises.mean(axis=0), 6),
            "low": np.round(low, 6),
            "high": np.round(high, 6),
        }
    )
    return table.sort_values(
        ["importance", "feature"], ascending=[False, True], kind="stable"
    ).reset_index(drop=True)


def on_grid(data: pd.DataFrame, spacing_days: int) -> tuple[list[date], pd.DataFrame]:
    """Return the labelled snapshots, thinned, and the rows of these and of later ones on the grid.

    The grid is counted back from the last snapshot whose labels have matured, and goes on after it
    by its `usual_step`: a snapshot that stands a whole number of steps after another tells who
    bought in between.
    """
    labelled = data.loc[data["is_churned"].notna(), "snapshot_date"]
    days = thin(list(labelled.unique()), spacing_days)
    step = usual_step(days, spacing_days)
    later = {
        day
        for day in data["snapshot_date"].unique()
        if days and day > days[-1] and (day - days[-1]).days % step == 0
    }
    return days, data[data["snapshot_date"].isin({*days, *later})].reset_index(drop=True)


def known_by(
    training: pd.DataFrame, as_of: date, horizon_days: int, features: tuple[str, ...]
) -> pd.DataFrame:
    """Return what is known by `as_of`, checked, features as floats, sorted.

    Snapshots after it are dropped, and labels that mature after it are NaN.
    """
    missing = [c for c in (*KEYS, "matured_date") if c not in training.columns]
    if missing:
        raise ValueError(f"the training frame lacks {', '.join(missing)}")
    training = training.assign(
        **{name: _dates(training[name]) for name in ("snapshot_date", "matured_date")}
    )
    rows = training[training["snapshot_date"] <= as_of] if len(training) else training
    snapshots, matured = rows["snapshot_date"], rows["matured_date"]
    wrong = pd.to_datetime(matured) - pd.to_datetime(snapshots) != pd.Timedelta(days=horizon_days)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} rows carry a matured_date other than snapshot_date + "
            f"{horizon_days} days: labels of another horizon?"
        )
    labels = rows["is_churned"].astype("float64")
    if not labels.dropna().isin((0, 1)).all():
        raise ValueError("is_churned holds values other than 0 and 1")
    if rows.duplicated(["snapshot_date", "customer_key"]).any():
        raise ValueError("the training frame repeats (snapshot_date, customer_key)")
    rows = rows.assign(
        is_churned=labels.where(np.array([day <= as_of for day in matured], dtype=bool)),
        was_contacted=rows["was_contacted"].fillna(False),
    )
    rows = rows.sort_values(["snapshot_date", "customer_key"], kind="stable")
    optional = [name for name in (*OPTIONAL, *PERSON) if name in rows]
    data = rows[[*KEYS, "matured_date", *optional]].astype({"was_contacted": "bool"})
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
    refit = split_at(days, as_of, horizon_days, later_days=settings.later_days)
    # Test snapshots that span two disjoint horizons; where history is too short for that, closer.
    wide = -(-horizon_days // max(settings.n_origins - 1, 1))
    origins: list[Split] = []
    for spacing in sorted({settings.origin_spacing_days, max(settings.origin_spacing_days, wide)}):
        found = rolling_origins(
            days,
            as_of,
            horizon_days,
            settings.n_origins,
            spacing_days=spacing,
            later_days=settings.later_days,
        )
        if len(found) >= len(origins):
            origins = found
    usable, reasons = [], []
    for split in origins:
        reason = why_unusable(data, split, f"origin {split.test}", settings)
        if reason:
            reasons.append(reason)
        else:
            usable.append(split)
    if refit is None or not origins:
        raise TrainingSkipped(
            f"history is too short as of {as_of}: snapshots from {days[0]} to {days[-1]} leave no "
            f"origin whose test snapshot comes {horizon_days} days after a later snapshot, itself "
            f"after an earlier one; at least {horizon_days + settings.later_days}"
            " days of snapshots with matured labels are needed"
        )
    no_refit = why_unusable(data, refit, "the refit", settings)
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
    seen["is_churned"] = seen["is_churned"].astype("int64")
    with one_thread():
        model = clone(recipe).fit(seen, seen["is_churned"].to_numpy())
    return Fallback(
        as_of=as_of,
        horizon_days=horizon_days,
        features=tuple(features),
        model=model,
        last_matured_date=max(data["matured_date"], default=as_of),
        training_row_count=len(data),
        decision=Decision(True, reason, None),
        data_digest=_digest(data, features),
    )


def _dates(column: pd.Series) -> pd.Series:
    """Return a column of dates or timestamps as datetime.date objects."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column.dt.date.astype(object)
    return column.astype(object)


def why_unusable(
    data: pd.DataFrame, split: Split, name: str, settings: TrainingSettings
) -> str | None:
    """Return what a split lacks to be compared on, or None; data: snapshot_date, is_churned."""
    # part, its snapshots, the fewest rows, the fewest of each class
    parts: list[tuple[str, tuple[date, ...], int, int]] = [
        ("earlier", split.earlier, settings.min_rows, settings.min_class_rows),
        ("later", split.later, settings.min_class_rows, 1),
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


def _predict(model: Classifier, frame: pd.DataFrame, features: tuple[str, ...]) -> np.ndarray:
    with one_thread():
        return np.round(model.predict_proba(frame[list(features)])[:, 1], 6)


def _judge(
    predictions: pd.DataFrame,
    names: list[str],
    thresholds: Mapping[tuple[str, date], Thresholds],
    costs: Mapping[str, list[tuple[float, float]]],
    origins: list[Split],
    settings: TrainingSettings,
    seed: int,
) -> list[CandidateResult]:
    """Measure every candidate on the same rows and pass it through the gates."""
    differences = _differences(
        predictions,
        [(name, base) for name in names for base in (NO_SKILL, FALLBACK)],
        settings,
        seed,
    )
    by = slices(predictions)
    aucs, precisions = ranking_bootstrap(
        predictions, names, n_resamples=settings.n_resamples, seed=seed
    )
    y = predictions["is_churned"].to_numpy()
    each = np.column_stack(
        [log_losses(y, predictions[name].to_numpy()) for name in names]
        + [(predictions[name].to_numpy() - y) ** 2 for name in names]
    )
    means = customer_bootstrap(
        each, predictions["customer_key"], n_resamples=settings.n_resamples, seed=seed
    )
    losses, briers = means[:, : len(names)], means[:, len(names) :]
    results = []
    for i, name in enumerate(names):
        at = {split.test: thresholds[name, split.test].as_dict() for split in origins}
        metrics = _metrics(predictions, name, at)
        by_origin = {
            day: _metrics(predictions[predictions["snapshot_date"] == day], name, at) for day in at
        }

        def mean(metric: str, of: dict[date, dict[str, float]] = by_origin) -> float:
            return float(np.nanmean([values[metric] for values in of.values()]))

        metrics |= profit_by_value(
            y, predictions[name].to_numpy(), predictions[VALUE].to_numpy(), settings.profit
        )
        metrics["roc_auc_mean"], metrics["average_precision_mean"] = (
            mean("roc_auc"),
            mean("average_precision"),
        )
        metrics["calibration_absolute_bias_mean"] = float(
            np.mean([abs(values["calibration_bias"]) for values in by_origin.values()])
        )
        metrics["calibration_absolute_bias_worst"] = max(
            abs(values["calibration_bias"]) for values in by_origin.values()
        )
        results.append(
            CandidateResult(
                name=name,
                metrics=metrics,
                metrics_uncontacted=_metrics(predictions[~predictions["was_contacted"]], name, at),
                metrics_by_origin=by_origin,
                intervals={
                    "log_loss": interval(metrics["log_loss"], losses[:, i]),
                    "brier": interval(metrics["brier"], briers[:, i]),
                    "roc_auc_mean": interval(metrics["roc_auc_mean"], aucs[:, i]),
                    "average_precision_mean": interval(
                        metrics["average_precision_mean"], precisions[:, i]
                    ),
                    "log_loss_minus_recency_rule": differences[name, FALLBACK],
                },
                slices=slice_table(predictions, by, name),
                at_thresholds=at_thresholds(predictions, name, at),
                fit_seconds=float(np.mean([fit for fit, _ in costs[name]])),
                score_seconds_per_10k=float(np.mean([score for _, score in costs[name]])),
                gates=(
                    *_gates(name, predictions[name], differences),
                    *calibration_gates(metrics, by_origin),
                ),
            )
        )
    return results


def _metrics(
    rows: pd.DataFrame, name: str, at: Mapping[date, Mapping[str, float]]
) -> dict[str, float]:
    """Return the metrics of one column of predictions, each origin cut at its own thresholds."""
    if rows.empty:
        return {}
    metrics = evaluate(rows["is_churned"].to_numpy(), rows[name].to_numpy())
    for found in at_thresholds(rows, name, at).to_dict("records"):
        for metric in ("accuracy", "precision", "recall", "f1"):
            metrics[f"{metric}_at_{found['purpose']}"] = found[metric]
    return metrics


def at_thresholds(
    rows: pd.DataFrame, name: str, at: Mapping[date, Mapping[str, float]]
) -> pd.DataFrame:
    """Return what one column of predictions says at each purpose's threshold, and what came.

    rows: snapshot_date, is_churned and `name`. at: the thresholds by purpose of each snapshot, as
    chosen on what was known on it. One row per purpose: purpose, true_positive, false_positive,
    false_negative, true_negative (rows), accuracy, precision, recall, f1.
    """
    y, p = rows["is_churned"].to_numpy(), rows[name].to_numpy()
    found = []
    for purpose in next(iter(at.values()), {}):
        cut = rows["snapshot_date"].map({day: values[purpose] for day, values in at.items()})
        confusion = confusion_at(y, p, cut.to_numpy(dtype="float64"))
        found.append({"purpose": purpose, **confusion, **classified(confusion)})
    return pd.DataFrame(found)


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
    ranking: tuple[str, ...],
    passed: set[str],
    champion: Champion | None,
    displaced: str | None,
    as_of: date,
    settings: TrainingSettings,
    seed: int,
) -> tuple[str, Decision, dict[str, float] | None]:
    """Return the recipe to be registered, whether it becomes champion, and the champion's metrics.

    The best that passes the gates, if it is a new recipe, must be superior to the champion. If it
    is not, the champion's own recipe on the new labels follows it, where it is no worse.

    displaced: why the one that serves must not, where it is to be replaced as if it were not there.
    """
    best = next((name for name in ranking if name in passed), FALLBACK)
    if champion is None:
        if best in passed:
            reason = f"{best} has the lowest log loss of those that pass the gates"
        else:
            reason = f"no candidate passes the gates, so the {best} serves"
        held = _suspicion(predictions, best, settings, seed)
        if held is not None:
            reason = f"{best} is held: {held}"
            if displaced is not None:
                reason += f". {displaced}, and still serves until somebody signs and promotes"
            return best, Decision(False, reason, None, held=held), None
        return best, Decision(True, f"{_first(displaced)}: {reason}", None), None
    rows = predictions[predictions[CHAMPION].notna()]
    who = f"champion version {champion.version} ({champion.recipe})"
    if rows.empty:
        reason = (
            f"{who} stays: its recipe is no longer a candidate and its labels matured after every "
            "test snapshot, so no comparison would be out of time"
        )
        return best, Decision(False, reason, None), None
    metrics = evaluate(rows["is_churned"].to_numpy(), rows[CHAMPION].to_numpy())
    if best not in passed:
        return best, Decision(False, f"{who} stays: no candidate passes the gates", None), metrics
    boot = {"n_resamples": settings.n_resamples, "seed": seed}
    rows = rows.reset_index(drop=True)
    spent, found, told = None, None, ""
    chosen = best
    if best != champion.recipe:
        spent = alpha_of(settings.attempt)
        found, p = difference(rows, best, CHAMPION, **boot)
        told = (
            f"log loss of {best} minus the champion's on the same {len(rows)} rows: {found}, "
            f"p = {p:.2g} at an error of {spent:.2g} (challenger {settings.attempt} of the quarter)"
        )
        if p >= spent and champion.recipe in passed:
            chosen = champion.recipe
        elif p >= spent:
            reason = f"{who} stays: not beaten beyond doubt. {told}"
            return best, Decision(False, reason, found, spent), metrics
    if chosen == champion.recipe:
        if champion.last_matured_date >= as_of:
            reason = f"{who} stays: nothing has matured since it was fitted. {told}".strip()
            return chosen, Decision(False, reason, found, spent), metrics
        if found is None:
            found, _ = difference(rows, chosen, CHAMPION, **boot)
        lost = auc_difference(rows, chosen, CHAMPION, **boot)
        says = f"ROC AUC of the refitted {chosen} minus the champion's: {lost}"
        if lost.low <= -AUC_MARGIN:
            reason = f"{who} stays: its recipe on newer labels may be worse. {says}"
            return chosen, Decision(False, reason, found, spent), metrics
        told = f"{says}. {told}".strip()
    harmed = slice_gate(rows, slices(rows), chosen, CHAMPION, **boot)
    if not harmed.passed:
        reason = f"{who} stays: {harmed.detail}. {told}"
        return chosen, Decision(False, reason, found, spent), metrics
    held = _suspicion(predictions, chosen, settings, seed)
    if held is not None:
        return chosen, Decision(False, f"{chosen} is held: {held}", found, spent, held), metrics
    verb = "refreshes" if chosen == champion.recipe else "replaces"
    return chosen, Decision(True, f"{chosen} {verb} {who}. {told}", found, spent), metrics


def _first(displaced: str | None) -> str:
    """Return how the reason of a version begins that follows nobody it could be compared with."""
    return "first champion" if displaced is None else f"{displaced}, and is replaced"


def _suspicion(
    predictions: pd.DataFrame, name: str, settings: TrainingSettings, seed: int
) -> str | None:
    """Return why a person must look for a leak, beside the strongest reference there is."""
    reference = next((r for r in LEAK_REFERENCES if r in predictions and r != name), None)
    gain = None
    if reference is not None:
        gain = auc_difference(predictions, name, reference, n_resamples=50, seed=seed).estimate
    metrics = evaluate(predictions["is_churned"].to_numpy(), predictions[name].to_numpy())
    return leak_suspicion(metrics, gain, reference or "")


def _digest(data: pd.DataFrame, features: tuple[str, ...]) -> str:
    """Return a SHA-256 over the matured, thinned, sorted rows: the identity of the data set."""
    digest = hashlib.sha256()
    digest.update("\x1f".join(features).encode())
    for column in KEYS:
        digest.update("\x1f".join(map(str, data[column])).encode())
    digest.update(np.ascontiguousarray(data[list(features)].to_numpy()).tobytes())
    return digest.hexdigest()

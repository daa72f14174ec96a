"""Fit recipes on what was known on a day, and calibrate them without the customers concerned.

Belongs here: which rows teach a recipe, cross-fitting, calibration, the averages. Does not belong
here: which days are compared and who is chosen (ml.training), which settings (ml.search).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

from ml.candidates import AVERAGES
from ml.estimators import (
    CalibratedOnLaterSnapshots,
    LogOddsAverage,
    cross_fitted,
    pool_weights,
    pooled,
)
from ml.metrics import Thresholds, choose_thresholds
from ml.settings import TrainingSettings
from ml.survival import TARGET, DiscreteTimeSurvival, purchase_periods
from ml.threads import one_thread
from ml.validation import Split, sample_rows, uniform_hash

_FIT_WORKERS = 2
_FOLDS = 2


@dataclass(frozen=True)
class Fitted:
    """One recipe fitted and calibrated on what was known at a split."""

    model: CalibratedOnLaterSnapshots
    thresholds: Thresholds
    row_count: int
    seconds: float
    p_later: np.ndarray  # calibrated, for the later rows, by fits without their customers


def fit_candidates(
    recipes: Mapping[str, Any],
    panel: pd.DataFrame,
    split: Split,
    settings: TrainingSettings,
    features: tuple[str, ...],
    seed: int,
) -> dict[str, Fitted]:
    """Fit each recipe on all that was known on the day of the split, and calibrate it.

    panel: the rows of `on_grid`. Calibration and thresholds come from the matured snapshots of the
    last year, predicted by fits without the customers they are for: two folds of customers.
    Averages of `AVERAGES` follow where their parts are there.

    Two recipes at a time, one thread each: results do not depend on the cores of the host, since
    sums of floats depend on how they are split and an iterative fit amplifies the last digit.
    """
    labelled = panel[panel["snapshot_date"].isin(split.matured)]
    since = max(split.matured) - timedelta(days=settings.calibration_window_days)
    later = labelled[labelled["snapshot_date"] > since]
    later = sample_rows(later, settings.max_rows // 4, f"calibrate|{seed}")
    X_later, y_later = later[list(features)], later["is_churned"].to_numpy("int64")
    fold_later = customer_fold(later, seed)
    rows_of: dict[tuple[int, ...] | None, tuple[pd.DataFrame, np.ndarray, np.ndarray]] = {}
    for ends in {known_periods(recipe) for recipe in recipes.values()}:
        rows, target = teaching_rows(panel, split, ends, settings.max_rows, seed)
        rows_of[ends] = rows[list(features)], target, customer_fold(rows, seed)

    def fitted(model: CalibratedOnLaterSnapshots, raw: np.ndarray, rows: int, at: float) -> Fitted:
        p_later = np.round(model.rescale(raw), 6)
        thresholds = choose_thresholds(
            y_later, p_later, capacity_share=settings.capacity_share, profit=settings.profit
        )
        return Fitted(model, thresholds, rows, time.thread_time() - at, p_later)

    def fit(name: str) -> Fitted:
        started = time.thread_time()
        X, y, fold = rows_of[known_periods(recipes[name])]
        with one_thread():  # the limit on OpenMP holds per thread
            raw = cross_fitted(recipes[name], X, y, fold, X_later, fold_later)
            model = CalibratedOnLaterSnapshots(recipes[name]).fit(X, y, raw, y_later)
        return fitted(model, raw, len(X), started)

    # both are process-wide, so they are set once around the threads
    with one_thread(), warnings.catch_warnings():
        # the number of epochs of the network is part of its recipe, not a failure to converge
        warnings.simplefilter("ignore", ConvergenceWarning)
        with ThreadPoolExecutor(_FIT_WORKERS) as pool:
            found = dict(zip(recipes, pool.map(fit, recipes), strict=True))
    for name, parts in AVERAGES.items():
        if set(parts) <= set(found):
            started = time.thread_time()
            seen = np.column_stack([found[part].p_later for part in parts])
            weights = pool_weights(seen, y_later)
            average = LogOddsAverage([(part, recipes[part]) for part in parts], weights)
            average.of([found[part].model for part in parts])
            raw = pooled(seen, weights)
            model = CalibratedOnLaterSnapshots(average).calibrate(average, raw, y_later)
            found[name] = fitted(model, raw, max(found[p].row_count for p in parts), started)
    return found


def teaching_rows(
    panel: pd.DataFrame,
    split: Split,
    ends: tuple[int, ...] | None,
    max_rows: int,
    seed: int,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the rows that teach a recipe on the day of the split, and what they teach.

    ends: the periods of a recipe that learns when customers bought, whose target is `TARGET` on
    all rows of which a period had closed; None: labels, on the snapshots that had matured. Labels
    also where of fewer than half as many rows it is known when, so unevenly do snapshots stand.
    """
    labelled = panel[panel["snapshot_date"].isin(split.matured)]
    known = panel[panel["snapshot_date"] <= split.test]
    periods = None if ends is None else purchase_periods(known, split.test, ends)
    if periods is None or (periods["known_periods"] > 0).sum() < len(labelled) / 2:
        rows = sample_rows(labelled, max_rows, f"train|{seed}")
        return rows, rows["is_churned"].to_numpy("int64")
    known = known.assign(**{name: periods[name] for name in TARGET.names or ()})
    rows = sample_rows(known[periods["known_periods"] > 0], max_rows, f"train|{seed}")
    target = np.empty(len(rows), dtype=TARGET)
    for name in TARGET.names or ():
        target[name] = rows[name]
    return rows, target


def known_periods(recipe: Any) -> tuple[int, ...] | None:
    """Return the periods of a recipe that learns when customers bought; None: from labels."""
    model = recipe[-1] if hasattr(recipe, "steps") else recipe
    return tuple(model.period_ends) if isinstance(model, DiscreteTimeSurvival) else None


def sees_a_year(recipe: Any, X: pd.DataFrame, target: np.ndarray) -> bool | None:
    """Return whether a fit on these rows would be told the time of the year; None: it never is."""
    model = recipe[-1] if hasattr(recipe, "steps") else recipe
    if not isinstance(model, DiscreteTimeSurvival) or model.day_of_year_column is None:
        return None
    before = recipe[:-1].fit_transform(X) if hasattr(recipe, "steps") else X.to_numpy()
    return model.sees_a_year(before, target)


def customer_fold(rows: pd.DataFrame, seed: int) -> np.ndarray:
    """Return the fold of each row, by its customer: all snapshots of one are in one."""
    return (uniform_hash(rows["customer_key"], f"fold|{seed}") * _FOLDS).astype("int64")

"""A small world of customers for the tests of model selection: features, labels, one true risk."""

from __future__ import annotations

import hashlib
import warnings
from datetime import date, timedelta

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from ml.candidates import candidates
from ml.features import FEATURES, NULLABLE
from ml.settings import TrainingSettings

HORIZON = 28
FIRST = date(2025, 1, 4)
SETTINGS = TrainingSettings(min_rows=200, min_class_rows=20, n_resamples=300)


def training_frame(
    customers: int = 300, snapshots: int = 14, seed: int = 1, signal: float = 2.0
) -> pd.DataFrame:
    """Fortnightly snapshots; two features carry the risk: silence, and days since the last event.

    signal 0 makes the labels coin flips.
    """
    random = np.random.default_rng(seed)
    keys = np.array([hashlib.md5(f"{seed}|{i}".encode()).hexdigest() for i in range(customers)])
    lean = random.normal(size=customers)
    blocks = []
    for s in range(snapshots):
        day = FIRST + timedelta(days=14 * s)
        here = np.flatnonzero(random.random(customers) < 0.8)
        n = len(here)
        silent, unseen = lean[here] + 0.5 * random.normal(size=n), random.normal(size=n)
        columns: dict[str, np.ndarray] = {}
        for name in FEATURES:
            if name.startswith(("is_", "has_")):
                columns[name] = random.random(n) < 0.3
            else:
                columns[name] = np.round(np.exp(1 + 0.6 * random.normal(size=n)))
            if name in NULLABLE:
                columns[name] = np.where(random.random(n) < 0.2, np.nan, columns[name])
        columns["days_since_last_order"] = np.clip(np.round(np.exp(3 + 0.8 * silent)), 0, 179)
        columns["days_since_first_order"] += 180.0  # nobody is silent for longer than known
        columns["days_since_last_event"] = np.round(np.exp(2 + unseen))
        columns["review_count_365d"] = np.zeros(n, dtype="int64")  # a shop without reviews
        for name in ("rating_mean_365d", "last_rating"):
            columns[name] = np.full(n, np.nan)
        risk = 1 / (1 + np.exp(-signal * (silent + unseen)))
        block = pd.DataFrame(columns)
        block["snapshot_date"] = day
        block["matured_date"] = day + timedelta(days=HORIZON)
        block["customer_key"] = keys[here]
        block["is_churned"] = (random.random(n) < risk).astype("int64")
        block["was_contacted"] = random.random(n) < 0.2
        blocks.append(block)
    frame = pd.concat(blocks, ignore_index=True)
    frame[["snapshot_date", "matured_date"]] = frame[["snapshot_date", "matured_date"]].astype(
        object
    )
    return frame


def small_recipes(seed: int = 1) -> dict[str, Pipeline]:
    """The real candidates with fewer trees and epochs."""
    recipes = candidates(seed, horizon_days=HORIZON)
    recipes["random_forest"].set_params(model__n_estimators=10)
    recipes["survival"].set_params(
        model__estimator__max_iter=30, model__estimator__min_samples_leaf=20
    )
    recipes["hist_gradient_boosting"].set_params(model__max_iter=30, model__min_samples_leaf=20)
    recipes["mlp"].set_params(model__max_iter=3)
    return recipes


def fitted(recipe: str, frame: pd.DataFrame) -> Pipeline:
    """One of the small recipes fitted on all rows, by one thread as in a training."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few epochs, few bootstrap rows
        return small_recipes()[recipe].fit(frame, frame["is_churned"])


def quick_recipes(seed: int = 1) -> dict[str, Pipeline]:
    """The baseline and one model: enough where the procedure is tested, not the candidates."""
    return {name: small_recipes(seed)[name] for name in ("recency_rule", "logistic_all")}

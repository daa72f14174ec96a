"""Boosted trees looked up (ml/boosting.py) against scikit-learn's walk down the same trees.

    python benchmarks/boosting.py [CUSTOMERS]

Score and explain customers with one hazard model of the size that serves: 85 columns, 4 periods,
150 trees of 16 leaves. Each pair runs in turns in one process on one thread; CPU seconds, best of
five, and their ratio. The answers are compared first: scores to the last digit, reasons to 1e-12.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PERIODS = (14, 28, 56, 90)
RUNS = 5


def hazard_data(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return features as a mart has them: half of them counts, a tenth missing."""
    X = rng.normal(size=(rows, columns))
    half = columns // 2
    X[:, :half] = np.floor(np.abs(X[:, :half]) * 3)
    X[rng.random(X.shape) < 0.1] = np.nan
    X[:, -1] = rng.integers(1, 366, rows)
    return X


def in_turns(
    name: str, slow: Callable[[], Any], fast: Callable[[], Any], tolerance: float = 0.0
) -> None:
    """Compare two ways to one answer, and print what each costs."""
    np.testing.assert_allclose(slow(), fast(), rtol=0, atol=tolerance)
    best = [float("inf")] * 2
    for _ in range(RUNS):
        for arm, make in enumerate((slow, fast)):
            started = time.process_time()
            make()
            best[arm] = min(best[arm], time.process_time() - started)
    print(f"{name:34} {best[0]:8.3f} s  {best[1]:8.3f} s  {best[0] / best[1]:6.1f} x", flush=True)


def main(customers: int = 10_000) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    from ml.ablation import ablated, by_copies
    from ml.boosting import BoostingClassifier
    from ml.features import INPUTS
    from ml.reasons import columns_of
    from ml.survival import TARGET, DiscreteTimeSurvival

    rng = np.random.default_rng(7)
    X = hazard_data(rng, 20_000, len(INPUTS))
    told = np.zeros(len(X), dtype=TARGET)
    risk = np.nan_to_num(X[:, :20]).sum(axis=1) + rng.normal(size=len(X)) * 8
    told["purchase_period"] = np.digitize(-risk, np.quantile(-risk, [0.2, 0.35, 0.5]))
    told["known_periods"] = np.where(told["purchase_period"] > 0, told["purchase_period"], 4)
    settings = {
        "max_leaf_nodes": 16, "learning_rate": 0.05, "max_iter": 150, "min_samples_leaf": 200,
        "l2_regularization": 10.0, "max_features": 0.3, "early_stopping": False, "random_state": 7,
    }  # fmt: skip
    with threadpool_limits(1):
        walking, looking = (
            DiscreteTimeSurvival(kind(**settings), PERIODS, X.shape[1] - 1).fit(X, told)
            for kind in (HistGradientBoostingClassifier, BoostingClassifier)
        )
        groups = columns_of(INPUTS)
        X = hazard_data(rng, customers, len(INPUTS))
        typical = np.nanmedian(X, axis=0)
        print(f"{'':34} {'walked':>10}  {'looked up':>10}")
        in_turns(
            f"one booster, {customers:,} rows",
            lambda: walking.hazard_.predict_proba(walking._columns(X, np.zeros(len(X), int))),
            lambda: looking.hazard_.predict_proba(looking._columns(X, np.zeros(len(X), int))),
        )
        in_turns(
            f"scores of {customers:,} customers",
            lambda: walking.predict_proba(X),
            lambda: looking.predict_proba(X),
        )
        few = X[: customers // 10]
        parts = [few[start : start + 500] for start in range(0, len(few), 500)]
        in_turns(
            f"reasons of {len(few):,} customers",
            lambda: np.hstack(
                [by_copies(walking.predict_proba, part, groups, typical) for part in parts]
            ),
            lambda: np.hstack([ablated(looking, part, groups, typical) for part in parts]),
            tolerance=1e-12,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Hillstrom's e-mail test from end to end, and what planning and posteriors cost.

    python benchmarks/uplift.py FOLDER          FOLDER holds hillstrom.parquet
    python benchmarks/uplift.py FOLDER --resamples 2000

What belongs here: printing what `ml.uplift`, `ml.targeting` and `ml.bandit` say and how long they
take, in CPU seconds. What does not: thresholds, which are tests (tests/ml/uplift).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "ml" / "uplift")]

import hillstrom  # noqa: E402

from ml.bandit import BetaPosterior, best_probabilities  # noqa: E402
from ml.targeting import Constraints, plan_contacts  # noqa: E402
from ml.uplift.comparison import compare_rules  # noqa: E402
from ml.uplift.learners import DRLearner, cross_fitted_scores  # noqa: E402
from ml.uplift.training import learn, scaled  # noqa: E402

T = TypeVar("T")
MARGIN, CONTACT = 0.40, 0.10  # assumed: share of spend, and the cost of one mail


def timed(what: str, make: Callable[[], T]) -> T:
    started = time.process_time()
    made = make()
    print(f"{what}: {time.process_time() - started:.2f} CPU s\n")
    return made


def rankings(folder: Path, arm: str, resamples: int) -> None:
    trial = hillstrom.read(folder, arm)
    learned = timed(
        f"{arm}, visits: four learners, five folds, {resamples} resamples",
        lambda: learn(
            trial.X,
            trial.outcome(),
            trial.treatment,
            hillstrom.PROPENSITY,
            trial.units,
            {"churn_risk": trial.churn_risk},
            profit=hillstrom.profit(trial),
            n_resamples=resamples,
        ),
    )
    print(learned.comparison.table(), "\n")
    print(learned.money.table(), "\n")
    print(learned.decision.reason, "\n")


def profits(folder: Path, arm: str, resamples: int) -> pd.DataFrame:
    """Compare rules by money; return the expected profit of this mail to its own customers."""
    trial = hillstrom.read(folder, arm)
    margin = MARGIN * trial.outcome("spend")
    learner = DRLearner(Ridge(alpha=100.0), Ridge(alpha=100.0), scaled())
    effect = cross_fitted_scores(
        learner, trial.X, margin, trial.treatment, hillstrom.PROPENSITY, trial.units
    )
    expected = effect - CONTACT
    big_spenders = trial.frame["history"].to_numpy()
    size = int((expected > 0).sum())
    compared = compare_rules(
        margin - CONTACT * trial.treatment,
        trial.treatment,
        hillstrom.PROPENSITY,
        trial.units,
        {"dr_learner": expected > 0},
        {
            "as many, by past spend": big_spenders >= np.sort(big_spenders)[-size],
            "as many, by churn risk": trial.churn_risk >= np.sort(trial.churn_risk)[-size],
        },
        n_resamples=resamples,
    )
    print(f"{arm}, money\n\n{compared.table()}\n\n{compared.decision.reason}\n")
    return pd.DataFrame(
        {
            "customer_key": trial.units,
            "offer": arm,
            "profit_amount": expected,
            "cost_amount": CONTACT,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resamples", type=int, default=2000)
    given = parser.parse_args()
    pairs = []
    for arm in (hillstrom.WOMEN, hillstrom.MEN):
        rankings(given.folder, arm, given.resamples)
        pairs.append(profits(given.folder, arm, given.resamples))

    # the controls of both comparisons could get either mail
    both = pd.concat(pairs, ignore_index=True)
    both["cost_amount"] += np.where(both["offer"] == hillstrom.MEN, 0.05, 0.0)
    both.loc[both["offer"] == hillstrom.MEN, "profit_amount"] -= 0.05
    budget = 0.03 * both["customer_key"].nunique()
    plan = timed(
        f"plan: {both['customer_key'].nunique():,} customers, {len(both):,} pairs",
        lambda: plan_contacts(both, Constraints(budget, None, 0.1), "benchmark"),
    )
    print(plan.table(), f"\n\nprofit {plan.profit:,.2f}, bound {plan.upper_bound:,.2f}\n")

    random = np.random.default_rng(0)
    n = 100_000
    made = pd.DataFrame(
        {
            "customer_key": np.repeat([f"{i:032x}" for i in range(n)], 3),
            "offer": np.tile(["a", "b", "c"], n),
            "profit_amount": random.normal(0.5, 2, 3 * n),
            "cost_amount": random.gamma(2, 1, 3 * n),
        }
    )
    large = timed(
        "plan: 100,000 customers, 3 offers, budget and capacity",
        lambda: plan_contacts(made, Constraints(0.3 * n, n // 5, 0.05), "benchmark"),
    )
    print(f"below its bound by {1 - large.profit / large.upper_bound:.1e}\n")
    arms = [BetaPosterior(10 + i, 90) for i in range(4)]
    timed("100 sets of four arms", lambda: [best_probabilities(arms) for _ in range(100)])


if __name__ == "__main__":
    main()

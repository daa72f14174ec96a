"""The candidate recipes: one scikit-learn pipeline each, preprocessing inside.

Belongs here: what is tried, and with which hyper-parameters. Does not belong here: how candidates
are fitted, compared and chosen (ml.training).

None of them splits rows by itself: `early_stopping` is off everywhere, since scikit-learn would
hold out random rows, and the same customer stands in many snapshots. Regularisation is by size.
Each is fitted and applied by one thread (ml.training runs two recipes side by side instead), so the
number of cores changes no digit; two OpenMP threads of the boosting on two busy cores were measured
at 21.9 s for 60,000 rows, one at 2.8 s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from ml.boosting import BoostingClassifier
from ml.buy_till_you_die import HISTORY_COLUMNS, BuyTillYouDieClassifier
from ml.estimators import RecencyRule, SelectFeatures, SignedLog
from ml.features import CALENDAR, INPUTS, RFM_FEATURES
from ml.survival import DiscreteTimeSurvival, period_ends

FALLBACK = "recency_rule"
SURVIVAL = "survival"
BUY_TILL_YOU_DIE = "buy_till_you_die"


#: Candidates that are the average of others; they cost no fit of their own.
AVERAGES: Mapping[str, tuple[str, ...]] = {"average": (SURVIVAL, BUY_TILL_YOU_DIE)}

#: What is searched by time (ml.search), the declared first.
SETTINGS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    SURVIVAL: (
        {"model__estimator__max_leaf_nodes": 16, "model__estimator__max_iter": 150},
        {"model__estimator__max_leaf_nodes": 8, "model__estimator__max_iter": 100},
    ),
    "hist_gradient_boosting": (
        {"model__max_leaf_nodes": 8, "model__min_samples_leaf": 100},
        {"model__max_leaf_nodes": 8, "model__min_samples_leaf": 400},
        {"model__max_leaf_nodes": 16, "model__min_samples_leaf": 100},
    ),
}


def candidates(
    seed: int,
    features: Sequence[str] = INPUTS,
    *,
    horizon_days: int = 90,
    step_days: int = 14,
) -> dict[str, Pipeline]:
    """Return the unfitted candidates by name, simplest first (ties are won by the earlier one).

    step_days: between the snapshots of the training, for the periods of the survival model.
    """
    everything = tuple(name for name in features if name not in CALENDAR)
    dated = (*everything, *CALENDAR)
    return {
        FALLBACK: Pipeline(
            [("features", SelectFeatures(("days_since_last_order",))), ("model", RecencyRule())]
        ),
        "logistic_rfm": _scaled(RFM_FEATURES, LogisticRegression(max_iter=1000)),
        # about 70 correlated features and their indicators: regularised hard
        "logistic_all": _scaled(everything, LogisticRegression(C=0.005, max_iter=1000)),
        "random_forest": Pipeline(
            [
                ("features", SelectFeatures(everything)),
                ("impute", _imputer()),
                (
                    "model",
                    # 40 rows a leaf, or rows of one customer in neighbouring snapshots fill it. 150
                    # trees of 20 rows gain 0.0008 in log loss and take 2.7 times as long to score,
                    # of which the reasons of a day are made nine times.
                    RandomForestClassifier(
                        n_estimators=60,
                        min_samples_leaf=40,
                        max_features="sqrt",
                        max_samples=0.2,
                        n_jobs=1,
                        random_state=seed,
                    ),
                ),
            ]
        ),
        "hist_gradient_boosting": Pipeline(
            [
                ("features", SelectFeatures(everything)),
                (
                    "model",
                    BoostingClassifier(
                        max_leaf_nodes=8,
                        learning_rate=0.05,
                        max_iter=100,  # 200 cost twice as much and won no log loss
                        min_samples_leaf=100,
                        l2_regularization=10.0,
                        max_features=0.3,
                        early_stopping=False,
                        random_state=seed,
                    ),
                ),
            ]
        ),
        BUY_TILL_YOU_DIE: Pipeline(
            [
                ("features", SelectFeatures(HISTORY_COLUMNS)),
                ("model", BuyTillYouDieClassifier(horizon_days, "mbg")),
            ]
        ),
        # Found by the mean over seven test days of Online Retail II (docs/benchmarks-models.md),
        # log loss: 8 leaves .5491, 16 leaves .5477, 31 leaves .5482; rate .03 with 6 leaves .5536;
        # without the day of the year .5710, with its sine and cosine only .5538.
        SURVIVAL: Pipeline(
            [
                ("features", SelectFeatures(dated)),
                (
                    "model",
                    DiscreteTimeSurvival(
                        BoostingClassifier(
                            max_leaf_nodes=16,
                            learning_rate=0.05,
                            max_iter=150,
                            min_samples_leaf=200,
                            l2_regularization=10.0,
                            max_features=0.3,
                            early_stopping=False,
                            random_state=seed,
                        ),
                        period_ends(horizon_days, step_days),
                        day_of_year_column=len(dated) - 1,
                    ),
                ),
            ]
        ),
        "mlp": _scaled(
            everything,
            MLPClassifier(
                hidden_layer_sizes=(32, 16),
                alpha=1.0,
                batch_size=256,
                learning_rate_init=1e-3,
                max_iter=12,
                early_stopping=False,
                random_state=seed,
            ),
        ),
    }


def fallback_prior(horizon_days: int) -> pd.DataFrame:
    """Return twelve imagined customers, what the recency rule believes before it sees a label.

    Columns days_since_last_order and is_churned: of four customers each who have been silent for an
    eighth, half and twice the horizon, one, two and three churn. Fitted to them alone the rule has
    the slope 0.59 and says 10 %, 44 %, 60 % after 0, 30 and 90 days of silence at a horizon of 90;
    fitted to 176,000 labels of the simulated shop 0.58 and 12 %, 50 %, 65 %, to 115,000 of Online
    Retail II 0.48 and 15 %, 47 %, 60 %. A few hundred labels outweigh them.
    """
    rows = [
        (share * horizon_days, int(i < churned))
        for share, churned in ((1 / 8, 1), (1 / 2, 2), (2, 3))
        for i in range(4)
    ]
    return pd.DataFrame(rows, columns=["days_since_last_order", "is_churned"])


def _imputer() -> SimpleImputer:
    return SimpleImputer(strategy="median", add_indicator=True)


def _scaled(features: Sequence[str], model: ClassifierMixin) -> Pipeline:
    return Pipeline(
        [
            ("features", SelectFeatures(tuple(features))),
            ("log", SignedLog()),
            ("impute", _imputer()),
            ("scale", StandardScaler()),
            ("model", model),
        ]
    )

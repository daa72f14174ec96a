"""One arm of a finished campaign as something to learn from, and scores from what was learnt.

What belongs here: joining assigned customers with what was known of them when they were assigned,
and ranking customers of a day. What does not: learners and comparison, where tables lie.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from ml.estimators import SelectFeatures
from ml.features import FEATURES, feature_matrix
from ml.uplift.curves import Array
from ml.uplift.learners import UpliftLearner
from ml.uplift.training import Learned, learn, scaled, too_small


@dataclass(frozen=True)
class Trial:
    """The customers of one arm and of the control who had features when they were assigned.

    left_out: customers without (prospects, dormant ones), in either arm.
    """

    X: pd.DataFrame
    outcome: Array
    profit: Array
    treatment: Array
    propensity: Array
    units: pd.Series
    churn_risk: Array
    left_out: int


def make_trial(
    units: pd.DataFrame, features: pd.DataFrame, scores: pd.DataFrame, arm: str, control: str
) -> Trial:
    """Join what became of customers with what was known of them at assignment.

    units: customer_key, assigned_date, arm, weights_json (the ledger's), outcome, profit. features
    and scores (churn_probability) are published partitions of the days of assignment, which a model
    saw nothing beyond. The propensity is that of the arm given one of the two. A customer without a
    score gets the mean risk of the others; where nobody has one all are alike.

    Raises:
        ValueError: a customer stands twice.
    """
    own = units[units["arm"].isin([arm, control])].rename(columns={"assigned_date": "_day"})
    known = features.rename(columns={"snapshot_date": "_day"})
    risk = scores[["snapshot_date", "customer_key", "churn_probability"]]
    joined = (
        own.merge(known, on=["_day", "customer_key"], how="inner", validate="one_to_one")
        .merge(
            risk.rename(columns={"snapshot_date": "_day"}), on=["_day", "customer_key"], how="left"
        )
        .sort_values("customer_key", ignore_index=True)
    )
    weights = {text: json.loads(text) for text in set(joined["weights_json"])}
    propensity = [
        weights[text][arm] / (weights[text][arm] + weights[text][control])
        for text in joined["weights_json"]
    ]
    probability = joined["churn_probability"].astype("float64")
    return Trial(
        feature_matrix(joined, FEATURES),
        joined["outcome"].to_numpy(dtype="float64"),
        joined["profit"].to_numpy(dtype="float64"),
        np.asarray(joined["arm"] == arm, dtype="float64"),
        np.array(propensity, dtype="float64"),
        joined["customer_key"],
        np.asarray(probability.fillna(probability.mean()).fillna(0.0), dtype="float64"),
        len(own) - len(joined),
    )


def learn_from(trial: Trial, *, seed: int = 0) -> Learned | str:
    """Learn from a trial, or return in words why it is too small to.

    Churn risk is a baseline where it ranks at all: without a forecast of the day there is none.
    """
    if reason := too_small(trial.outcome, trial.treatment):
        return reason
    prepare = Pipeline([("features", SelectFeatures(FEATURES)), *scaled().steps])
    return learn(
        trial.X,
        trial.outcome,
        trial.treatment,
        trial.propensity,
        trial.units,
        {"churn_risk": trial.churn_risk} if np.ptp(trial.churn_risk) > 0 else {},
        profit=trial.profit,
        prepare=prepare,
        seed=seed,
    )


def ranked_scores(
    model: UpliftLearner, profit_model: UpliftLearner, features: pd.DataFrame
) -> pd.DataFrame:
    """Expected effect on each customer: customer_key, expected_effect, uplift_rank (1 is largest).

    Rounded to 6 digits before they are ranked; ties by customer_key. Beside them
    expected_profit_amount: incremental profit, costs of the arm taken off, to 4 digits.
    """
    X = feature_matrix(features, FEATURES)
    frame = pd.DataFrame(
        {
            "customer_key": features["customer_key"],
            "expected_effect": np.round(model.predict(X), 6) + 0.0,  # no minus zero
            "expected_profit_amount": np.round(profit_model.predict(X), 4) + 0.0,
        }
    )
    frame = frame.sort_values(
        ["expected_effect", "customer_key"], ascending=[False, True], ignore_index=True
    )
    return frame.assign(uplift_rank=np.arange(1, len(frame) + 1))

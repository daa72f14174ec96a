"""Scores are ranked totally, banded by fixed rules and the same for the same input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from training_world import fitted, training_frame

from ml.estimators import CalibratedOnLaterSnapshots, LogOddsAverage
from ml.features import FeatureError
from ml.scoring import SCORE_COLUMNS, score


class _Fixed:
    """A model that reads its answer from one feature."""

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        p = X["days_since_last_order"].to_numpy(dtype=float)
        return np.column_stack([1 - p, p])


def _frame(p: list[float]) -> pd.DataFrame:
    keys = [f"{len(p) - i:032x}" for i in range(len(p))]  # descending: must be sorted
    return pd.DataFrame({"customer_key": keys, "days_since_last_order": p})


def test_ranks_ties_by_customer_and_rounds_first() -> None:
    scores = score(_Fixed(), _frame([0.2, 0.50000001, 0.50000002, 0.9, 1 / 3, 2 / 3]))
    assert tuple(scores.columns) == SCORE_COLUMNS
    assert scores["customer_key"].is_monotonic_increasing
    assert scores["churn_probability"].tolist() == [0.666667, 0.333333, 0.9, 0.5, 0.5, 0.2]
    assert scores["churn_rank"].tolist() == [2, 5, 1, 3, 4, 6]
    # cut after rounding: 0.666667 is above two thirds, 0.333333 below one third
    assert scores["risk_band"].tolist() == ["high", "low", "high", "medium", "medium", "low"]


def test_deciles_hold_a_tenth_each() -> None:
    scores = score(_Fixed(), _frame(np.linspace(0, 1, 237).tolist()))
    sizes = scores["churn_decile"].value_counts().sort_index()
    assert sizes.index.tolist() == list(range(1, 11))
    assert set(sizes) == {23, 24}
    riskiest = scores.loc[scores["churn_decile"] == 1, "churn_probability"]
    assert riskiest.min() > scores.loc[scores["churn_decile"] == 2, "churn_probability"].max()


def test_an_empty_day_gives_an_empty_frame_with_types() -> None:
    scores = score(_Fixed(), _frame([]))
    assert len(scores) == 0
    assert tuple(scores.columns) == SCORE_COLUMNS
    assert scores["churn_rank"].dtype == scores["churn_decile"].dtype == "int64"
    assert score(_Fixed(), _frame([0.4]))["churn_decile"].tolist() == [1]


def test_the_same_customers_in_any_order_and_batch_score_the_same() -> None:
    frame = training_frame(customers=400, snapshots=3)
    pipeline = fitted("hist_gradient_boosting", frame)
    day = frame[frame["snapshot_date"] == frame["snapshot_date"].max()]
    scores = score(pipeline, day)
    pd.testing.assert_frame_equal(scores, score(pipeline, day.sample(frac=1, random_state=1)))
    half = score(pipeline, day.head(100)).set_index("customer_key")["churn_probability"]
    whole = scores.set_index("customer_key")["churn_probability"]
    assert half.equals(whole.loc[half.index])


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 customers no probability"):
        score(_Fixed(), _frame([0.5, bad]))


def test_a_customer_stands_once() -> None:
    frame = _frame([0.1, 0.2])
    with pytest.raises(FeatureError, match="repeated"):
        score(_Fixed(), pd.concat([frame, frame]))
    with pytest.raises(FeatureError, match="customer_key: is missing"):
        score(_Fixed(), frame.drop(columns="customer_key"))


def test_the_days_to_the_next_order_agree_with_the_published_probability() -> None:
    frame = training_frame(customers=300, snapshots=3)
    day = frame[frame["snapshot_date"] == frame["snapshot_date"].max()]
    pipeline = fitted("survival", frame)
    plain = score(pipeline, day).set_index("customer_key")
    assert plain["expected_days_to_order"].between(0, 3_650).all()
    rank = plain[["churn_probability", "expected_days_to_order"]].corr("spearman").iloc[0, 1]
    assert rank > 0.95
    # calibration says that all are likelier to leave: then all are expected later
    calibrated = CalibratedOnLaterSnapshots(pipeline)
    calibrated.estimator_, calibrated.intercept_, calibrated.slope_ = pipeline, 1.0, 1.0
    later = score(calibrated, day).set_index("customer_key")
    assert (later["churn_probability"] > plain["churn_probability"]).all()
    assert (later["expected_days_to_order"] > plain["expected_days_to_order"]).all()
    average = LogOddsAverage(weights=[0.5, 0.5]).of([fitted("logistic_rfm", frame), calibrated])
    assert score(average, day)["expected_days_to_order"].notna().all()  # by the part that knows
    unknown = score(fitted("logistic_rfm", frame), day)
    assert unknown["expected_days_to_order"].isna().all()
    assert unknown["expected_days_to_order"].dtype == "float64"

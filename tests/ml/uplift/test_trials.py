"""From the ledger and what was known at assignment to a trial; from a model to ranked customers."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from ml.features import FEATURES, NULLABLE
from ml.uplift.trials import learn_from, make_trial, ranked_scores

D1, D2 = date(2025, 3, 1), date(2025, 3, 2)


def features(keys: list[str], day: date, **columns: object) -> pd.DataFrame:
    frame = pd.DataFrame(0.0, index=range(len(keys)), columns=list(FEATURES))
    frame[sorted(NULLABLE)] = np.nan
    return frame.assign(snapshot_date=day, customer_key=keys, **columns)


def units(rows: list[tuple[str, date, str, str, float]]) -> pd.DataFrame:
    names = ["customer_key", "assigned_date", "arm", "weights_json", "outcome"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(profit=20 * frame["outcome"] - 2.0 * (frame["arm"] != "control"))


THREE = '{"control": 0.2, "coupon": 0.6, "call": 0.2}'
LATER = '{"control": 0.5, "coupon": 0.3, "call": 0.2}'


def test_one_arm_against_the_control_as_they_were_known() -> None:
    own = units(
        [
            ("d", D2, "control", LATER, 0.0),
            ("a", D1, "coupon", THREE, 1.0),
            ("b", D1, "control", THREE, 0.0),
            ("c", D1, "call", THREE, 1.0),
            ("e", D1, "coupon", THREE, 1.0),  # a prospect: no features
        ]
    )
    known = pd.concat(
        [
            features(["a", "b", "c"], D1, order_count_90d=[1.0, 2.0, 3.0]),
            # a's features after assignment must not be seen
            features(["d", "a"], D2, order_count_90d=[4.0, 99.0]),
        ],
        ignore_index=True,
    )
    scores = pd.DataFrame(
        {"snapshot_date": [D1, D2], "customer_key": ["a", "d"], "churn_probability": [0.2, 0.6]}
    )
    trial = make_trial(own, known, scores, "coupon", "control")
    assert trial.units.tolist() == ["a", "b", "d"]
    assert trial.X["order_count_90d"].tolist() == [1, 2, 4]
    assert trial.treatment.tolist() == [1, 0, 0]
    assert trial.outcome.tolist() == [1, 0, 0]
    assert trial.profit.tolist() == [18, 0, 0]
    # of the two arms, under the weights in force on the day
    assert trial.propensity == pytest.approx([0.75, 0.75, 0.375])
    assert trial.churn_risk == pytest.approx([0.2, 0.4, 0.6])
    assert trial.left_out == 1
    assert list(trial.X.columns) == list(FEATURES)


def test_a_small_trial_is_told_in_words() -> None:
    keys = [f"{i:04d}" for i in range(100)]
    own = units([(k, D1, ("coupon", "control")[i % 2], THREE, 0.0) for i, k in enumerate(keys)])
    scores = pd.DataFrame(columns=["snapshot_date", "customer_key", "churn_probability"])
    trial = make_trial(own, features(keys, D1), scores, "coupon", "control")
    assert "50 customers with features, 500 are needed" in str(learn_from(trial))


def test_a_trial_is_learnt_from_and_a_day_ranked() -> None:
    random = np.random.default_rng(1)
    keys = [f"{i:05d}" for i in range(3000)]
    views = random.gamma(2, 3, 3000)
    arm = random.random(3000) < 0.75
    outcome = random.random(3000) < 0.2 + 0.4 * arm * (views > 6)
    own = units(
        [
            (k, D1, "coupon" if a else "control", THREE, float(y))
            for k, a, y in zip(keys, arm, outcome, strict=True)
        ]
    )
    known = features(keys, D1, view_count_30d=views)
    scores = pd.DataFrame(
        {"snapshot_date": D1, "customer_key": keys, "churn_probability": random.random(3000)}
    )
    learned = learn_from(make_trial(own, known, scores, "coupon", "control"))
    assert not isinstance(learned, str)
    ranked = ranked_scores(learned.model, learned.profit_model, known)
    shuffled = known.sample(frac=1, random_state=2)
    again = ranked_scores(learned.model, learned.profit_model, shuffled)
    pd.testing.assert_frame_equal(ranked, again)
    assert ranked["uplift_rank"].tolist() == list(range(1, 3001))
    order = ranked.sort_values(["expected_effect", "customer_key"], ascending=[False, True])
    assert order["uplift_rank"].is_monotonic_increasing
    # an order brings 20 and a contact costs 2: what pays is what persuades
    pays = ranked["expected_profit_amount"] > 0
    assert ranked.loc[pays, "expected_effect"].mean() > ranked.loc[~pays, "expected_effect"].mean()
    best = set(ranked["customer_key"][:500])
    assert views[[k in best for k in keys]].mean() > 1.5 * views.mean()


def test_ties_are_ranked_by_customer() -> None:
    class Constant:
        def predict(self, X: pd.DataFrame) -> np.ndarray:
            return np.full(len(X), -1e-9)

    ranked = ranked_scores(Constant(), Constant(), features(["b", "a"], D1))  # type: ignore[arg-type]
    assert ranked["customer_key"].tolist() == ["a", "b"]
    assert not np.signbit(ranked["expected_effect"]).any()

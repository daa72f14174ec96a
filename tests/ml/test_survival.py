"""Discrete-time survival: nothing of the future, the truth found again, every horizon at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from ml.survival import TARGET, DiscreteTimeSurvival, period_ends, purchase_periods

DAY = date(2025, 1, 1)
ENDS = (14, 28, 56, 90)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def _boosting() -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        max_leaf_nodes=8, max_iter=60, early_stopping=False, random_state=1
    )


def _days(*after: int) -> list[date]:
    return [DAY + timedelta(days=n) for n in after]


def _panel(rows: list[tuple[int, str, int, float]]) -> pd.DataFrame:
    """(days after DAY, customer, silence, label) per row."""
    days, keys, silence, churned = zip(*rows, strict=True)
    snapshots = _days(*days)
    return pd.DataFrame(
        {
            "snapshot_date": snapshots,
            "customer_key": keys,
            "days_since_last_order": silence,
            "is_churned": churned,
            "matured_date": [day + timedelta(days=90) for day in snapshots],
        }
    )


def test_periods_end_at_whole_steps_and_at_the_horizon() -> None:
    assert period_ends(90, 14) == ENDS
    assert period_ends(28, 14) == (14, 28)
    assert period_ends(7, 14) == (7,)


def test_a_later_snapshot_tells_who_had_bought() -> None:
    nan = float("nan")
    panel = _panel(
        [
            (0, "soon", 5, 0), (0, "late", 5, 0), (0, "never", 5, 1), (0, "after", 5, 0),
            (14, "soon", 3, nan), (14, "late", 19, nan), (14, "never", 19, nan),
            (14, "after", 19, nan),
            (28, "soon", 17, nan), (28, "late", 13, nan), (28, "never", 33, nan),
            (28, "after", 33, nan),
            (56, "late", 2, nan), (56, "after", 61, nan),
        ]
    )  # fmt: skip
    known = purchase_periods(panel, DAY + timedelta(days=90), ENDS)
    first = dict(zip(panel["customer_key"][:4], known[:4].tolist(), strict=True))
    assert first["soon"] == (1, 1)
    assert first["late"] == (2, 2)
    assert first["never"] == (0, 4)  # gone from the last snapshot, and the label says so
    assert first["after"] == (4, 4)  # in none of the snapshots, and yet not churned
    early = purchase_periods(panel, DAY + timedelta(days=28), ENDS)[:4]
    assert early["known_periods"].tolist() == [1, 2, 2, 2]
    assert early["purchase_period"].tolist() == [1, 2, 0, 0]


def test_a_label_overrules_an_order_that_was_cancelled_later() -> None:
    panel = _panel([(0, "a", 5, 1), (14, "a", 3, float("nan"))])
    assert purchase_periods(panel, DAY + timedelta(days=14), ENDS)[0].item() == (1, 1)
    assert purchase_periods(panel, DAY + timedelta(days=90), ENDS)[0].item() == (0, 4)


def test_a_label_tells_nothing_where_nobody_knows_when() -> None:
    """Without the snapshot in between, only those who never bought would be known."""
    panel = _panel([(0, "never", 5, 1), (0, "bought", 5, 0)])
    known = purchase_periods(panel, DAY + timedelta(days=90), ENDS)
    assert known["known_periods"].tolist() == [0, 0]
    alone = purchase_periods(panel, DAY + timedelta(days=90), (90,))  # no period before the last
    assert alone.tolist() == [(0, 1), (1, 1)]


def test_labels_alone_may_tell_of_a_season() -> None:
    model = DiscreteTimeSurvival(_boosting(), ENDS, 0)
    day = np.repeat(np.arange(0.0, 365.0, 14), 10)[:, None]
    labels = np.arange(len(day)) % 2
    assert model.sees_a_year(day, labels)
    assert not model.sees_a_year(day[:100], labels[:100])
    assert model.fit(day, labels).has_season_
    assert not model.fit(day[:100], labels[:100]).has_season_


def test_nothing_after_the_day_is_looked_at() -> None:
    random = np.random.default_rng(3)
    rows = [(14 * s, f"{c}", int(random.integers(0, 90)), float(random.integers(0, 2)))
            for s in range(12) for c in range(40)]  # fmt: skip
    panel, day = _panel(rows), DAY + timedelta(days=100)
    late = np.array([d > day for d in panel["snapshot_date"]])
    unripe = np.array([d > day for d in panel["matured_date"]])
    changed = panel.assign(
        days_since_last_order=panel["days_since_last_order"].where(~late, 0),
        is_churned=panel["is_churned"].where(~unripe, 1 - panel["is_churned"]),
    )
    before, after = purchase_periods(panel, day, ENDS), purchase_periods(changed, day, ENDS)
    assert (before == after).all()
    assert (before["known_periods"][late] == 0).all()
    assert (before["known_periods"] > 0).any()


def _world(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Customers who buy at constant daily rates; X holds the logarithm of the rate."""
    random = np.random.default_rng(seed)
    rate = np.exp(random.normal(-4.0, 0.8, n))
    days = random.exponential(1 / rate)
    target = np.zeros(n, dtype=TARGET)
    period = np.searchsorted(ENDS, days, side="left") + 1
    target["known_periods"] = np.minimum(period, 4)
    target["purchase_period"] = np.where(days <= 90, period, 0)
    return np.log(rate)[:, None], target, rate


def test_the_truth_is_found_again_at_every_horizon() -> None:
    X, target, rate = _world(8_000)
    model = DiscreteTimeSurvival(
        _boosting(),
        ENDS,
    ).fit(X, target)
    curve = model.predict_survival(X)
    assert (np.diff(curve, axis=1) <= 0).all()
    for k, end in enumerate(ENDS):
        truth = np.exp(-rate * end)
        assert curve[:, k].mean() == pytest.approx(truth.mean(), abs=0.02)
        assert np.corrcoef(curve[:, k], truth)[0, 1] > 0.98
    assert np.array_equal(model.predict_proba(X)[:, 1], curve[:, -1])
    middle = np.abs(np.log(rate) + 4) < 0.8  # where there is data enough to say
    found, expected = model.expected_days(X)[middle], (1 / rate)[middle]
    assert np.median(found / expected) == pytest.approx(1, abs=0.1)
    # a curve that is told where to end: its own end changes nothing, a higher one means later
    own = model.predict_proba(X)[:, 1]
    assert model.expected_days(X, own) == pytest.approx(model.expected_days(X), rel=1e-3)
    assert (model.expected_days(X, own**0.5) > model.expected_days(X)).all()
    told = model.expected_days(X, np.exp(-rate * ENDS[-1]))[middle] / expected
    assert np.median(told) == pytest.approx(1, abs=0.1)


def test_censored_customers_teach_as_far_as_they_are_known() -> None:
    """Forgetting the later periods of half of the customers shifts no probability."""
    X, target, rate = _world(8_000, seed=2)
    half = np.arange(len(target)) % 2 == 0
    known = target.copy()
    unseen = half & (known["purchase_period"] != 1)
    known["known_periods"][half] = 1
    known["purchase_period"][unseen] = 0
    model = DiscreteTimeSurvival(
        _boosting(),
        ENDS,
    ).fit(X, known)
    assert model.predict_proba(X)[:, 1].mean() == pytest.approx(np.exp(-90 * rate).mean(), abs=0.02)


def test_the_season_is_that_of_the_period_and_not_of_the_snapshot() -> None:
    """Everybody buys in the first half of the year only; a snapshot of May looks ahead."""
    random = np.random.default_rng(5)
    day = random.integers(1, 366, 6_000).astype(float)
    target = np.zeros(len(day), dtype=TARGET)
    for k, (start, end) in enumerate(zip((0, *ENDS), ENDS, strict=False), start=1):
        middle = (day + (start + end) / 2) % 365.25
        buys = (target["purchase_period"] == 0) & (middle < 180) & (random.random(len(day)) < 0.5)
        target["purchase_period"][buys] = k
    target["known_periods"] = np.where(target["purchase_period"] > 0, target["purchase_period"], 4)
    model = DiscreteTimeSurvival(_boosting(), ENDS, 0).fit(day[:, None], target)
    january, july, december = model.predict_proba(np.array([[20.0], [200.0], [355.0]]))[:, 1]
    assert july > 0.95
    assert january < 0.15
    assert december < 0.3


def test_one_kind_of_period_is_refused() -> None:
    target = np.zeros(5, dtype=TARGET)
    target["known_periods"] = 2
    with pytest.raises(ValueError, match="0 of 10 known periods hold a purchase"):
        DiscreteTimeSurvival().fit(np.zeros((5, 1)), target)


@parametrize_with_checks([DiscreteTimeSurvival()])
def test_it_is_a_scikit_learn_estimator(estimator: DiscreteTimeSurvival, check: object) -> None:
    check(estimator)  # type: ignore[operator]


@pytest.mark.parametrize(("last", "is_seen"), [(200, False), (330, False), (358, True)])
def test_a_season_that_was_never_seen_is_not_made_up(last: int, is_seen: bool) -> None:
    """Customers buy twice as often late in the year; no row is of the days that are asked for."""
    random = np.random.default_rng(5)
    n = 4000
    day = random.integers(1, last, n).astype("float64")
    X = np.column_stack([random.normal(size=n), day])
    hazard = np.where(day > last / 2, 0.4, 0.2)
    y = np.zeros(n, dtype=TARGET)
    y["known_periods"] = 1
    y["purchase_period"] = random.random(n) < hazard
    model = DiscreteTimeSurvival(_boosting(), (14, 28), day_of_year_column=1).fit(X, y)
    assert model.has_season_ is is_seen
    assert model.sees_a_year(X, y) is is_seen  # which is known before the fit
    early, late = (model.predict_proba(np.array([[0.0, d]]))[0, 1] for d in (30.0, last - 20.0))
    if is_seen:
        assert early > late + 0.05
    else:
        assert early == late


def test_a_model_of_before_seasons_were_asked_for_has_one() -> None:
    random = np.random.default_rng(5)
    X = np.column_stack([random.normal(size=900), random.integers(1, 366, 900)]).astype("float64")
    model = DiscreteTimeSurvival(_boosting(), (14, 28), day_of_year_column=1)
    model.fit(X, (random.random(900) < 0.5).astype(int))
    before = model.predict_proba(X)
    del model.has_season_
    assert np.array_equal(model.predict_proba(X), before)

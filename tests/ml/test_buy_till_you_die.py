"""Buy-till-you-die: the published numbers of CDNOW, simulated truth, and the classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad
from scipy.special import hyp2f1
from sklearn.utils.estimator_checks import parametrize_with_checks

from ml import buy_till_you_die
from ml.buy_till_you_die import (
    HISTORY_COLUMNS,
    BuyTillYouDieClassifier,
    FitError,
    Histories,
    PurchasePopulation,
    SpendPopulation,
    fit_purchases,
    fit_spend,
    histories_of,
    purchase_histories,
    rank_correlation,
)
from ml.metrics import log_losses
from ml.registry import TRUSTED_TYPES

WEEK = 7.0


@pytest.fixture(scope="module")
def cdnow(shared: Path) -> pd.DataFrame:
    """The 2,357 customers, weeks, up to 1997-09-30: the set that the papers fitted."""
    orders = pd.read_parquet(shared / "data" / "cdnow" / "cdnow_sample.parquet").rename(
        columns={"sample_id": "customer_key", "date": "ordered_date", "amount": "revenue_amount"}
    )
    return purchase_histories(orders, "1997-09-30", WEEK)


def _histories(frame: pd.DataFrame) -> Histories:
    return Histories(*(frame[name].to_numpy("float64") for name in Histories._fields))


def _one(x: float, recency: float, tenure: float) -> Histories:
    return Histories(np.array([x]), np.array([recency]), np.array([tenure]))


# -- published numbers -----------------------------------------------------------------------------


def test_bg_nbd_on_cdnow(cdnow: pd.DataFrame) -> None:
    """Fader, Hardie & Lee (2005), table 2 and their spreadsheet."""
    found = fit_purchases(_histories(cdnow), "bg")
    assert len(cdnow) == 2357
    published = (0.2426, 4.4135, 0.7929, 2.4258)
    assert (found.r, found.alpha, found.a, found.b) == pytest.approx(published, rel=1e-3)
    assert found.log_likelihood == pytest.approx(-9582.43, abs=0.01)
    assert found.expected_purchases(_one(2, 30.43, 38.86), 39)[0] == pytest.approx(1.2259, abs=2e-4)
    times = [0.1429, 1, 3, 31.8571, 32, 78]
    expected = [0.0078, 0.0532, 0.1506, 1.0405, 1.0437, 1.8580]
    assert found.expected_purchases_of_newcomer(times) == pytest.approx(expected, abs=1e-4)
    once = cdnow["frequency"] == 0
    assert once.mean() == pytest.approx(0.5986, abs=1e-4)
    assert (found.alive_probability(_histories(cdnow))[once] == 1).all()


def test_mbg_nbd_on_cdnow(cdnow: pd.DataFrame) -> None:
    found = fit_purchases(_histories(cdnow), "mbg")
    assert (found.r, found.alpha, found.a, found.b) == pytest.approx(
        (0.5248, 6.183, 0.8914, 1.614), rel=1e-3
    )
    assert found.log_likelihood == pytest.approx(-9582.13, abs=0.01)
    alive = found.alive_probability(_histories(cdnow))[cdnow["frequency"] == 0]
    assert (alive.min(), alive.max()) == pytest.approx((0.390, 0.428), abs=1e-3)


def test_gamma_gamma_on_cdnow(cdnow: pd.DataFrame) -> None:
    """Fader & Hardie (2013): repeat amounts of the 946 customers who have any."""
    repeaters = cdnow[cdnow["frequency"] > 0]
    found = fit_spend(repeaters["frequency"], repeaters["mean_spend"])
    assert len(repeaters) == 946
    assert (found.p, found.q, found.v) == pytest.approx((6.25, 3.74, 15.44), rel=2e-3)
    assert found.mean == pytest.approx(35.17, abs=0.01)
    first = found.expected_spend(cdnow["frequency"], cdnow["mean_spend"])[:10]
    published = [24.65, 18.91, 35.17, 35.17, 35.17, 71.46, 18.91, 35.17, 27.28, 35.17]
    assert first == pytest.approx(published, abs=0.01)


def test_frequency_and_spend_of_cdnow_are_not_independent(cdnow: pd.DataFrame) -> None:
    """Fader & Hardie call the linear correlation of .11 negligible; by ranks it is not nil."""
    repeaters = cdnow[cdnow["frequency"] > 0]
    r, low, high = rank_correlation(repeaters["frequency"], repeaters["mean_spend"])
    assert 0 < low < r < high < 0.3
    linear = np.corrcoef(repeaters["frequency"], repeaters["mean_spend"])[0, 1]
    assert linear == pytest.approx(0.1139, abs=1e-3)


# -- against the definitions -----------------------------------------------------------------------


def test_the_expectation_is_the_formula_of_the_paper() -> None:
    """Equation 10 of Fader, Hardie & Lee (2005), whose series we transform."""
    r, alpha, a, b = 0.3, 5.0, 0.8, 2.4
    x, recency, tenure, t = 3.0, 20.0, 30.0, 15.0
    series = hyp2f1(r + x, b + x, a + b + x - 1, t / (alpha + tenure + t))
    above = (a + b + x - 1) / (a - 1)
    above *= 1 - ((alpha + tenure) / (alpha + tenure + t)) ** (r + x) * series
    below = 1 + a / (b + x - 1) * ((alpha + tenure) / (alpha + recency)) ** (r + x)
    found = PurchasePopulation("bg", r, alpha, a, b).expected_purchases(_one(x, recency, tenure), t)
    assert found[0] == pytest.approx(above / below, rel=1e-10)


@pytest.mark.parametrize("variant", ["bg", "mbg"])
def test_probabilities_and_expectations_are_those_of_simulated_customers(variant: str) -> None:
    """A million lives by the story of the model; those with one history are compared."""
    random = np.random.default_rng(3)
    n, end, more = 400_000, 40.0, 25.0
    model = PurchasePopulation(variant, 0.9, 12.0, 0.8, 2.0)
    rate = random.gamma(model.r, 1 / model.alpha, n)
    leaves = random.beta(model.a, model.b, n)
    now, x, last, later = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    alive = random.random(n) >= leaves if variant == "mbg" else np.ones(n, dtype=bool)
    while alive.any():
        now = now + np.where(alive, random.exponential(1 / rate), np.inf)
        alive &= now <= end + more
        x += alive & (now <= end)
        last = np.where(alive & (now <= end), now, last)
        later += alive & (now > end)
        alive &= random.random(n) >= leaves
    for count, low, high in ((0, 0, 0), (1, 10, 14), (3, 30, 34)):
        like = (x == count) & (last >= low) & (last <= high)
        middle = _one(count, (low + high) / 2, end)
        assert like.sum() > 1000
        none = model.no_purchase_probability(middle, more)[0]
        assert none == pytest.approx((later[like] == 0).mean(), abs=0.03)
        error = 4 * later[like].std() / np.sqrt(like.sum()) + 0.03
        assert model.expected_purchases(middle, more)[0] == pytest.approx(
            later[like].mean(), abs=error
        )
    found = fit_purchases(Histories(x[:20_000], last[:20_000], np.full(20_000, end)), variant)  # type: ignore[arg-type]
    assert (found.r, found.alpha) == pytest.approx((0.9, 12.0), rel=0.15)
    assert found.a / (found.a + found.b) == pytest.approx(0.8 / 2.8, rel=0.15)


def test_where_everybody_drops_out_alike_the_series_gives_way() -> None:
    """A shop whose customers differ little in dropping out: a and b run to their bounds."""
    model = PurchasePopulation("mbg", 1.086, 33.68, 529.8, 22026.0)
    found = model.expected_purchases(_one(2, 30, 32), 365)[0]
    p = 529.8 / (529.8 + 22026 + 3)
    alive = model.alive_probability(_one(2, 30, 32))[0]
    by_mean = (1 - (1 + p * 365 / (33.68 + 32)) ** -3.086) / p
    assert found == pytest.approx(alive * by_mean, rel=1e-3)


@settings(max_examples=60, deadline=None)
@example("bg", 1.0, 1.0, 6.0, 162.0, 5, 0.0, 1.0, 332.0)
@given(
    st.sampled_from(["bg", "mbg"]),
    st.floats(0.02, 20),
    st.floats(0.5, 500),
    st.floats(0.05, 900),
    st.floats(0.05, 9000),
    st.integers(0, 400),
    st.floats(0, 1),
    st.floats(1, 3000),
    st.floats(0.1, 400),
)
def test_always_a_probability_and_never_negative(
    variant: str,
    r: float,
    alpha: float,
    a: float,
    b: float,
    x: int,
    share: float,
    tenure: float,
    time: float,
) -> None:
    model = PurchasePopulation(variant, r, alpha, a, b)
    history = _one(x, tenure * share if x else 0.0, tenure)
    alive = model.alive_probability(history)[0]
    none = model.no_purchase_probability(history, time)[0]
    expected = model.expected_purchases(history, time)[0]
    longer = model.expected_purchases(history, 2 * time)[0]
    assert 0 <= alive <= 1
    assert 1 - alive - 1e-9 <= none <= 1
    # who buys at all buys at least once
    assert expected >= (1 - none) * (1 - 1e-6) - 1e-9
    assert longer >= expected * (1 - 1e-6) - 1e-9


@pytest.mark.parametrize(
    ("history", "time", "expected"),
    [
        # r + x, alpha + T, a, b + x; values by mpmath at 40 digits. SciPy's hyp2f1 is infinite, and
        # not a number.
        ((6.0, 2.0, 6.0, 167.0), 664.0, 34.39871682432655),
        ((13.576, 0.3477, 4.4442, 886.7817), 384.6472, 258.4495669295159),
    ],
)
def test_what_scipy_gives_up_on_is_worked_out(
    history: tuple[float, float, float, float], time: float, expected: float
) -> None:
    r, alpha, a, b = history
    found = buy_till_you_die._purchases_while_alive(r, alpha, a, b, time)
    assert float(found) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("variant", ["bg", "mbg"])
def test_gradients(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the optimiser is told of the slope is the slope, for all three likelihoods."""
    captured = []
    minimise = buy_till_you_die.minimize

    def spy(function, first, **options):  # type: ignore[no-untyped-def]
        captured.append((function, len(first)))
        return minimise(function, first, **options)

    monkeypatch.setattr(buy_till_you_die, "minimize", spy)
    frame, y = _labelled(60, 5)
    fit_purchases(histories_of(frame), variant)  # type: ignore[arg-type]
    BuyTillYouDieClassifier(90, variant).fit(frame.to_numpy(), y)  # type: ignore[arg-type]
    fit_spend([1, 2, 3, 4], [10.0, 20.0, 15.0, 30.0])
    assert [size for _, size in captured] == [4, 4, 3]
    for function, size in captured:
        at = np.linspace(-0.5, 0.7, size)
        assert check_grad(lambda v, f=function: f(v)[0], lambda v, f=function: f(v)[1], at) < 1e-5


# -- histories -------------------------------------------------------------------------------------


def test_histories_count_days_and_end_with_the_day() -> None:
    orders = pd.DataFrame(
        [
            ("b", "2025-01-01", 10.0),
            ("a", "2025-01-01", 5.0),
            ("a", "2025-01-11", 20.0),
            ("a", "2025-01-11", 40.0),
            ("a", "2025-01-31", 30.0),
            ("a", "2025-02-01", 99.0),
            ("late", "2025-02-01", 1.0),
        ],
        columns=["customer_key", "ordered_date", "revenue_amount"],
    )
    found = purchase_histories(orders, "2025-01-31")
    assert found.to_dict("list") == {
        "customer_key": ["a", "b"],
        "frequency": [2.0, 0.0],
        "recency": [30.0, 0.0],
        "tenure": [30.0, 30.0],
        "mean_spend": [45.0, 0.0],
        "revenue_amount": [95.0, 10.0],
        "order_count": [4, 1],
    }
    published = pd.DataFrame(
        [(30, 0, 15.0), (30, 30, None)], columns=list(HISTORY_COLUMNS), index=["a", "b"]
    )
    for ours, theirs in zip(histories_of(published), _histories(found), strict=True):
        assert ours.tolist() == theirs.tolist()


def test_impossible_histories_are_refused() -> None:
    for row in ((10, 20, np.nan), (10, -1, np.nan)):
        with pytest.raises(ValueError, match="last order must lie between"):
            histories_of(pd.DataFrame([row], columns=list(HISTORY_COLUMNS)))
    with pytest.raises(ValueError, match="must be known"):
        histories_of(pd.DataFrame([(np.nan, 3, np.nan)], columns=list(HISTORY_COLUMNS)))
    with pytest.raises(FitError, match="none of 3 customers has bought on two days"):
        fit_purchases(Histories(np.zeros(3), np.zeros(3), np.arange(1.0, 4.0)))
    with pytest.raises(FitError, match="recency <= tenure"):
        fit_purchases(_one(1, 5, 4))
    with pytest.raises(ValueError, match="'bg' or 'mbg'"):
        fit_purchases(_one(1, 3, 4), "pareto")  # type: ignore[arg-type]
    with pytest.raises(FitError, match="0 customers have an amount"):
        fit_spend([0, 2], [10.0, 0.0])
    with pytest.raises(FitError, match="none of them with two"):
        fit_spend([1, 1], [10.0, 12.0])


def test_spend_shrinks_towards_the_shop() -> None:
    model = SpendPopulation(6.0, 4.0, 15.0)
    few, many = model.expected_spend([1, 50], [100.0, 100.0])
    assert model.mean == pytest.approx(30.0)
    assert model.expected_spend([0], [0.0])[0] == pytest.approx(model.mean)
    assert model.mean < few < many < 100.5


def test_a_correlation_of_nothing_is_unknown() -> None:
    assert np.isnan(rank_correlation([1, 1, 1, 1, 1], [1, 2, 3, 4, 5])).all()
    assert np.isnan(rank_correlation([1, 2, 3], [1, 2, 3])).all()


# -- the classifier --------------------------------------------------------------------------------


def _labelled(n: int, seed: int, active_days: float = np.inf) -> tuple[pd.DataFrame, np.ndarray]:
    """Customers by the story of MBG/NBD: history at day 300, and whether 90 silent days follow.

    Only those who bought in the last `active_days` are kept, as in the population of churn.
    """
    random = np.random.default_rng(seed)
    rows, labels = [], []
    while len(rows) < n:
        rate, leaves = random.gamma(1.0, 1 / 50), random.beta(0.6, 2.0)
        joined = random.integers(0, 300)
        bought = [joined]
        while random.random() >= leaves and bought[-1] < 390:
            bought.append(bought[-1] + max(1, round(random.exponential(1 / rate))))
        known = [day for day in bought if day <= 300]
        if 300 - known[-1] >= active_days:
            continue
        gap = (known[-1] - known[0]) / (len(known) - 1) if len(known) > 1 else np.nan
        rows.append((300 - known[0], 300 - known[-1], gap))
        labels.append(int(not any(300 < day <= 390 for day in bought)))
    return pd.DataFrame(rows, columns=list(HISTORY_COLUMNS), dtype="float64"), np.array(labels)


def test_a_selected_population_does_not_mislead_the_classifier() -> None:
    frame, y = _labelled(4000, 1, active_days=60)
    fresh, later = _labelled(4000, 2, active_days=60)
    found = BuyTillYouDieClassifier(90).fit(frame.to_numpy(), y)
    naive = fit_purchases(histories_of(frame))
    ours = found.predict_proba(fresh.to_numpy())[:, 1]
    theirs = naive.no_purchase_probability(histories_of(fresh), 90)
    assert log_losses(later, ours).mean() < log_losses(later, theirs).mean() - 0.005
    assert ours.mean() == pytest.approx(later.mean(), abs=0.02)


def test_the_classifier_survives_its_file() -> None:
    frame, y = _labelled(200, 3)
    found = BuyTillYouDieClassifier(30).fit(frame.to_numpy(), y)
    again = skops.io.loads(skops.io.dumps(found), trusted=list(TRUSTED_TYPES))
    assert np.array_equal(
        again.predict_proba(frame.to_numpy()), found.predict_proba(frame.to_numpy())
    )
    assert found.population_.r == found.r_


def test_a_longer_horizon_holds_more_purchases() -> None:
    frame, y = _labelled(200, 4)
    found = BuyTillYouDieClassifier(30).fit(frame.to_numpy(), y)
    population, histories = found.population_, histories_of(frame)
    nearer = population.no_purchase_probability(histories, 30)
    assert (population.no_purchase_probability(histories, 90) < nearer).all()


def test_one_time_buyers_alone_give_a_finite_model() -> None:
    tenure = np.arange(1.0, 41.0)
    X = np.column_stack([tenure, tenure, np.full(40, np.nan)])
    p = BuyTillYouDieClassifier(30).fit(X, np.arange(40) % 4 > 0).predict_proba(X)[:, 1]
    assert np.isfinite(p).all()
    assert p.mean() == pytest.approx(0.75, abs=0.1)


def test_what_is_no_history_is_refused() -> None:
    frame, y = _labelled(30, 6)
    X = frame.to_numpy()
    with pytest.raises(ValueError, match="X has 2 columns, not days_since_first_order"):
        BuyTillYouDieClassifier().fit(X[:, :2], y)
    with pytest.raises(ValueError, match="Negative values in data"):
        BuyTillYouDieClassifier().fit(-X, y)
    with pytest.raises(ValueError, match="y has 1 class"):
        BuyTillYouDieClassifier().fit(X, np.ones(30))
    with pytest.raises(ValueError, match="horizon_days must be positive"):
        BuyTillYouDieClassifier(0).fit(X, y)


class _TakesAnyMatrix(BuyTillYouDieClassifier):
    """The same, but for what it asks of X: scikit-learn's checks bring matrices of any shape."""

    def _histories(self, X: np.ndarray) -> Histories:
        known = np.nan_to_num(np.abs(X))
        return Histories(np.floor(known[:, 0]), known[:, 0], known[:, 0] + known.sum(axis=1))

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # blobs are no histories
        return tags


@parametrize_with_checks([_TakesAnyMatrix()])
def test_scikit_learn_accepts_it(estimator, check) -> None:  # type: ignore[no-untyped-def]
    check(estimator)

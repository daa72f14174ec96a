"""Metrics against scikit-learn and published values; ties never let the order of rows through."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.metrics import (
    ProfitModel,
    average_precision,
    calibration_bins,
    calibration_slope,
    choose_thresholds,
    classified,
    confusion_at,
    entropy,
    evaluate,
    expected_calibration_error,
    expected_maximum_profit,
    normalised_lift,
    profit_by_value,
    profit_per_customer,
    roc_auc,
    top_decile_lift,
    weighted_ranking,
)

# scores on a coarse grid, so that ties are the rule
rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=60).filter(
    lambda r: len({y for y, _ in r}) == 2
)


def _arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    y, p = map(np.array, zip(*pairs, strict=True))
    return y, p / 8


@settings(max_examples=60, deadline=None)
@given(rows)
def test_agrees_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    y, p = _arrays(pairs)
    assert roc_auc(y, p) == pytest.approx(reference.roc_auc_score(y, p))
    assert average_precision(y, p) == pytest.approx(reference.average_precision_score(y, p))
    found = evaluate(y, p)
    assert found["brier"] == pytest.approx(reference.brier_score_loss(y, p))
    clipped = np.clip(p, 1e-6, 1 - 1e-6)
    assert found["log_loss"] == pytest.approx(reference.log_loss(y, clipped))
    cut = p >= 0.5
    left, wrong, missed, right = reference.confusion_matrix(y, cut, labels=[0, 1]).ravel()
    confusion = confusion_at(y, p, 0.5)
    assert list(confusion.values()) == [right, wrong, missed, left]
    found = classified(confusion)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(y, cut))
    assert found["f1"] == pytest.approx(reference.f1_score(y, cut, zero_division=0))
    assert found["recall"] == pytest.approx(reference.recall_score(y, cut))
    assert found["precision"] == pytest.approx(reference.precision_score(y, cut, zero_division=0))


@settings(max_examples=60, deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_order_of_rows_never_shows(pairs: list[tuple[int, int]], random: object) -> None:
    y, p = _arrays(pairs)
    shuffled = pairs.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert evaluate(y, p) == pytest.approx(evaluate(*_arrays(shuffled)), nan_ok=True)


def test_top_decile_lift_is_the_mean_over_random_tie_orders() -> None:
    y = np.array([1, 0, 0, 1, 1, 0, 0, 0, 0, 0] * 3)
    p = np.where(np.arange(30) < 2, 0.9, np.where(np.arange(30) < 12, 0.5, 0.1))
    random = np.random.default_rng(0)
    simulated = []
    for _ in range(20_000):
        order = np.lexsort((random.random(30), -p))
        simulated.append(y[order][:3].mean() / y.mean())
    assert top_decile_lift(y, p) == pytest.approx(np.mean(simulated), abs=0.01)


def test_lift_is_normalised_by_what_is_possible() -> None:
    y = (np.arange(100) < 75).astype(int)
    perfect, constant = 1 - np.arange(100) / 100, np.full(100, 0.75)
    assert top_decile_lift(y, perfect) == pytest.approx(4 / 3)
    assert normalised_lift(4 / 3, 0.75) == pytest.approx(1)
    assert evaluate(y, constant)["top_decile_lift"] == pytest.approx(1)
    assert evaluate(y, constant)["top_decile_lift_normalised"] == pytest.approx(0)
    assert normalised_lift(10, 0.01) == pytest.approx(1)


def test_a_constant_at_the_base_rate_has_no_skill_and_is_calibrated() -> None:
    y = np.array([0, 0, 1, 0, 0, 1, 0, 0, 0, 0] * 7)
    found = evaluate(y, np.full(len(y), y.mean()))
    assert found["log_loss"] == pytest.approx(found["log_loss_no_skill"])
    assert found["log_loss_no_skill"] == pytest.approx(entropy(0.2))
    assert found["brier_skill"] == pytest.approx(0)
    assert found["ece"] == pytest.approx(0)
    assert found["roc_auc"] == 0.5
    assert entropy(0.5) == pytest.approx(np.log(2))
    assert entropy(0.0) == entropy(1.0) == 0


def test_calibration_bins_hold_equal_mass() -> None:
    random = np.random.default_rng(0)
    p = random.random(1003)
    y = (random.random(1003) < p).astype(int)
    rates, means, masses = calibration_bins(y, p)
    assert masses == pytest.approx(100.3)
    assert (np.diff(means) > 0).all()
    assert (rates * masses).sum() == pytest.approx(y.sum())
    assert expected_calibration_error(y, p) < 0.04
    assert expected_calibration_error(y, p**3) > 0.15  # a bad calibration is seen
    assert expected_calibration_error(np.array([1, 0]), np.array([0.9, 0.2])) == pytest.approx(0.15)


def test_profit_matches_the_published_mpc() -> None:
    """y = 01010101, s = .1 .2 .3 .4 .5 .7 .8 .9 gives 23.875 at .875."""
    y = np.array([0, 1] * 4)
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9])
    chosen = choose_thresholds(y, p, capacity_share=0.25, profit=ProfitModel())
    assert chosen.profit == 0.2
    assert (p >= chosen.profit).mean() == 0.875
    assert profit_per_customer(y, p, chosen.profit, ProfitModel()) == pytest.approx(23.875)
    assert chosen.capacity == 0.8
    assert chosen.as_dict().keys() == {"capacity", "profit", "roc"}


def test_threshold_by_roc_is_youdens() -> None:
    random = np.random.default_rng(0)
    p = np.round(random.random(500), 2)
    y = (random.random(500) < p**2).astype(int)
    chosen = choose_thresholds(y, p, capacity_share=0.1, profit=ProfitModel())
    fpr, tpr, cuts = reference.roc_curve(y, p, drop_intermediate=False)
    assert chosen.roc == cuts[np.argmax(tpr - fpr)]


def test_nobody_is_contacted_at_a_loss() -> None:
    y, p = np.array([0, 1]), np.array([0.2, 0.8])
    worthless = ProfitModel(customer_value=1.0)
    assert choose_thresholds(y, p, capacity_share=0.5, profit=worthless).profit == np.inf
    nobody = classified(confusion_at(y, p, np.inf))
    assert nobody == {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_rows_may_have_thresholds_of_their_own() -> None:
    y, p = np.array([0, 1, 0, 1]), np.array([0.2, 0.2, 0.6, 0.6])
    own = confusion_at(y, p, np.array([0.1, 0.1, 0.9, 0.9]))
    assert list(own.values()) == [1, 1, 1, 1]
    assert confusion_at(y, p, 0.5) == {**own, "true_positive": 1}


def test_one_class_gives_nan_where_two_are_needed() -> None:
    found = evaluate(np.zeros(5, dtype=int), np.full(5, 0.2))
    assert np.isnan(found["roc_auc"])
    assert np.isnan(found["top_decile_lift"])
    assert np.isfinite(found["log_loss"])
    with pytest.raises(ValueError, match="both classes"):
        choose_thresholds(np.ones(3), np.full(3, 0.5), capacity_share=0.1, profit=ProfitModel())


@pytest.mark.parametrize(
    ("y", "p", "told"),
    [
        ([], [], "no rows"),
        ([0, 1], [0.5], "equal vectors"),
        ([0, 2], [0.5, 0.5], "0 or 1"),
        ([0, 1], [0.5, np.nan], r"within \[0, 1\]"),
        ([0, 1], [0.5, 1.1], r"within \[0, 1\]"),
    ],
)
def test_bad_input_is_refused(y: list[int], p: list[float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        evaluate(np.array(y), np.array(p))


def test_empc_is_the_published_one() -> None:
    """The example of empulse 0.x: both numbers to the last digits."""
    y, p = np.array([0, 1] * 4), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9])
    value, share = expected_maximum_profit(y, p)
    assert value == pytest.approx(23.875593418348124, rel=1e-12)
    assert share == pytest.approx(0.8743700763487141, rel=1e-12)
    perfect = expected_maximum_profit(np.repeat([1, 0], 10), np.repeat([0.9, 0.1], 10))
    assert perfect == pytest.approx((28.0, 0.5), abs=1e-8)


def test_weights_of_one_are_the_plain_metrics_and_weights_are_copies() -> None:
    random = np.random.default_rng(0)
    y = (random.random(300) < 0.4).astype(int)
    p = np.round(np.clip(0.3 * y + 0.7 * random.random(300), 0, 1), 1)  # many ties
    weights = random.integers(0, 4, (2, 300)).astype(float)
    weights[0] = 1
    auc, ap = weighted_ranking(y, p, weights)
    assert auc[0] == pytest.approx(roc_auc(y, p))
    assert ap[0] == pytest.approx(average_precision(y, p))
    copies = np.repeat(np.arange(300), weights[1].astype(int))
    assert auc[1] == pytest.approx(roc_auc(y[copies], p[copies]))
    assert ap[1] == pytest.approx(average_precision(y[copies], p[copies]))


def test_the_slope_tells_overconfidence_and_inversion() -> None:
    random = np.random.default_rng(1)
    z = random.normal(size=20_000)
    y = (random.random(20_000) < 1 / (1 + np.exp(-z))).astype(int)
    for factor in (0.5, 1.0, 2.0, -1.0):
        assert calibration_slope(y, 1 / (1 + np.exp(-factor * z))) == pytest.approx(
            1 / factor, rel=0.06
        )
    assert np.isnan(calibration_slope(y, np.full(len(y), 0.3)))


def test_profit_by_value_contacts_whom_it_pays() -> None:
    profit = ProfitModel(accept_rate=0.5, incentive_amount=10, contact_amount=1)
    y, p = np.array([1, 1, 0, 0]), np.array([0.9, 0.9, 0.1, 0.9])
    value = np.array([100.0, 12.0, 100.0, 100.0])
    found = profit_by_value(y, p, value, profit)
    # worth it: .9 * 45 - 1 - 1 > 0; .9 * 1 - 2 < 0; .1 * 45 - 9 - 1 < 0; as the first
    assert found["share_contacted"] == 0.5
    assert found["profit_by_value"] == pytest.approx((44 - 11) / 4)
    assert found["profit_of_all"] == pytest.approx((44 + 0 - 11 - 11) / 4)
    with pytest.raises(ValueError, match="one finite number per row"):
        profit_by_value(y, p, np.array([1.0, 2.0, 3.0, np.nan]), profit)

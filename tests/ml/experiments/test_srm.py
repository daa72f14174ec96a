"""The sample-ratio check, and what it must see; published rows are in test_ab_fixtures.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ml.experiments.srm import SRM_ALARM, check_passage, check_stage, srm_p_value


def test_an_arm_of_weight_zero_is_dropped_from_total_and_freedom() -> None:
    assert srm_p_value([1000, 1200, 900], [0.5, 0.5, 0]) == pytest.approx(0.000020079, rel=1e-4)


def test_a_loss_of_two_per_cent_in_one_arm_trips() -> None:
    # At 50,000 per arm the expected p is 0.0015, just short of the alarm; at 100,000 it is 7e-6.
    assert srm_p_value([100_000, 98_000], [0.5, 0.5]) < SRM_ALARM
    assert srm_p_value([100_000, 99_900], [0.5, 0.5]) > SRM_ALARM


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=6))
def test_equals_scipy(counts: list[int]) -> None:
    expected = stats.chisquare(counts).pvalue
    assert srm_p_value(counts, [1.0] * len(counts)) == pytest.approx(expected, abs=1e-12)


def test_nothing_to_compare_is_one_and_nonsense_is_refused() -> None:
    assert srm_p_value([], []) == 1.0
    assert srm_p_value([0, 0], [0.5, 0.5]) == 1.0
    assert srm_p_value([5, 9], [1.0, 0.0]) == 1.0
    with pytest.raises(ValueError, match="2 counts for 1 weights"):
        srm_p_value([1, 2], [1.0])
    with pytest.raises(ValueError, match="negative"):
        srm_p_value([-1, 2], [0.5, 0.5])


@pytest.mark.parametrize("weights", [[0.05, 0.95], [0.95, 0.05], [0.02, 0.98], [0.9, 0.05, 0.05]])
def test_unequal_arms_are_judged_as_scipy_does(weights: list[float]) -> None:
    """By numpy's own tolerance, rounding was a second degree of freedom in one draw of five."""
    rng = np.random.default_rng(11)
    shares = np.array(weights)
    names = [str(number) for number in range(len(weights))]
    for units in rng.integers(200, 300_000, 300).tolist():
        drawn = rng.multinomial(units, shares)
        passed = rng.binomial(drawn, 0.97)
        assigned = check_stage(
            "assigned", dict(zip(names, drawn, strict=True)), dict(zip(names, weights, strict=True))
        )
        assert assigned.p_value == pytest.approx(
            stats.chisquare(drawn, units * shares).pvalue, abs=1e-9
        )
        sent = check_passage(
            "sent", dict(zip(names, passed, strict=True)), dict(zip(names, drawn, strict=True))
        )
        table = stats.chi2_contingency([passed, drawn - passed], correction=False)
        # Drawn without replacement: N - 1 in place of N.
        expected = stats.chi2.sf(table.statistic * (units - 1) / units, len(weights) - 1)
        assert sent.p_value == pytest.approx(expected, abs=1e-9)


def test_a_loss_after_the_draw_is_seen_where_the_ratio_alone_would_not() -> None:
    entered = {"control": 50_000, "coupon": 50_000}
    passed = {"control": 50_000, "coupon": 49_000}
    assert srm_p_value(list(passed.values()), [1, 1]) > SRM_ALARM
    found = check_passage("measured", passed, entered)
    assert found.is_broken
    assert (found.stage, found.arm, found.missing) == ("measured", "coupon", 1_000)


def test_phases_are_due_their_own_weights() -> None:
    """Weights that moved from one half to nine tenths: pooled they would be no weights at all."""
    weights = {"a": np.array([0.5, 0.1]), "b": np.array([0.5, 0.9])}
    as_due = {"a": np.array([5_030, 980]), "b": np.array([4_970, 9_020])}
    assert not check_stage("assigned", as_due, weights).is_broken
    pooled = {arm: counts.sum() for arm, counts in as_due.items()}
    assert check_stage("assigned", pooled, {"a": 0.5, "b": 0.5}).is_broken
    short = as_due | {"a": np.array([5_030, 700])}
    found = check_stage("assigned", short, weights)
    assert found.is_broken
    assert found.arm == "a"


def test_losses_alike_for_all_arms_are_no_alarm_though_they_and_the_weights_changed() -> None:
    """First half and half and a tenth bounces, then nine tenths and nobody does."""
    entered = {"a": np.array([5_000, 1_000]), "b": np.array([5_000, 9_000])}
    passed = {"a": np.array([4_500, 1_000]), "b": np.array([4_510, 9_000])}
    together = [{a: n.sum() for a, n in counts.items()} for counts in (passed, entered)]
    assert check_passage("delivered", *together).is_broken, "Simpson's paradox"
    assert not check_passage("delivered", passed, entered).is_broken
    lost = passed | {"a": np.array([4_500, 950])}
    found = check_passage("delivered", lost, entered)
    assert found.is_broken
    assert found.arm == "a"


@pytest.mark.parametrize("k", [2, 3])
def test_both_tests_reject_as_often_as_they_say_over_small_phases(k: int) -> None:
    rng = np.random.default_rng(k)
    names, p_values = [f"arm {i}" for i in range(k)], []
    for _ in range(1_000):
        weights = rng.dirichlet(np.full(k, 5.0), 40)
        units = np.array([rng.multinomial(rng.integers(2, 30), w) for w in weights])
        out = rng.binomial(units, rng.uniform(0.5, 1.0, (40, 1)))
        due, entered, passed = (
            dict(zip(names, table.T, strict=True)) for table in (weights, units, out)
        )
        p_values.append(
            (
                check_stage("assigned", entered, due).p_value,
                check_passage("sent", passed, entered).p_value,
            )
        )
    low, high = stats.binom.interval(0.999, 1_000, 0.05)
    for values in np.array(p_values, dtype=float).T:
        assert low <= (values < 0.05).sum() <= high


def test_who_is_short_is_named_with_how_many() -> None:
    found = check_stage("assigned", {"a": 10_000, "b": 4_500, "c": 5_000}, {"a": 2, "b": 1, "c": 1})
    assert found.is_broken
    assert (found.arm, found.missing) == ("b", 500)
    assert not check_stage("assigned", {"a": 100, "b": 101}, {"a": 1, "b": 1}).is_broken


def test_equal_losses_and_single_arms_are_no_alarm() -> None:
    entered = {"a": 1_000, "b": 2_000}
    assert check_passage("sent", {"a": 900, "b": 1_800}, entered).p_value == pytest.approx(1)
    assert check_passage("sent", entered, entered).p_value == 1
    assert check_passage("sent", {"a": 900}, {"a": 1_000}).p_value is None
    assert check_passage("sent", {"a": 0, "b": 0}, entered).p_value is None
    with pytest.raises(ValueError, match="more units of"):
        check_passage("sent", {"a": 1_001, "b": 0}, entered)

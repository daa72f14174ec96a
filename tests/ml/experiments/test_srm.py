"""The sample-ratio check, and what it must see; published rows are in test_ab_fixtures.py."""

from __future__ import annotations

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


def test_a_loss_after_the_draw_is_seen_where_the_ratio_alone_would_not() -> None:
    entered = {"control": 50_000, "coupon": 50_000}
    passed = {"control": 50_000, "coupon": 49_000}
    assert srm_p_value(list(passed.values()), [1, 1]) > SRM_ALARM
    found = check_passage("measured", passed, entered)
    assert found.is_broken
    assert (found.stage, found.arm, found.missing) == ("measured", "coupon", 1_000)


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

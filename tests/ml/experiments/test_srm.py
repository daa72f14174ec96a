"""The sample-ratio check against published rows, and what it must see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ml.experiments.srm import SRM_ALARM, srm_p_value


def test_published_rows(shared: Path) -> None:
    rows = json.loads((shared / "fixtures" / "ab_fixtures.json").read_text())["srm"]
    for counts, weights, p_value in rows:
        assert srm_p_value(counts, weights) == pytest.approx(p_value, rel=1e-4)
    assert srm_p_value([21307, 21306, 21387], [1 / 3] * 3) == pytest.approx(0.90369296, rel=1e-7)


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

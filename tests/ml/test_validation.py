"""Splits respect time, samples depend on no order, intervals know that rows of a customer cling."""

from __future__ import annotations

import itertools
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_world import training_frame

from ml.validation import (
    customer_bootstrap,
    interval,
    rolling_origins,
    sample_rows,
    split_at,
    thin,
    uniform_hash,
    usual_step,
)

FIRST = date(2025, 1, 1)
days_lists = st.lists(st.integers(0, 700), min_size=0, max_size=60).map(
    lambda offsets: [FIRST + timedelta(days=d) for d in offsets]
)


@settings(max_examples=150, deadline=None)
@given(days_lists, st.integers(0, 900), st.integers(1, 120), st.integers(1, 5))
def test_no_label_is_used_before_it_matured(
    days: list[date], as_of_offset: int, horizon: int, n_origins: int
) -> None:
    as_of, gap = FIRST + timedelta(days=as_of_offset), timedelta(days=horizon)
    splits = rolling_origins(days, as_of, horizon, n_origins)
    assert len(splits) <= n_origins
    for split in splits:
        assert split.test in days
        assert split.test + gap <= as_of
        assert split.earlier
        assert split.later
        assert max(split.earlier) < min(split.later)
        assert max(split.later) + gap <= split.test
    tests = [split.test for split in splits]
    assert tests == sorted(set(tests))
    assert all((b - a).days >= 28 for a, b in itertools.pairwise(tests))


def test_origins_are_the_latest_possible() -> None:
    days = [FIRST + timedelta(days=14 * i) for i in range(26)]
    as_of = days[-1] + timedelta(days=90)
    splits = rolling_origins(days, as_of, 90, 3)
    assert [split.test for split in splits] == [days[21], days[23], days[25]]
    assert splits[-1].later == (days[17], days[18])  # 90 days are 6.4 fortnights
    assert splits[-1].earlier == tuple(days[:17])


def test_too_little_history_gives_no_origin() -> None:
    days = [FIRST + timedelta(days=14 * i) for i in range(8)]
    assert rolling_origins(days, days[-1] + timedelta(days=90), 90) == []
    assert split_at(days, days[0], 90) is None
    assert split_at([], days[0], 90) is None


def test_thin_counts_back_from_the_latest() -> None:
    daily = [FIRST + timedelta(days=i) for i in range(31)]
    kept = thin(daily + daily, 14)
    assert kept == [daily[2], daily[16], daily[30]]


def test_the_usual_step_is_that_of_the_days_there_are() -> None:
    fortnights = [FIRST + timedelta(days=14 * i) for i in range(10)]
    assert usual_step(fortnights, 14) == 14
    assert usual_step(thin(fortnights, 21), 21) == 28
    uneven = [FIRST + timedelta(days=n) for n in (0, 30, 60, 75, 89, 103)]
    assert usual_step(uneven, 14) == 14
    assert usual_step(uneven[:1], 21) == usual_step([], 21) == 21


def test_sample_is_of_rows_and_depends_on_content_only() -> None:
    frame = training_frame(customers=200, snapshots=6)
    some = sample_rows(frame, 300, "a")
    assert len(some) == 300
    assert some["customer_key"].nunique() > 150  # whole customers would be about 62
    shuffled = frame.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(some, sample_rows(shuffled, 300, "a"))
    assert not some.equals(sample_rows(frame, 300, "b"))
    assert len(sample_rows(frame, 10**6, "a")) == len(frame)


def test_hash_is_uniform_and_pinned() -> None:
    keys = pd.Series([f"{i:032x}" for i in range(20_000)])
    u = uniform_hash(keys, "salt")
    assert ((u >= 0) & (u < 1)).all()
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square 19, p = 0.001
    assert uniform_hash(keys[:2], "salt").tolist() == u[:2].tolist()
    assert u[0] == 0.9537862147001448  # a change would redraw every sample


def test_bootstrap_has_the_standard_error_of_the_theory() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(4000, 2)) * [1, 3]
    resamples = customer_bootstrap(values, pd.Series(np.arange(4000)), seed=1)
    assert resamples.shape == (1000, 2)
    assert resamples.std(axis=0) == pytest.approx(np.array([1, 3]) / 4000**0.5, rel=0.08)
    assert resamples.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.01)


def test_bootstrap_by_customer_is_wider_where_rows_cling() -> None:
    random = np.random.default_rng(0)
    values = np.repeat(random.normal(size=1000), 4)
    clustered = customer_bootstrap(values, pd.Series(np.repeat(np.arange(1000), 4)), seed=1)
    independent = customer_bootstrap(values, pd.Series(np.arange(4000)), seed=1)
    assert clustered.std() / independent.std() == pytest.approx(2, rel=0.1)


def test_bootstrap_is_deterministic_and_survives_one_customer() -> None:
    values, keys = np.arange(10.0), pd.Series(list("abcdefghij"))
    one = customer_bootstrap(values, keys, seed=5)
    assert np.array_equal(one, customer_bootstrap(values, keys, seed=5))
    alone = customer_bootstrap(np.array([3.0]), pd.Series(["a"]), seed=5)
    assert (alone == 3).all()


def test_interval_says_whether_it_excludes_zero() -> None:
    assert interval(0.5, np.linspace(0.1, 0.9, 100)).excludes_zero
    assert interval(-0.5, np.linspace(-0.9, -0.1, 100)).excludes_zero
    assert not interval(0.1, np.linspace(-0.1, 0.3, 100)).excludes_zero
    assert not interval(0.0, np.zeros(10)).excludes_zero
    assert str(interval(0.5, np.full(9, 0.5))) == "+0.5000 [+0.5000, +0.5000]"

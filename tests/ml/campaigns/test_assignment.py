"""The hash against golden vectors and statistics; the ledger against everything that may change."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import uuid
from datetime import date, timedelta

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small_shop import DAY, campaign, keys, make_shop

from ml.campaigns.assignment import (
    LEDGER_COLUMNS,
    assign,
    empty_ledger,
    holdout_key,
    in_global_holdout,
    is_closed,
    randomise,
    uniform_sql,
    uniforms,
)
from ml.campaigns.cohorts import build_cohort

GOLDEN = {
    ("camp_2025_01", "cust_000001"): 0.09965274700675986,
    ("camp_2025_01", "cust_000002"): 0.459998654130073,
    ("camp_2025_02", "cust_000001"): 0.6766371677760389,
    ("__holdout__", "cust_000001"): 0.04107588946852503,
}


def _fnv1a(text: str) -> int:
    value = 0x811C9DC5
    for character in text:
        value = ((value ^ ord(character)) * 0x01000193) % 2**32
    return value


def test_golden_vectors() -> None:
    for (key, unit), expected in GOLDEN.items():
        assert uniforms(key, [unit])[0] == expected


def test_the_hash_is_the_same_in_sql_and_in_another_process() -> None:
    for (key, unit), expected in GOLDEN.items():
        query = f"select {uniform_sql(key, 'unit')} from (select ? as unit)"
        assert duckdb.execute(query, [unit]).fetchall()[0][0] == expected
    units = pd.DataFrame({"unit": [*keys(2_000), "kunde@beispiel.test", "客户-1-ü", "it's"]})
    for key in ("camp", "it's", holdout_key(DAY), "camp:coverage"):
        found = duckdb.sql(f"select {uniform_sql(key, 'unit')} as u from units").df()["u"]
        assert (found == uniforms(key, units["unit"])).all()
    script = (
        "from ml.campaigns.assignment import uniforms; print(repr(float(uniforms('k', ['u'])[0])))"
    )
    for seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert float(run.stdout) == uniforms("k", ["u"])[0]


@pytest.mark.parametrize(("key", "unit"), [("a\x1fb", "c"), ("a", "b\x1fc")])
def test_the_separator_is_refused_in_keys(key: str, unit: str) -> None:
    with pytest.raises(ValueError, match="separator"):
        uniforms(key, [unit])
    if "\x1f" in key:
        with pytest.raises(ValueError, match="separator"):
            uniform_sql(key, "unit")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_two_pairs_of_keys_are_never_one(a: str, b: str, c: str, d: str) -> None:
    if (
        "\x1f" in a + b + c + d
        or (a, b) == (c, d)
        or any("\ud800" <= x <= "\udfff" for x in a + b + c + d)
    ):
        return
    assert uniforms(a, [b])[0] != uniforms(c, [d])[0]


@pytest.mark.parametrize(
    "shape", ["cust_{:07d}", "{:d}", "kunde{:d}@beispiel.test", "客户-{:d}-ü", "uuid"]
)
def test_draws_are_uniform_for_every_shape_of_key(shape: str) -> None:
    n = 50_000
    units = [
        str(uuid.UUID(int=i * 2**64 + 7)) if shape == "uuid" else shape.format(i) for i in range(n)
    ]
    counts = np.bincount((uniforms("camp", units) * 100).astype(int), minlength=100)
    assert stats.chisquare(counts).pvalue > 0.001


def test_thirty_campaigns_holdout_and_layer_are_independent() -> None:
    units = [f"cust_{i:07d}" for i in range(5_000)]
    names = [f"camp_2025_01_{day:02d}" for day in range(1, 31)]
    names += [holdout_key(DAY), "__layer__:default", "camp_2025_01_01:coverage"]
    upper = {name: uniforms(name, units) >= 0.5 for name in names}
    p_values = [_independence(upper[a], upper[b]) for a, b in itertools.combinations(names, 2)]
    # The exact 99.9 % bound of a binomial with 1 % over all pairs.
    assert (np.array(p_values) < 0.01).sum() <= stats.binom.ppf(0.999, len(p_values), 0.01)


def test_the_independence_test_sees_a_hash_that_is_not() -> None:
    units = [f"cust_{i:07d}" for i in range(5_000)]
    names = [f"camp-2025-01-{day:02d}" for day in range(1, 9)]
    upper = {n: np.array([(_fnv1a(u + n) % 1000) >= 500 for u in units]) for n in names}
    p_values = [_independence(upper[a], upper[b]) for a, b in itertools.combinations(names, 2)]
    assert (np.array(p_values) < 0.01).sum() > stats.binom.ppf(0.999, len(p_values), 0.01)


def _independence(a: np.ndarray, b: np.ndarray) -> float:
    table = np.array([[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]])
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def test_the_holdout_is_constant_within_a_quarter_and_new_in_the_next() -> None:
    customers = keys(2_000)
    first = in_global_holdout(customers, date(2025, 4, 1), 0.1)
    assert (first == in_global_holdout(customers, date(2025, 6, 30), 0.1)).all()
    after = in_global_holdout(customers, date(2025, 7, 1), 0.1)
    assert (first != after).any()
    assert (first & after).mean() == pytest.approx(0.01, abs=0.008)
    wider = in_global_holdout(customers, date(2025, 4, 1), 0.2)
    assert (first <= wider).all(), "a larger holdout contains the smaller"


def test_no_held_out_customer_is_in_any_campaign() -> None:
    customers = keys(3_000)
    held = {
        key
        for key, out in zip(customers, in_global_holdout(customers, DAY, 0.05), strict=True)
        if out
    }
    for name in ("one", "two", "three"):
        ledger = assign(campaign(id=name), customers, DAY, empty_ledger())
        assert held.isdisjoint(ledger["customer_key"])
        assert len(ledger) == len(customers) - len(held)


def test_ledger_rows_say_how_they_came_about() -> None:
    definition = campaign()
    ledger = assign(definition, keys(4_000), DAY, empty_ledger())
    assert list(ledger.columns) == LEDGER_COLUMNS
    assert ledger["customer_key"].is_monotonic_increasing
    assert ledger["customer_key"].is_unique
    assert (ledger["propensity"] == 0.5).all()
    assert set(ledger["weights_json"]) == {'{"control": 0.5, "reminder": 0.5}'}
    assert set(ledger["config_sha256"]) == {definition.config_sha256}
    assert ((ledger["u_arm"] < 0.5) == (ledger["arm"] == "control")).all()
    assert (ledger["u_holdout"] >= definition.global_holdout).all()
    assert (ledger["is_control"] == (ledger["arm"] == "control")).all()
    assert set(ledger["window_end_date"]) == {DAY + timedelta(days=30)}
    assert set(ledger["layer"]) == {"default"}
    assert set(ledger["value_tier"]) == {"unknown"}, "no strata were given"
    counts = ledger["arm"].value_counts()
    assert stats.chisquare(counts.to_numpy()).pvalue > 0.001


def test_layers_share_no_customer_when_their_shares_do_not_overlap() -> None:
    shares = [
        {"name": "crm", "start": 0.0, "stop": 0.5},
        {"name": "crm", "start": 0.5, "stop": 1.0},
    ]
    customers = keys(1_000)
    a, b = (
        set(
            assign(campaign(id=f"c{i}", layer=layer), customers, DAY, empty_ledger())[
                "customer_key"
            ]
        )
        for i, layer in enumerate(shares)
    )
    assert a
    assert b
    assert a.isdisjoint(b)


def test_raising_the_coverage_never_moves_an_included_customer() -> None:
    customers, before = keys(2_000), None
    for coverage in (0.1, 0.5, 1.0):
        drawn = randomise(campaign(coverage=coverage), customers, DAY)
        arms = drawn.dropna(subset="arm").set_index("customer_key")["arm"]
        if before is not None:
            assert arms.reindex(before.index).equals(before)
        before = arms
    assert before is not None
    assert len(before) > 1_800


def test_a_closed_day_assigns_nobody() -> None:
    definition = campaign()
    ledger = assign(definition, keys(100), DAY, empty_ledger())
    assert is_closed(definition, DAY, ledger)
    assert assign(definition, keys(500), DAY, ledger).empty, "late customers stay out"
    assert assign(definition, keys(100), DAY, empty_ledger(), closed=True).empty
    assert assign(definition, keys(100), DAY + timedelta(days=1), empty_ledger()).empty
    assert not is_closed(campaign(id="another"), DAY, ledger)


def test_a_day_before_an_assigned_one_is_closed() -> None:
    definition = campaign(end_date=DAY + timedelta(days=5))
    later = assign(definition, keys(100), DAY + timedelta(days=3), empty_ledger())
    assert assign(definition, keys(200), DAY, later).empty


def test_enrolment_over_several_days_adds_only_the_new() -> None:
    definition = campaign(end_date=DAY + timedelta(days=5))
    first = assign(definition, keys(100), DAY, empty_ledger())
    second = assign(definition, keys(300), DAY + timedelta(days=1), first)
    assert set(first["customer_key"]).isdisjoint(second["customer_key"])
    both = pd.concat([first, second])
    whole = assign(definition, keys(300), DAY, empty_ledger())
    assert (
        both.set_index("customer_key")["arm"]
        .sort_index()
        .equals(whole.set_index("customer_key")["arm"])
    ), "the arm does not depend on the day of enrolment"


@settings(max_examples=30, deadline=None)
@given(st.permutations(list(range(40))), st.integers(0, 40))
def test_order_and_company_do_not_matter(order: list[int], cut: int) -> None:
    customers = keys(40)
    whole = randomise(campaign(), customers, DAY).set_index("customer_key")
    some = [customers[i] for i in order[:cut]]
    part = randomise(campaign(), some, DAY).set_index("customer_key")
    assert part.equals(whole.loc[sorted(some)])


def test_a_new_version_is_a_new_randomisation() -> None:
    customers = keys(2_000)
    first = assign(campaign(), customers, DAY, empty_ledger())
    again = campaign(version=2)
    second = assign(again, customers, DAY, first)
    assert set(second["campaign_id"]) == {"winback_1_v2"}
    assert set(second["campaign_version"]) == {2}
    arms = first.merge(second, on="customer_key")
    assert len(arms) == len(first) == len(second), "of the first version nobody is moved"
    assert (
        _independence(
            (arms["arm_x"] == "control").to_numpy(), (arms["arm_y"] == "control").to_numpy()
        )
        > 0.001
    )


def test_nobody_is_in_two_campaigns_of_one_layer_whatever_the_order() -> None:
    shop = make_shop(300)
    names = ["c", "a", "b"]
    ledger, taken = empty_ledger(), []
    for name in names:
        new, _ = build_cohort(campaign(id=name, coverage=0.4), *shop.frames, ledger, DAY)
        ledger = pd.concat([ledger, new], ignore_index=True)
        taken.append(set(new["customer_key"]))
    # `c` drew first, but yields to the smaller id on a rerun; so the smaller does not see it.
    assert taken[1].isdisjoint(taken[2])
    in_order = empty_ledger()
    for name in sorted(names):
        new, _ = build_cohort(campaign(id=name, coverage=0.4), *shop.frames, in_order, DAY)
        in_order = pd.concat([in_order, new], ignore_index=True)
    assert in_order["customer_key"].is_unique


def test_arms_follow_their_weights_and_have_edges_half_open() -> None:
    arms = [
        {"name": "control", "weight": 0.2, "play": "none"},
        {"name": "a", "weight": 0.3, "play": "reminder"},
        {"name": "b", "weight": 0.5, "play": "coupon"},
    ]
    drawn = randomise(campaign(arms=arms, global_holdout=0.0), keys(20_000), DAY)
    assert drawn["arm"].notna().all()
    expected = np.select([drawn["u_arm"] < 0.2, drawn["u_arm"] < 0.5], ["control", "a"], "b")
    assert (drawn["arm"] == expected).all()

"""Slices and fairness: every customer is in one group of each, small ones are marked."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from ml.slices import OTHER, SMALLEST_SLICE, age_band, fairness, slice_table, slices

DAY = date(2025, 6, 30)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    random = np.random.default_rng(2)
    n = 1200
    return pd.DataFrame(
        {
            "snapshot_date": DAY,
            "customer_key": [f"{i:05}" for i in range(n)],
            "days_since_first_order": random.integers(0, 700, n),
            "revenue_amount_365d": np.where(np.arange(n) < 300, 0.0, random.gamma(2, 50, n)),
            "was_contacted": np.arange(n) % 4 == 0,
            "account_type": np.where(np.arange(n) % 20 == 0, None, "consumer"),
            "is_churned": (random.random(n) < 0.4).astype(int),
            "p": random.random(n),
        }
    )


def test_every_row_is_in_one_group_of_each_slice(rows: pd.DataFrame) -> None:
    found = slices(rows)
    assert list(found) == ["tenure", "value_tier", "contact", "account_type"]
    assert all(values.notna().all() and len(values) == len(rows) for values in found.values())
    assert set(found["account_type"]) == {"consumer", "unknown"}
    tied = found["value_tier"][rows["revenue_amount_365d"] == 0]
    assert tied.nunique() == 1  # equal customers are never parted
    table = slice_table(rows, found, "p")
    sizes = table.groupby("slice")["row_count"].sum()
    assert (sizes == len(rows)).all()
    gated = table.set_index(["slice", "value"])["is_gated"]
    assert not gated["account_type", "unknown"]  # 60 customers
    assert gated["account_type", "consumer"]
    assert (table["is_gated"] == (table["customer_count"] >= SMALLEST_SLICE)).all()


def test_age_bands_cover_every_age() -> None:
    births = pd.Series([2025, 2008, 2007, 2000, 1990, 1960, 1925, None, 1700, "x"])
    assert age_band(births, pd.Series(2025, births.index)).tolist() == [
        "under 18", "under 18", "18-24", "25-34", "35-44", "65 and over", "65 and over",
        "unknown", "unknown", "unknown",
    ]  # fmt: skip


def test_a_group_that_is_scored_unlike_its_outcomes_shows(rows: pd.DataFrame) -> None:
    gender = np.where(np.arange(len(rows)) % 2 == 0, "f", "m")
    known = rows.assign(gender=gender, is_reachable=gender == "m")
    known["p"] = np.where(gender == "f", 0.7, 0.4)
    table, told = fairness(known, "p")
    by = table.set_index(["slice", "value"])
    assert by.loc[("gender", "f"), "calibration_bias"] > 0.25
    assert abs(by.loc[("gender", "m"), "calibration_bias"]) < 0.05
    assert by.loc[("gender", "f"), "high_risk_share"] == 1
    assert by.loc[("gender", "f"), "reachable_share"] == 0
    assert by.loc[("gender", "m"), "reachable_share"] == 1
    assert by["is_gated"].all()
    assert "no features of the model" in told
    assert "Not known here, so not compared: age_band, country." in told
    _, used = fairness(known, "p", ("gender_f",))
    assert "The model uses gender as features, switched on by the shop." in used


def test_age_is_that_of_the_snapshot(rows: pd.DataFrame) -> None:
    known = rows.assign(birth_year=1991)
    later = known.assign(snapshot_date=date(2026, 6, 30))
    table, _ = fairness(pd.concat([known, later], ignore_index=True), "p")
    assert table[["slice", "value"]].to_numpy().tolist() == [
        ["age_band", "25-34"],  # 34 in 2025, 35 in 2026
        ["age_band", "35-44"],
    ]
    assert table["row_count"].tolist() == [len(rows), len(rows)]


def test_a_handful_of_customers_has_no_row_of_its_own(rows: pd.DataFrame) -> None:
    country = np.array(["DE"] * len(rows), dtype=object)
    country[:9], country[9:16], country[16:30] = "FR", "PL", "AT"
    table, _ = fairness(rows.assign(country=country), "p")
    assert dict(zip(table["value"], table["customer_count"], strict=True)) == {
        "DE": len(rows) - 30,
        OTHER: 16,  # nine and seven
        "AT": 14,
    }
    country[9:16] = "DE"  # nine are left that would be by themselves
    table, _ = fairness(rows.assign(country=country), "p")
    assert set(table["value"]) == {"DE", "AT"}


def test_without_attributes_it_says_so(rows: pd.DataFrame) -> None:
    table, told = fairness(rows, "p")
    assert table.empty
    assert "gender, age_band, country" in told
    table, told = fairness(rows.assign(gender=None), "p")
    assert table.empty
    assert "gender, age_band, country" in told

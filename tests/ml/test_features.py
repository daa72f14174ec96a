"""The feature contract refuses what a model must not see, and names the column."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.features import (
    AGE,
    FEATURES,
    INPUTS,
    NULLABLE,
    RFM_FEATURES,
    FeatureError,
    feature_matrix,
    protected_features,
    protected_in,
)


def _frame(n: int = 3) -> pd.DataFrame:
    return pd.DataFrame({name: np.arange(n, dtype="float64") for name in FEATURES})


def test_names_are_unique_and_consistent() -> None:
    assert len(set(FEATURES)) == len(FEATURES) == 84
    assert {*FEATURES, AGE} > NULLABLE
    assert set(RFM_FEATURES) <= set(FEATURES) - NULLABLE


def test_no_context_column_or_protected_attribute_is_a_feature() -> None:
    forbidden = (
        "customer_key",
        "snapshot",
        "account",
        "gender",
        "birth",
        "age_",
        "country",
        "name",
    )
    assert not [f for f in INPUTS if f.startswith(forbidden)]
    assert protected_in(INPUTS) == ()


def _people(n: int = 900) -> pd.DataFrame:
    """900 customers: a third women, a third men, of a third it is not known; most are German."""
    return pd.DataFrame(
        {
            "customer_key": [f"{i:032x}" for i in range(n)],
            "snapshot_date": date(2025, 6, 30),
            "gender": np.resize(np.array(["f", "m", None], dtype=object), n),
            "birth_year": np.resize(np.array([1990, None], dtype=object), n),
            "country": np.where(np.arange(n) < 20, "AT", np.where(np.arange(n) < 400, "FR", "DE")),
        }
    )


def test_protected_attributes_become_features_only_where_they_are_switched_on() -> None:
    people = _people()
    assert protected_features(people, ()) == ()
    names = protected_features(people, ("country", "age", "gender"))
    # AT: 20 are too few; without a flag for FR, too, no flag would be these 20
    assert names == ("gender_f", "gender_m", "age_years", "country_DE")
    assert protected_in(names) == ("gender", "age", "country")
    found = feature_matrix(people, names)
    assert found.iloc[0].tolist() == [1, 0, 35, 0]
    assert found.iloc[400].tolist() == [0, 1, 35, 1]
    assert found.iloc[401].fillna(-1).tolist() == [0, 0, -1, 1]  # not known: of neither, no age
    with pytest.raises(FeatureError, match="gender_f: is missing"):
        feature_matrix(people.drop(columns="gender"), names)


@pytest.mark.parametrize(
    ("groups", "flags"),
    [
        ({"DE": 1000, "FR": 5}, ()),  # a zero would be these five
        ({"DE": 1000, None: 5}, ()),
        ({"DE": 1000, "FR": 400, None: 5}, ("country_DE",)),
        ({"DE": 1000, "FR": 400, "AT": 200, None: 99}, ("country_DE",)),
        ({"DE": 1000, "FR": 400, "AT": 200, None: 100}, ("country_DE", "country_FR")),
        ({"DE": 1000, "FR": 400}, ("country_DE", "country_FR")),  # there is nobody else
        ({"DE": 299, "FR": 400, "AT": 301}, ("country_FR",)),
        ({"DE": 5, "FR": 5}, ()),
    ],
)
def test_no_flag_at_all_tells_of_a_small_group_either(
    groups: dict[str | None, int], flags: tuple[str, ...]
) -> None:
    country = np.repeat(np.array([*groups], dtype=object), [*groups.values()])
    keys = [f"{i:032x}" for i in range(len(country))]
    people = pd.DataFrame({"customer_key": keys, "country": country})
    assert protected_features(people, ("country",)) == flags
    days = pd.concat([people, people])  # a customer of many snapshots is one customer
    assert protected_features(days, ("country",)) == flags


def test_what_tells_nobody_apart_is_no_feature() -> None:
    people = _people().assign(gender=None, country="DE")
    assert protected_features(people, ("gender", "country")) == ()
    with pytest.raises(ValueError, match="religion: no protected attribute; there are gender"):
        protected_features(people, ("religion",))


def test_casts_booleans_decimals_integers_and_nullable_types() -> None:
    frame = _frame()
    frame["is_tenure_censored"] = [True, False, True]
    frame["has_last_year"] = pd.array([True, False, True], dtype="boolean")
    frame["revenue_amount_30d"] = pd.Series([Decimal("1.5000"), Decimal(2), Decimal("0.0001")])
    frame["margin_amount_365d"] = pd.Series([Decimal("-1.5000"), None, Decimal(1)])
    frame["order_count_30d"] = pd.array([1, 2, 3], dtype="Int64")
    frame["gap_mean_days"] = pd.array([1, None, 3], dtype="Int64")
    matrix = feature_matrix(frame[reversed(FEATURES)].assign(customer_key="k"))
    assert tuple(matrix.columns) == FEATURES
    assert (matrix.dtypes == "float64").all()
    assert matrix["is_tenure_censored"].tolist() == [1.0, 0.0, 1.0]
    assert matrix["has_last_year"].tolist() == [1.0, 0.0, 1.0]
    assert matrix["revenue_amount_30d"].tolist() == [1.5, 2.0, 0.0001]
    assert matrix["margin_amount_365d"].isna().tolist() == [False, True, False]
    assert matrix["gap_mean_days"].isna().tolist() == [False, True, False]


def test_arrow_decimals_are_numbers() -> None:
    pa = pytest.importorskip("pyarrow")
    frame = _frame(2)
    values = pa.array([Decimal("1.2500"), None], type=pa.decimal128(18, 4))
    frame["margin_amount_365d"] = pd.Series(pd.arrays.ArrowExtensionArray(values))
    assert feature_matrix(frame)["margin_amount_365d"].iloc[0] == 1.25


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 1e308, Decimal("Infinity")])
def test_refuses_what_is_not_finite(bad: object) -> None:
    frame = _frame().assign(gap_mean_days=pd.Series([1.0, bad, 2.0], dtype=object))
    with pytest.raises(FeatureError, match="gap_mean_days: 1 of 3 values are not finite"):
        feature_matrix(frame)


def test_refuses_missing_values_only_where_a_value_must_be() -> None:
    frame = _frame()
    frame.loc[1, "gap_mean_days"] = np.nan
    feature_matrix(frame)
    frame.loc[1, "order_count_30d"] = np.nan
    with pytest.raises(FeatureError, match="order_count_30d: 1 of 3 values are missing"):
        feature_matrix(frame)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["1", "2", "3"], "expected"),
        (pd.to_datetime(["2025-01-01"] * 3), "expected a number"),
        ([1 + 1j] * 3, "complex"),
    ],
)
def test_refuses_other_types(values: Any, told: str) -> None:
    frame = _frame().assign(order_count_30d=values)
    with pytest.raises(FeatureError, match=f"order_count_30d: .*{told}"):
        feature_matrix(frame)


def test_names_every_problem_and_no_value() -> None:
    frame = _frame().drop(columns="order_count_30d").astype({"last_rating": object})
    frame.loc[0, "last_rating"] = "someone@example.test"
    frame = pd.concat([frame, frame[["csat_mean_365d"]]], axis=1)
    with pytest.raises(FeatureError) as caught:
        feature_matrix(frame)
    for told in ("order_count_30d: is missing", "last_rating: holds str", "appears 2 times"):
        assert told in str(caught.value)
    assert "example.test" not in str(caught.value)


@settings(max_examples=20, deadline=None)
@given(st.permutations(list(FEATURES)))
def test_column_order_does_not_matter(order: list[str]) -> None:
    frame = _frame()
    pd.testing.assert_frame_equal(feature_matrix(frame[order]), feature_matrix(frame))

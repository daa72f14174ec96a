"""The model that serves: bounds, order, prospects, intervals, its file."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import skops.io
from value_world import LAST, SETTINGS, history, status

from ml.customer_value import (
    PURCHASE_WINDOWS,
    SERVED_COLUMNS,
    VALUE_WINDOWS,
    CustomerValueModel,
    combine,
    design,
    fit_bands,
    fit_purchase_model,
)
from ml.features import FeatureError
from ml.registry import TRUSTED_TYPES
from ml.value_metrics import is_covered
from ml.value_training import train_value

EXPECTED = [
    f"expected_{stem}_{days}d"
    for days in VALUE_WINDOWS
    for stem in ("order_count", "revenue_amount", "margin_amount")
]


@pytest.fixture(scope="module")
def model() -> CustomerValueModel:
    return train_value(history(), LAST, 7, settings=SETTINGS).model


@pytest.fixture(scope="module")
def today() -> pd.DataFrame:
    return status(LAST)[list(SERVED_COLUMNS)]


@pytest.fixture(scope="module")
def served(model: CustomerValueModel, today: pd.DataFrame) -> pd.DataFrame:
    return model.predict(today)


def test_everybody_has_a_row_and_prospects_no_value(
    served: pd.DataFrame, today: pd.DataFrame
) -> None:
    assert served["customer_key"].tolist() == sorted(today["customer_key"])
    is_prospect = (today["lifecycle"] == "prospect").to_numpy()
    assert 10 < is_prospect.sum() < len(today) / 2
    assert served.loc[is_prospect, EXPECTED].isna().all().all()
    assert served.loc[~is_prospect, EXPECTED].notna().all().all()
    # prospects of this shop buy within 60 days: nobody would know from their history
    assert served.loc[is_prospect, "purchase_probability_30d"].between(0.1, 0.9).all()
    assert (served["main_category_probability_7d"].isna() == today["main_category"].isna()).all()


def test_longer_windows_hold_more_and_intervals_have_an_order(served: pd.DataFrame) -> None:
    buyers = served[served["expected_order_count_30d"].notna()]
    for stem in ("order_count", "revenue_amount", "margin_amount"):
        for short, long in ((30, 90), (90, 365)):
            shorter, longer = (buyers[f"expected_{stem}_{days}d"] for days in (short, long))
            assert (shorter <= longer + 1e-9).all()
            for end in ("low", "high"):
                shorter, longer = (buyers[f"{stem}_{end}_{days}d"] for days in (short, long))
                assert (shorter <= longer + 1e-9).all()
        for days in VALUE_WINDOWS:
            assert (buyers[f"{stem}_low_{days}d"] <= buyers[f"{stem}_high_{days}d"]).all()
    for days in PURCHASE_WINDOWS:
        p = served[f"purchase_probability_{days}d"]
        assert p.between(0, 1).all()
        main = served[f"main_category_probability_{days}d"]
        assert (main.isna() | (main <= p)).all()
    assert (served["purchase_probability_7d"] <= served["purchase_probability_30d"]).all()


def test_neither_order_nor_company_of_rows_shows(
    model: CustomerValueModel, served: pd.DataFrame, today: pd.DataFrame
) -> None:
    again = model.predict(today.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(again, served)
    some = model.predict(today.iloc[100:120]).reset_index(drop=True)
    there = served[served["customer_key"].isin(some["customer_key"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, there, rtol=1e-9)
    assert len(model.predict(today.iloc[:0])) == 0


def test_the_model_survives_its_file(
    model: CustomerValueModel, served: pd.DataFrame, today: pd.DataFrame
) -> None:
    again = skops.io.loads(skops.io.dumps(model), trusted=list(TRUSTED_TYPES))
    pd.testing.assert_frame_equal(again.predict(today), served)


def test_unknown_margins_are_assumed(
    model: CustomerValueModel, served: pd.DataFrame, today: pd.DataFrame
) -> None:
    assert not served["is_margin_assumed"].any()
    known = served.dropna(subset=EXPECTED)
    margin = known["expected_margin_amount_90d"].to_numpy()
    assert margin == pytest.approx(0.3 * known["expected_revenue_amount_90d"].to_numpy(), abs=1e-3)
    bare = CustomerValueModel(**{**model.get_params(deep=False), "margin_rate": float("nan")})
    assumed = bare.predict(today.assign(margin_amount_365d=None, is_margin_known=False), 0.5)
    buyers = assumed["expected_order_count_30d"].notna()
    assert (assumed["is_margin_assumed"] == buyers).all()
    halves = assumed["expected_revenue_amount_90d"][buyers].to_numpy() / 2
    margin = assumed["expected_margin_amount_90d"][buyers].to_numpy()
    assert margin == pytest.approx(halves, abs=1e-3)


def test_a_customer_who_loses_money_has_intervals_in_order(
    model: CustomerValueModel, today: pd.DataFrame
) -> None:
    found = model.predict(today.assign(margin_amount_365d=-today["revenue_amount_365d"] - 1000))
    buyers = found[found["expected_order_count_30d"].notna()]
    assert (buyers["expected_margin_amount_90d"] < 0).any()
    assert (buyers["margin_amount_low_90d"] <= buyers["margin_amount_high_90d"]).all()


def test_what_breaks_the_contract_is_refused(
    model: CustomerValueModel, today: pd.DataFrame
) -> None:
    with pytest.raises(FeatureError, match="lacks event_count_30d"):
        model.predict(today.drop(columns="event_count_30d"))
    with pytest.raises(FeatureError, match=r"order_count_90d: 1 of .* missing"):
        model.predict(today.assign(order_count_90d=[np.nan, *today["order_count_90d"].iloc[1:]]))
    with pytest.raises(FeatureError, match=r"revenue_amount_30d: .* not finite"):
        model.predict(today.assign(revenue_amount_30d=np.inf))


def test_bands_cover_what_comes_later() -> None:
    random = np.random.default_rng(4)
    expected = random.gamma(0.7, 3, 8000)
    came = random.poisson(expected) * random.gamma(3, 1 / 3, 8000)
    bands = fit_bands(came[:4000], expected[:4000])
    low, high = bands.apply(expected[4000:])
    y, open_ = came[4000:], high > 0
    assert is_covered(y[open_], low[open_], high[open_]).mean() == pytest.approx(0.8, abs=0.03)
    assert (low > 0).any()  # customers who surely buy have a lower end
    assert ((low == 0) & (high > 0)).any()


def test_heavy_examples_widen_a_band() -> None:
    """Nine of ten days were calm: what happened on the tenth shows where it counts as much."""
    came = np.r_[np.linspace(0.9, 1.1, 900), np.linspace(0.0, 5.0, 100)]
    alike = fit_bands(came, np.ones(1000), n_bands=1)
    heavy = fit_bands(came, np.ones(1000), np.r_[np.ones(900), np.full(100, 9.0)], n_bands=1)
    one = np.ones(1)
    assert alike.apply(one)[1] < 1.1
    assert heavy.apply(one)[1] == pytest.approx(4.0, abs=0.1)  # 80 % of the tenth day
    # the k-th smallest of n covers a new one with probability k / (n + 1)
    assert fit_bands(np.arange(1.0, 10.0), np.ones(9)).apply(one) == (1.0, 9.0)
    assert fit_bands(np.arange(1.0, 100.0), np.ones(99)).apply(one) == (10.0, 90.0)


def test_where_most_bring_nothing_the_interval_is_nothing() -> None:
    bands = fit_bands(np.r_[np.zeros(90), np.ones(10)], np.full(100, 0.1))
    assert [end.tolist() for end in bands.apply(np.array([0.1]))] == [[0.0], [0.0]]


def test_the_design_knows_prospects(today: pd.DataFrame) -> None:
    buyers = today[today["days_since_first_order"].notna()]
    matrix = design(today, fit_purchase_model(buyers))
    is_prospect = today["days_since_first_order"].isna()
    assert (matrix["alive_probability"].isna() == is_prospect).all()
    assert (matrix["order_count_30d"].notna()).all()
    with pytest.raises(ValueError, match="unknown recipe 'guess'"):
        combine("guess", np.ones(1), np.ones(1))

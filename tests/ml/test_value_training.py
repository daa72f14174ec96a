"""The training of value: honest in time, better than nothing, refusing where it must."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from functools import cache

import numpy as np
import pandas as pd
import pytest
from value_world import FIRST, LAST, SETTINGS, history, orders, status

from ml.customer_value import SERVED_COLUMNS, nested
from ml.training import TrainingSkipped
from ml.validation import Interval
from ml.value_training import (
    PURCHASE_RECIPES,
    VALUE_RECIPES,
    ValueChampion,
    ValueResult,
    _decide,
    _Found,
    bands_for,
    choose_days,
    coverages,
    days_needed,
    held_out,
    outcomes,
    season_weights,
    train_value,
)


@pytest.fixture(scope="module")
def result() -> ValueResult:
    return _fitted(LAST)


@cache
def _fitted(as_of: date) -> ValueResult:
    return train_value(history(), as_of, 7, settings=SETTINGS)


def _champion(found: ValueResult, **changes: object) -> ValueChampion:
    serves = ValueChampion(
        3, found.recipe, found.purchase_recipes, found.last_matured_date, found.model
    )
    return replace(serves, **changes)  # type: ignore[arg-type]


def test_outcomes_are_what_was_bought(result: ValueResult) -> None:
    day, window = date(2025, 4, 1), 30
    before, after = status(day), status(day + timedelta(days=window))
    found = outcomes(before, after, window).set_index(before["customer_key"])
    now = (day - FIRST).days
    bought = orders()
    later = bought[(bought["day"] > now) & (bought["day"] <= now + window)]
    for key, row in found.iterrows():
        own = later[later["customer_key"] == key]
        assert row["bought"] == (len(own) > 0)
        assert row["order_count"] == len(own)
        assert row["revenue_amount"] == pytest.approx(own["amount"].sum())
        main = before.set_index("customer_key").loc[key, "main_category"]
        if isinstance(main, str):
            assert row["bought_main_category"] == (main in set(own["category"]))
        else:
            assert np.isnan(row["bought_main_category"])
    gone = outcomes(before, after.iloc[1:], window)
    assert gone.iloc[0].isna().all()


def test_days_needed_hold_every_outcome() -> None:
    days = days_needed(LAST, FIRST)
    assert days == sorted(set(days))
    assert days[0] >= FIRST
    assert days[-1] == LAST
    for window, least in ((7, 15), (30, 15), (90, 12), (365, 2)):
        assert sum(day + timedelta(days=window) in days for day in days) >= least
    every = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
    assert choose_days(every, LAST) == days
    assert choose_days(every, LAST - timedelta(days=1))[-1] == LAST - timedelta(days=1)
    assert choose_days([], LAST) == []


def test_the_comparison_is_measured_out_of_time(result: ValueResult) -> None:
    assert result.is_compared
    assert result.recipe in VALUE_RECIPES
    assert set(result.purchase_recipes) == {"7", "30"}
    for name, days in result.origins.items():
        window = int(name.split("_")[1].removesuffix("d"))
        assert all(day + timedelta(days=window) <= LAST for day in days)
    for window in (7, 30):
        losses = [result.metrics[f"purchase_{window}d_log_loss_{r}"] for r in PURCHASE_RECIPES]
        assert result.metrics[f"purchase_{window}d_log_loss_recency_rule"] > min(losses)
        assert result.intervals[f"purchase_{window}d_log_loss_minus_no_skill"].high < 0
        assert result.metrics[f"purchase_{window}d_main_category_roc_auc"] > 0.6
    for window in (30, 90, 365):
        assert result.metrics[f"value_{window}d_gini_{result.recipe}"] > 0.4
        assert abs(result.metrics[f"value_{window}d_bias_{result.recipe}"]) < 0.3
    for measure in ("orders", "revenue"):
        assert 0.75 < result.metrics[f"value_30d_{measure}_coverage_attainable"] < 0.85
    assert result.intervals["frequency_spend_rank_correlation"].low < 0.1
    assert result.model.tested_windows == (30, 90, 365)
    assert set(result.deciles) == {30, 90, 365}


def test_nothing_after_the_day_has_any_influence() -> None:
    as_of = LAST - timedelta(days=60)
    days = days_needed(as_of, FIRST + timedelta(days=90))
    known = pd.concat([status(day) for day in days], ignore_index=True)
    later = status(LAST).assign(revenue_amount_lifetime=1e9, order_count_90d=99)
    one = train_value(known, as_of, 7, settings=SETTINGS)
    other = train_value(pd.concat([later, known]), as_of, 7, settings=SETTINGS)
    today = status(as_of)[list(SERVED_COLUMNS)]
    pd.testing.assert_frame_equal(one.model.predict(today), other.model.predict(today))
    assert one.data_digest == other.data_digest
    assert one.last_matured_date == as_of


def test_the_same_data_gives_the_same_model(result: ValueResult) -> None:
    again = train_value(history().sample(frac=1, random_state=2), LAST, 7, settings=SETTINGS)
    today = status(LAST)
    pd.testing.assert_frame_equal(again.model.predict(today), result.model.predict(today))
    assert again.metrics == result.metrics
    assert again.data_digest == result.data_digest


# -- refusals --------------------------------------------------------------------------------------


def test_without_outcomes_the_histories_serve_and_say_so() -> None:
    only = status(LAST)
    found = train_value(only, LAST, 7, settings=SETTINGS)
    assert not found.is_compared
    assert found.recipe == "buy_till_you_die"
    assert "leave no test day" in found.reason
    served = found.model.predict(only)
    is_prospect = (only["lifecycle"] == "prospect").to_numpy()
    assert served.loc[is_prospect, "purchase_probability_30d"].isna().all()
    assert served.loc[~is_prospect, "expected_revenue_amount_365d"].notna().all()
    assert served["revenue_amount_low_90d"].isna().all()  # no outcome, no interval
    assert found.model.tested_windows == ()


def test_what_serves_stays_where_nothing_can_be_compared() -> None:
    with pytest.raises(TrainingSkipped, match=r"leave no test day .*; what serves stays"):
        train_value(status(LAST), LAST, 7, champion=_champion(_fitted(LAST)), settings=SETTINGS)


def test_too_few_repeat_buyers_are_refused() -> None:
    few = status(LAST).iloc[:20]
    with pytest.raises(TrainingSkipped, match=r"\d+ of \d+ buyers as of .* two days, at least 20"):
        train_value(few, LAST, 7, settings=SETTINGS)
    with pytest.raises(TrainingSkipped, match="no customer_status is published by 2020-01-01"):
        train_value(few, date(2020, 1, 1), 7, settings=SETTINGS)


def test_days_published_before_the_columns_were_teach_nothing() -> None:
    old = history().assign(days_since_first_order=np.nan)
    with pytest.raises(TrainingSkipped, match="no customer_status"):
        train_value(old, LAST, 7, settings=SETTINGS)


def _shuffled(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """What is known of one customer is told of another, day by day."""
    random = np.random.default_rng(0)
    parts = []
    for _, rows in frame.groupby("snapshot_date", sort=True):
        order = random.permutation(len(rows))
        parts.append(rows.assign(**{c: rows[c].to_numpy()[order] for c in columns}))
    return pd.concat(parts, ignore_index=True)


def test_a_model_of_noise_is_refused() -> None:
    """Customers are told apart by nothing that comes true: no recipe beats the base rate."""
    everything = [c for c in history().columns if c not in ("snapshot_date", "customer_key")]
    with pytest.raises(TrainingSkipped, match="not better than the base rate beyond doubt"):
        train_value(_shuffled(history(), everything), LAST, 7, settings=SETTINGS)


def test_a_value_of_noise_is_refused() -> None:
    money = [f"{stem}_{w}d" for stem in ("order_count", "revenue_amount") for w in (30, 90, 365)]
    money += ["order_count_lifetime", "revenue_amount_lifetime", "gap_mean_days"]
    noise = _shuffled(history(), money)
    # whose gaps are another's: keep the histories possible
    gaps = noise["gap_mean_days"].fillna(0) > noise["days_since_first_order"]
    noise = noise.assign(gap_mean_days=noise["gap_mean_days"].mask(gaps))
    with pytest.raises(TrainingSkipped, match="better than the mean of all beyond doubt"):
        train_value(noise, LAST, 7, settings=SETTINGS)


def _level_of(day: date) -> float:
    """What comes of an expectation: twice in autumn what comes in spring."""
    return float(2.0 ** (0.5 + 0.5 * np.sin(2 * np.pi * (day.month - 7) / 12)))


def _seasons(days: list[date], customers: int = 1500) -> pd.DataFrame:
    random = np.random.default_rng(3)
    parts = []
    for day in days:
        expected = random.gamma(2, 10, customers)
        parts.append(
            pd.DataFrame(
                {
                    "snapshot_date": day,
                    "customer_key": [f"{i:04}" for i in range(customers)],
                    "value_tier": np.repeat(["low", "middle", "high"], customers // 3),
                    "revenue_average": expected,
                    "revenue": expected * _level_of(day) * random.gamma(2, 0.5, customers),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def test_intervals_of_another_season_are_too_narrow_and_are_widened() -> None:
    """Learnt from spring alone they miss autumn; a year and its season put that right."""
    year = [date(2024, month, 1) for month in range(7, 13)]
    spring = [date(2025, month, 1) for month in range(1, 7)]
    day = date(2025, 10, 1)
    block = _seasons([*year, *spring, day])
    late = block[block["snapshot_date"] >= spring[0]]
    narrow = held_out({90: late}, "revenue", "average", 90, [day])
    wide = held_out({90: block}, "revenue", "average", 90, [day])
    assert narrow["is_covered"].mean() < 0.7
    assert 0.75 < wide["is_covered"].mean() < 0.85
    # and in spring, whose level is half of it, they are not as wide
    ends = [
        bands_for(block, "revenue", "average", d).apply(np.ones(1))[1] for d in (day, spring[2])
    ]
    assert ends[0] > 1.4 * ends[1]


def test_a_day_counts_by_its_season_in_any_year() -> None:
    days = pd.Series([date(2024, 9, 10), date(2023, 9, 10), date(2025, 3, 10), date(2024, 12, 20)])
    weights = season_weights(days, date(2025, 9, 10))
    assert weights[:2] == pytest.approx([1.1, 1.1], abs=1e-3)
    assert weights[2:] == pytest.approx([0.1, 0.1], abs=1e-2)


def test_coverage_is_of_days_that_had_not_been_seen() -> None:
    days = [date(2025, 1, 1), date(2025, 2, 1), date(2025, 4, 15)]
    block = _seasons(days).assign(value_tier="high")
    random = np.random.default_rng(4)
    block["revenue"] = block["revenue_average"] * random.gamma(2, 0.5, len(block))
    held = held_out({30: block}, "revenue", "average", 30, days)
    assert sorted(set(held["snapshot_date"])) == days[1:]  # nothing was known on the first
    found = coverages(held, 30, "revenue", n_resamples=50, seed=7)
    assert found["tier"].tolist() == ["all", "high"]
    whole = found.iloc[0]
    assert whole["coverage"] == pytest.approx(0.8, abs=0.03)
    assert whole["coverage_low"] < whole["coverage"] < whole["coverage_high"]
    assert whole["attainable_share"] == 1
    assert whole["coverage_attainable"] == whole["coverage"]
    # over 90 days only the last day has one before it whose outcome was known
    doubled = block.assign(revenue=np.where(block["snapshot_date"] == days[2], 1e9, 0.0))
    held = held_out({90: doubled}, "revenue", "average", 90, days)
    assert not held["is_covered"].any()
    none_open = coverages(held, 90, "revenue", n_resamples=50, seed=7).iloc[0]
    assert none_open["attainable_share"] == 0  # nothing came of the first days: all [0, 0]
    assert np.isnan(none_open["coverage_attainable"])
    assert held_out({90: block}, "revenue", "average", 90, days[:1]).empty


def test_coverage_is_of_intervals_as_they_serve() -> None:
    """No end lies below that of a shorter window, when it serves and when it is measured."""
    days = [date(2025, 1, 1), date(2025, 2, 1), date(2025, 5, 1)]
    parts = [
        pd.DataFrame(
            {
                "snapshot_date": day,
                "customer_key": [f"{i:04}" for i in range(60)],
                "value_tier": "high",
                "revenue_average": 10.0,
            }
        )
        for day in days
    ]
    block = pd.concat(parts, ignore_index=True)
    # of thirty days 20 came, of ninety 12 at first (that was before) and now 20
    short = block.assign(revenue=20.0)
    long = block.assign(revenue=np.where(block["snapshot_date"] == days[-1], 20.0, 12.0))
    alone = held_out({90: long}, "revenue", "average", 90, days)
    assert not alone["is_covered"].any()  # [12, 12]
    both = held_out({30: short, 90: long}, "revenue", "average", 90, days)
    assert both["is_covered"].all()  # [20, 20], as in service
    bands = {w: bands_for(b, "revenue", "average", days[-1]) for w, b in ((30, short), (90, long))}
    _, low, high = nested(dict.fromkeys(bands, np.full(1, 10.0)), bands)[90]
    assert low.item() == pytest.approx(20)
    assert high.item() == pytest.approx(20)
    # where nothing was expected of thirty days on that day, or of that customer, its own remains
    other = short[short["snapshot_date"] < days[-1]]
    assert held_out({30: other, 90: long}, "revenue", "average", 90, days).equals(alone)
    some = short[(short["snapshot_date"] < days[-1]) | (short["customer_key"] < "0030")]
    held = held_out({30: some, 90: long}, "revenue", "average", 90, days)
    assert (held["is_covered"] == (held["customer_key"] < "0030")).all()


def test_the_first_model_of_value_serves(result: ValueResult) -> None:
    assert result.promote
    assert result.spent_alpha is None
    assert result.reason.startswith(f"first champion: {result.recipe} expects revenue best")


def test_the_same_recipe_is_refreshed_by_newer_outcomes(result: ValueResult) -> None:
    young = _champion(result, last_matured_date=LAST - timedelta(days=1))  # its recipe stands in
    found = train_value(history(), LAST, 7, champion=young, settings=SETTINGS)
    assert found.promote
    assert found.reason.startswith(
        f"{result.recipe} refreshes champion version 3 ({result.recipe}). Deviance of the refitted "
        f"{result.recipe} minus the champion's: +0.0000 [+0.0000, +0.0000]"
    )
    assert found.spent_alpha is None  # no new recipe was tested
    assert found.intervals["purchase_30d_log_loss_minus_champion"].estimate == 0
    old = _champion(result, last_matured_date=FIRST)  # as it stands, however it came to be
    found = train_value(history(), LAST, 7, champion=old, settings=SETTINGS)
    assert "minus the champion's: +0.0000 [" not in found.reason
    assert found.intervals["purchase_30d_log_loss_minus_champion"].estimate != 0
    again = train_value(history(), LAST, 7, champion=_champion(result), settings=SETTINGS)
    assert not again.promote
    assert "nothing has matured since it was fitted" in again.reason


BLOCK_DAYS = date(2025, 1, 1), date(2025, 3, 1)


def _block(champion: np.ndarray | None = None, **expected: np.ndarray) -> pd.DataFrame:
    """Revenue of 400 customers on two days, and what each recipe expected of it."""
    random = np.random.default_rng(3)
    level = random.gamma(2.0, 30.0, 800)
    block = pd.DataFrame(
        {
            "snapshot_date": np.repeat(np.array(BLOCK_DAYS, dtype=object), 400),
            "customer_key": [f"{i % 400:03}" for i in range(800)],
            "revenue": level * random.gamma(5.0, 0.2, 800),
        }
    )
    for name in VALUE_RECIPES:
        block[f"revenue_{name}"] = expected.get(name, np.full(800, 60.0))
    block["revenue_champion"] = level if champion is None else champion
    return block


def _decided(block: pd.DataFrame, best: str, recipe: str, found: _Found | None = None) -> _Found:
    found = found or _Found()
    model = _fitted(LAST).model
    champion = ValueChampion(3, recipe, {}, date(2024, 12, 1), model)
    found.reason = ""
    chosen = _decide(block, best, champion, LAST, SETTINGS, 7, found)
    found.metrics["is_best"] = float(chosen == best)
    return found


def test_a_new_recipe_must_be_superior_within_the_budget() -> None:
    known = _block()["revenue_champion"].to_numpy()
    constant = np.full(800, 60.0)
    better = _decided(_block(constant, average=known), "average", "boosting")
    assert better.promote
    assert better.metrics["is_best"] == 1
    assert better.spent_alpha == pytest.approx(0.0304, abs=1e-4)
    assert "average replaces champion version 3 (boosting). Deviance of average minus" in (
        better.reason
    )
    # hardly another one: chance may have made it the best, so the champion's recipe follows it
    close = known * np.where(np.arange(800) % 2, 1.001, 0.999)
    same = _decided(_block(known, average=close, boosting=known), "average", "boosting")
    assert same.metrics["is_best"] == 0
    assert same.promote
    assert same.reason.startswith("boosting refreshes champion version 3")
    assert same.spent_alpha is not None


def test_a_refresh_of_value_that_may_be_worse_is_refused() -> None:
    known = _block()["revenue_champion"].to_numpy()
    worse = _decided(_block(known, average=known * 1.4), "average", "average")
    assert not worse.promote
    assert "its recipe on newer outcomes may lose" in worse.reason
    gone = _decided(_block(known), "average", "a_recipe_of_before")
    assert not gone.promote
    assert "no longer a candidate" in gone.reason


def test_a_model_that_expects_purchases_worse_stays_out() -> None:
    known = _block()["revenue_champion"].to_numpy()
    found = _Found(intervals={"purchase_30d_log_loss_minus_champion": Interval(0.01, 0.002, 0.02)})
    refused = _decided(_block(np.full(800, 60.0), average=known), "average", "boosting", found)
    assert not refused.promote
    assert "purchases are expected worse: purchase_30d (+0.0100" in refused.reason


def test_purchases_that_cannot_be_compared_are_refused_aloud(result: ValueResult) -> None:
    """A champion whose purchase recipe is gone, and too young to be judged, is not passed over."""
    young = LAST - timedelta(days=1)
    gone = _champion(result, last_matured_date=young, purchase_recipes={"7": "gone", "30": "gone"})
    found = train_value(history(), LAST, 7, champion=gone, settings=SETTINGS)
    assert not found.promote
    assert "purchase_7d, purchase_30d cannot be compared with what it serves" in found.reason


def test_a_champion_of_histories_alone_is_compared_by_what_it_serves(result: ValueResult) -> None:
    """It gives MBG/NBD itself to buyers and nothing to prospects: buyers decide."""
    alone = train_value(status(LAST), LAST, 7, settings=SETTINGS)
    young = _champion(alone, last_matured_date=LAST - timedelta(days=1))
    found = train_value(history(), LAST, 7, champion=young, settings=SETTINGS)
    for window in (7, 30):
        difference = found.intervals[f"purchase_{window}d_log_loss_minus_champion"]
        assert difference.low < difference.estimate < difference.high
    assert "cannot be compared" not in found.reason

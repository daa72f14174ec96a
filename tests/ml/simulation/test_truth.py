"""What the simulation says is true comes true in the tables that it delivers."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated import FIRST, campaign, moment, valid_orders
from sklearn.metrics import roc_auc_score

from ml.simulation import ShopConfig, observable_churn, simulate, true_effects, truth
from ml.simulation.behaviour import live, start
from ml.simulation.config import calendar
from ml.simulation.customers import ResponseType, customers_until
from ml.simulation.draws import Stream, derive, uniform
from ml.simulation.sales import sell

AS_OF = date(2024, 9, 30)
Frames = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def shop() -> ShopConfig:
    return ShopConfig(seed=11, n_customers=2_500, n_products=80, acquisition_days=366)


@pytest.fixture(scope="module")
def history(shop: ShopConfig) -> Frames:
    return simulate(shop, FIRST, date(2025, 1, 1))


@pytest.fixture(scope="module")
def known(shop: ShopConfig) -> pd.DataFrame:
    return truth(shop, AS_OF)


@pytest.fixture(scope="module")
def churned(shop: ShopConfig, history: Frames, known: pd.DataFrame) -> pd.Series:
    """Whether each customer of `known` placed no valid order within 90 days, by the tables."""
    begin = moment(shop, AS_OF + timedelta(days=1))
    orders = valid_orders(history)
    inside = (orders["ordered_at"] >= begin) & (
        orders["ordered_at"] < moment(shop, AS_OF + timedelta(days=91))
    )
    return ~known["customer_id"].isin(orders.loc[inside, "customer_id"])


@pytest.mark.parametrize("column", ["p_churn_full", "p_churn_observable"])
def test_probabilities_are_calibrated(known: pd.DataFrame, churned: pd.Series, column: str) -> None:
    p = known[column]
    assert p.between(0, 1).all()
    error = np.sqrt((p * (1 - p)).sum())
    assert abs(churned.sum() - p.sum()) < 3.3 * error
    rank = p.rank(method="first")
    for low in np.arange(0, 1, 0.125):
        mine = (rank > low * len(p)) & (rank <= (low + 0.125) * len(p))
        error = np.sqrt((p[mine] * (1 - p[mine])).sum()) + 1
        assert abs(churned[mine].sum() - p[mine].sum()) < 3.3 * error, (column, low)


def test_the_more_is_known_the_better_the_order(
    history: Frames, known: pd.DataFrame, churned: pd.Series
) -> None:
    orders = history["orders"]
    orders = orders[orders["ordered_at"] < pd.Timestamp(AS_OF, tz="UTC")]
    last = known["customer_id"].map(orders.groupby("customer_id")["ordered_at"].max())
    recency = -last.astype("int64")
    full = roc_auc_score(churned, known["p_churn_full"])
    observable = roc_auc_score(churned, known["p_churn_observable"])
    assert 0.86 < full < 0.95
    assert 0.74 < observable < 0.85
    assert roc_auc_score(churned, recency) < observable - 0.04
    assert 0.40 < churned.mean() < 0.60
    everybody = (history["customers"]["created_at"] < pd.Timestamp(AS_OF, tz="UTC")).sum()
    assert 0.40 < len(known) / everybody < 0.62


def test_the_population_is_the_platforms(
    shop: ShopConfig, history: Frames, known: pd.DataFrame
) -> None:
    begin, end = moment(shop, AS_OF - timedelta(days=179)), moment(shop, AS_OF + timedelta(days=1))
    orders = valid_orders(history)
    mine = orders[(orders["ordered_at"] >= begin) & (orders["ordered_at"] < end)]
    # who cancelled after the snapshot was still a customer on it
    late = history["orders"]["cancelled_at"] >= end
    assert set(mine["customer_id"]) <= set(known["customer_id"])
    extra = set(known["customer_id"]) - set(mine["customer_id"])
    items = history["order_items"]
    by_line = items.loc[items["cancelled_at"] >= end, "order_id"]
    allowed = history["orders"][late | history["orders"]["order_id"].isin(by_line)]
    assert extra <= set(allowed["customer_id"])


def test_the_dead_do_not_buy(known: pd.DataFrame, churned: pd.Series) -> None:
    dead = ~known["is_alive"]
    assert 0.05 < dead.mean() < 0.5
    assert (known.loc[dead, "p_churn_full"] == 1).all()
    assert churned[dead].all()


def test_the_observable_truth_is_made_of_what_was_delivered(
    shop: ShopConfig, known: pd.DataFrame
) -> None:
    """Row order and what nobody may know leave it alone; what was seen moves it."""
    frames = simulate(shop, FIRST, AS_OF + timedelta(days=1))
    ids = known["customer_id"].tolist()[:200]
    expected = known["p_churn_observable"].to_numpy()[:200]
    shuffled = {k: v.sample(frac=1, random_state=3) for k, v in frames.items()}
    # the draws of a customer's particles go by position, so the batch must be the same
    mine = observable_churn(shop, shuffled, AS_OF, ids)
    assert np.abs(mine - expected).max() < 0.1
    assert np.abs(mine - expected).mean() < 0.01
    silent = dict(frames)
    recent = frames["events"]["occurred_at"] >= moment(shop, AS_OF - timedelta(days=45))
    silent["events"] = frames["events"][~recent]
    assert (observable_churn(shop, silent, AS_OF, ids) - mine).mean() > 0.02


def test_more_particles_say_the_same(shop: ShopConfig, known: pd.DataFrame) -> None:
    few = known.set_index("customer_id")["p_churn_observable"].iloc[:150]
    many = truth(shop, AS_OF, customer_ids=list(few.index), n_particles=600)
    gap = many.set_index("customer_id")["p_churn_observable"].reindex(few.index) - few
    assert gap.abs().mean() < 0.02
    assert abs(gap.mean()) < 0.006


def test_full_truth_against_many_lives(shop: ShopConfig, known: pd.DataFrame) -> None:
    """The same people, 300 other futures from the same evening on."""
    day, lives = (AS_OF - FIRST).days + 1, 300
    cal = calendar(shop, day + 90)
    people = customers_until(shop, cal, day)
    state = start(shop, people)
    live(shop, cal, people, state, 0, day, sessions_from=day)
    ids = pd.Index([f"C{i:07d}" for i in people.number])
    who = np.flatnonzero(ids.isin(known["customer_id"][::10]))
    unit = np.tile(who, lives)
    luck = derive(people.key[unit], Stream.REPLICATE, np.repeat(np.arange(lives), len(who)), 1)
    futures = people.take(unit, luck)
    log = live(shop, cal, futures, state.take(unit), day, day + 90, sessions_from=day + 90)
    sales = sell(shop, cal, futures, log, welcome=False)
    bought = np.zeros(len(unit), bool)
    bought[sales.customer[sales.is_kept]] = True
    rate = 1 - bought.reshape(lives, -1).mean(axis=0)
    p = known["p_churn_full"].to_numpy()[::10]
    z = (rate - p) / np.sqrt(p * (1 - p) / lives + 1e-6)
    assert np.abs(z).max() < 4.5
    assert abs(z.mean()) * np.sqrt(len(z)) < 4


def test_browsing_thins_before_a_customer_leaves(shop: ShopConfig) -> None:
    end = 366
    cal = calendar(shop, end)
    people = customers_until(shop, cal, end)
    log = live(shop, cal, people, start(shop, people), 0, end, stages_on=tuple(range(end)))
    stages = np.stack(
        [np.pad(log.stages[d], (0, len(people) - len(log.stages[d]))) for d in range(end)]
    )
    gone = np.argmax(stages == 3, axis=0)
    left = np.flatnonzero((gone > 150) & (people.entry_day < gone - 150))
    assert len(left) > 100
    days_before = gone[log.session_customer] - log.session_day
    mine = np.isin(log.session_customer, left)
    # in sessions of an average day: December would hide it
    weight = mine / cal.season[cal.past + log.session_day]

    def pace(low: int, high: int) -> float:
        return weight[(days_before > low) & (days_before <= high)].sum() / (high - low)

    assert pace(-20, 0) < pace(0, 20) < 0.8 * pace(100, 150)


@pytest.mark.parametrize("cause", ["hazard_late", "hazard_review", "hazard_ticket"])
def test_disappointment_hastens_leaving(shop: ShopConfig, history: Frames, cause: str) -> None:
    """The same shop where nobody minds: who was disappointed buys more, all others the same."""
    if cause == "hazard_late":
        orders = history["orders"].dropna(subset=["delivered_at"])
        took = (orders["delivered_at"] - orders["ordered_at"]).dt.total_seconds() / 86_400
        bad = orders.loc[took > 7, "customer_id"]
    elif cause == "hazard_review":
        reviews = history["reviews"]
        bad = reviews.loc[reviews["rating"] <= 2, "customer_id"]
    else:
        bad = history["support_tickets"]["customer_id"]
    no_hazard: dict[str, Any] = {cause: 0.0}
    mild = simulate(replace(shop, **no_hazard), FIRST, date(2025, 1, 1))
    before, after = (f["orders"].groupby("customer_id").size() for f in (history, mild))
    gain = (after - before).astype(int)  # leaving later only adds orders
    assert (gain >= 0).all()
    assert set(gain.index[gain > 0]) <= set(bad)
    assert gain.reindex(bad.unique()).mean() > 0.05


@pytest.fixture(scope="module")
def contact(shop: ShopConfig, history: Frames) -> pd.DataFrame:
    return campaign(shop, history, date(2024, 8, 20))


@pytest.fixture(scope="module")
def effects(shop: ShopConfig, contact: pd.DataFrame) -> pd.DataFrame:
    campaign_id = contact["campaign_id"].iloc[0]
    return true_effects(shop, contact, campaign_id, 28, n_replicates=60)


def test_effects_by_response_type(shop: ShopConfig, effects: pd.DataFrame) -> None:
    people = customers_until(shop, calendar(shop, 300), 300)
    kind = pd.Series(people.response_type, [f"C{i:07d}" for i in people.number])
    by_type = effects.groupby(effects["customer_id"].map(kind))["effect_is_retained"].mean()
    assert by_type[ResponseType.PERSUADABLE] > 0.06
    assert 0 <= by_type[ResponseType.SURE_THING] < 0.02
    assert by_type[ResponseType.LOST_CAUSE] == 0
    assert by_type[ResponseType.ANNOYED] < -0.02
    assert 0.02 < effects["effect_is_retained"].mean() < 0.08
    assert kind.value_counts(normalize=True).min() > 0.05


def test_effects_against_realised_worlds(
    shop: ShopConfig, contact: pd.DataFrame, effects: pd.DataFrame
) -> None:
    """All treated against none treated, through the delivered tables, in the shop's own luck."""
    end = date(2024, 9, 18)
    worlds = []
    for arm in ("control", "treated"):
        frames = simulate(shop, FIRST, end, contact.assign(arm=arm))
        orders = valid_orders(frames)
        orders = orders[orders["ordered_at"] >= moment(shop, date(2024, 8, 21))]
        items = frames["order_items"]
        kept = (items["quantity"] - items["cancelled_quantity"]) * items["unit_price"]
        orders = orders.assign(
            amount=orders["order_id"].map(kept.groupby(items["order_id"]).sum())
            - orders["discount_amount"]
        )
        worlds.append(
            orders.groupby("customer_id")
            .agg(order_count=("order_id", "size"), revenue_amount=("amount", "sum"))
            .reindex(effects["customer_id"], fill_value=0)
        )
    difference = (worlds[1] - worlds[0]).astype(float)
    difference["is_retained"] = (worlds[1]["order_count"] > 0).astype(float) - (
        worlds[0]["order_count"] > 0
    )
    for metric in ("is_retained", "order_count", "revenue_amount"):
        mine = effects[f"effect_{metric}"].mean()
        error = difference[metric].std() / np.sqrt(len(difference))
        assert abs(difference[metric].mean() - mine) < 3.3 * error, metric
    assert difference["is_retained"].mean() > 0


def test_effects_are_the_sum_of_their_worlds(effects: pd.DataFrame) -> None:
    for metric in ("is_retained", "order_count", "revenue_amount", "margin_amount"):
        gap = effects[f"treated_{metric}"] - effects[f"control_{metric}"]
        np.testing.assert_allclose(effects[f"effect_{metric}"], gap)
    assert effects["customer_id"].is_monotonic_increasing
    assert effects["effect_margin_amount"].mean() < effects["effect_revenue_amount"].mean()


def test_effects_of_some_are_those_of_the_same_among_all(
    shop: ShopConfig, contact: pd.DataFrame, effects: pd.DataFrame
) -> None:
    some = effects["customer_id"].tolist()[5:25]
    again = true_effects(
        shop, contact, contact["campaign_id"].iloc[0], 28, customer_ids=some, n_replicates=60
    )
    pd.testing.assert_frame_equal(again, effects.iloc[5:25].reset_index(drop=True))


def test_effects_need_a_campaign_that_was_sent(shop: ShopConfig, contact: pd.DataFrame) -> None:
    name = contact["campaign_id"].iloc[0]
    with pytest.raises(ValueError, match="no row that was sent"):
        true_effects(shop, contact, "another")
    with pytest.raises(ValueError, match="no row that was sent"):
        true_effects(shop, contact.assign(arm="control"), name)
    with pytest.raises(ValueError, match="1 customers are not part"):
        true_effects(shop, contact, name, customer_ids=["C9999999"])


def test_draws_are_uniform_and_independent_of_their_neighbours() -> None:
    keys = derive(5, Stream.CUSTOMER, np.arange(20_000))
    today, tomorrow = (uniform(keys, Stream.ORDER, d) for d in (100, 101))
    leaving = uniform(keys, Stream.LEAVE, 100)
    for u in (today, tomorrow, leaving):
        counts = np.bincount((u * 20).astype(int), minlength=20)
        assert ((counts - 1_000) ** 2 / 1_000).sum() < 45  # chi2(19), p = 0.0007
    for a, b in ((today, tomorrow), (today, leaving), (today[:-1], today[1:])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.028  # 4 standard errors

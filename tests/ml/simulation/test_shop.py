"""The delivered tables keep the contract, and any way to cut the days gives the same shop."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import FIRST, KEYS, LAST, moment, valid_orders

from ml.simulation import TABLES, ShopConfig, simulate

# design.md, "The source contract": required columns, then optional ones
CONTRACT = {
    "customers": (
        "customer_id created_at",
        "email phone name country birth_year gender occupation acquisition_channel account_type "
        "loyalty_tier",
    ),
    "consents": ("customer_id channel status changed_at", "purpose expires_at"),
    "products": ("product_id", "name category brand list_price unit_cost"),
    "orders": (
        "order_id customer_id ordered_at",
        "delivered_at cancelled_at discount_amount shipping_amount channel",
    ),
    "order_items": (
        "order_id line_number product_id quantity unit_price",
        "cancelled_quantity cancelled_at",
    ),
    "returns": ("return_id order_id returned_at", "line_number quantity amount reason arrived_at"),
    "coupons": (
        "code customer_id issued_at",
        "expires_at campaign_id redeemed_order_id redeemed_at amount",
    ),
    "events": (
        "event_id customer_id event_type occurred_at",
        "session_id product_id channel arrived_at",
    ),
    "support_tickets": ("ticket_id customer_id opened_at", "closed_at channel text csat"),
    "reviews": ("review_id customer_id product_id rating created_at", "text arrived_at"),
    "inventory": ("product_id counted_at quantity_on_hand", "lead_time_days"),
    "deliveries": (
        "campaign_id customer_id channel sent_at",
        "status opened_at clicked_at cost_amount arm",
    ),
}
Frames = dict[str, pd.DataFrame]


def latest(*deliveries: Frames) -> Frames:
    """What a loader keeps: of each key the version delivered last."""
    return {
        name: pd.concat([d[name] for d in deliveries])
        .drop_duplicates(KEYS[name], keep="last")
        .sort_values(KEYS[name], ignore_index=True)
        for name in TABLES
    }


def assert_same(left: Frames, right: Frames) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(left[name], right[name], obj=name)


def test_columns_are_those_of_the_contract() -> None:
    assert list(TABLES) == list(CONTRACT)
    for name, (required, optional) in CONTRACT.items():
        assert set(TABLES[name]) == {*required.split(), *optional.split()}, name


@pytest.mark.parametrize("name", CONTRACT)
def test_rows_keep_the_contract(frames: Frames, name: str) -> None:
    frame = frames[name]
    assert len(frame) > 50
    assert list(frame.columns) == list(TABLES[name])
    assert not frame[CONTRACT[name][0].split()].isna().any(axis=None)
    assert not frame.duplicated(KEYS[name]).any()
    for column, kind in TABLES[name].items():
        dtype = str(frame[column].dtype)
        expected = {
            "time": "datetime64[us, UTC]", "text": "str", "money": "float64", "int": "int64",
            "count": "Int64",
        }[kind]  # fmt: skip
        assert dtype == expected, column
        if kind == "money":
            assert (frame[column] >= 0).all()
            cents = frame[column].map(lambda x: Decimal(repr(x)).as_tuple().exponent)
            assert (cents >= -2).all(), column


def test_rows_point_to_rows_that_exist(frames: Frames) -> None:
    customers = set(frames["customers"]["customer_id"])
    for name in ("consents", "orders", "coupons", "events", "support_tickets", "reviews"):
        assert set(frames[name]["customer_id"]) <= customers, name
    orders = set(frames["orders"]["order_id"])
    assert set(frames["order_items"]["order_id"]) == orders
    assert set(frames["returns"]["order_id"]) <= orders
    assert set(frames["coupons"]["redeemed_order_id"].dropna()) <= orders
    products = set(frames["products"]["product_id"])
    for name in ("order_items", "events", "reviews", "inventory"):
        assert set(frames[name]["product_id"].dropna()) <= products, name


def test_nothing_happens_before_its_cause(frames: Frames) -> None:
    created = frames["customers"].set_index("customer_id")["created_at"]
    for name, column in (
        ("orders", "ordered_at"), ("events", "occurred_at"), ("consents", "changed_at"),
        ("coupons", "issued_at"), ("deliveries", "sent_at"),
    ):  # fmt: skip
        frame = frames[name]
        assert (frame[column] >= frame["customer_id"].map(created)).all(), name
    orders = frames["orders"]
    came = orders.dropna(subset=["delivered_at"])
    assert (came["delivered_at"] > came["ordered_at"]).all()
    both = orders["delivered_at"].notna() & orders["cancelled_at"].notna()
    assert not both.any(), "a cancelled order was delivered"
    delivered = orders.set_index("order_id")["delivered_at"]
    returns = frames["returns"]
    assert (returns["returned_at"] > returns["order_id"].map(delivered)).all()
    items = frames["order_items"]
    assert (items["cancelled_quantity"] <= items["quantity"]).all()
    assert ((items["cancelled_quantity"] > 0) == items["cancelled_at"].notna()).all()
    mail = frames["deliveries"]
    opened = mail.dropna(subset=["opened_at"])
    assert (opened["opened_at"] > opened["sent_at"]).all()
    assert mail.loc[mail["clicked_at"].notna(), "opened_at"].notna().all()
    coupons = frames["coupons"].dropna(subset=["redeemed_at"])
    assert (coupons["redeemed_at"] < coupons["expires_at"]).all()
    assert not coupons["redeemed_order_id"].duplicated().any()
    ordered = frames["orders"].set_index("order_id")
    assert (
        coupons["customer_id"].values
        == ordered.loc[coupons["redeemed_order_id"], "customer_id"].values
    ).all()
    for name, at in (
        ("events", "occurred_at"),
        ("returns", "returned_at"),
        ("reviews", "created_at"),
    ):
        late = frames[name].dropna(subset=["arrived_at"])
        assert len(late) > 10
        assert (late["arrived_at"] > late[at]).all(), name


def test_every_kind_of_cancellation_occurs(frames: Frames) -> None:
    items = frames["order_items"]
    gone = items["cancelled_quantity"] == items["quantity"]
    wholly = gone.groupby(items["order_id"]).all()
    partly = (items["cancelled_quantity"] > 0).groupby(items["order_id"]).any() & ~wholly
    assert frames["orders"]["cancelled_at"].notna().sum() > 10
    assert wholly.sum() > 10
    assert partly.sum() > 10


def test_newsletters_go_to_those_who_consent(frames: Frames) -> None:
    mine = "channel == 'email' and purpose == 'marketing'"
    changes = frames["consents"].query(mine).sort_values("changed_at")
    mail = frames["deliveries"].sort_values("sent_at")
    then = pd.merge_asof(mail, changes, left_on="sent_at", right_on="changed_at", by="customer_id")
    assert (then["status_y"] == "granted").all()
    assert {"granted", "denied", "revoked"} == set(changes["status"])


def test_same_seed_same_shop_other_seed_other_shop(config: ShopConfig, frames: Frames) -> None:
    again = simulate(config, FIRST, LAST)
    assert_same(again, frames)
    other = simulate(replace(config, seed=8), FIRST, LAST)
    assert not set(other["orders"]["order_id"]) & set(frames["orders"]["order_id"])


@settings(max_examples=4, deadline=None)
@given(
    cut=st.integers(1, 364),
    span=st.integers(1, 40),
    seed=st.integers(0, 10_000),
)
def test_pieces_add_up_to_the_whole(cut: int, span: int, seed: int) -> None:
    config = ShopConfig(seed=seed, n_customers=150, n_products=16, acquisition_days=200)
    middle = FIRST + timedelta(days=cut)
    end = middle + timedelta(days=span)
    whole = simulate(config, FIRST, end)
    pieces = simulate(config, FIRST, middle), simulate(config, middle, end)
    assert_same(latest(*pieces), latest(whole))


def test_daily_pieces_add_up_across_a_campaign(
    config: ShopConfig, treatments: pd.DataFrame
) -> None:
    begin, end = date(2024, 8, 8), date(2024, 8, 22)
    days = [begin + timedelta(days=i) for i in range((end - begin).days)]
    pieces = [simulate(config, FIRST, begin)]
    pieces += [simulate(config, d, d + timedelta(days=1), treatments) for d in days]
    assert_same(latest(*pieces), latest(simulate(config, FIRST, end, treatments)))


@pytest.mark.parametrize("day", [date(2024, 8, 14), date(2024, 12, 3)])
def test_no_row_knows_the_future(config: ShopConfig, treatments: pd.DataFrame, day: date) -> None:
    begin, end = day, day + timedelta(days=9)
    piece = simulate(config, begin, end, treatments)
    for name, kinds in TABLES.items():
        times = [c for c, kind in kinds.items() if kind == "time" and c != "expires_at"]
        frame = piece[name]
        for column in times:
            assert not (frame[column] >= moment(config, end)).any(), f"{name}.{column}"
        if len(frame) and name != "order_items":  # known with their orders
            # and every row has a reason to be delivered in this range
            assert (frame[times].max(axis=1) >= moment(config, begin)).all(), name
    assert piece["products"].empty
    assert not simulate(config, FIRST, FIRST + timedelta(days=1))["products"].empty


def test_a_row_redelivered_keeps_its_first_arrival(config: ShopConfig) -> None:
    middle = date(2024, 7, 1)
    before = simulate(config, FIRST, middle)["orders"].set_index("order_id")
    after = simulate(config, middle, LAST)["orders"].set_index("order_id")
    again = after.index.intersection(before.index)
    assert len(again) > 10
    fixed = ["customer_id", "ordered_at", "discount_amount", "shipping_amount", "channel"]
    pd.testing.assert_frame_equal(before.loc[again, fixed], after.loc[again, fixed])
    assert before.loc[again, "delivered_at"].isna().all()
    assert (after.loc[again, ["delivered_at", "cancelled_at"]].notna().sum(axis=1) == 1).all()


def test_a_treatment_changes_the_treated_and_nobody_else(
    config: ShopConfig, frames: Frames, treatments: pd.DataFrame
) -> None:
    treated = simulate(config, FIRST, LAST, treatments)
    who = set(treatments.loc[treatments["arm"] == "treated", "customer_id"])
    first_sent = treatments["sent_at"].min()
    changed = 0
    for name, at in (
        ("customers", "created_at"), ("consents", "changed_at"), ("orders", "ordered_at"),
        ("coupons", "issued_at"), ("events", "occurred_at"), ("support_tickets", "opened_at"),
        ("reviews", "created_at"), ("deliveries", "sent_at"),
    ):  # fmt: skip
        base, now = frames[name], treated[name]
        theirs, its = base["customer_id"].isin(who), now["customer_id"].isin(who)
        pd.testing.assert_frame_equal(
            base[~theirs].reset_index(drop=True), now[~its].reset_index(drop=True), obj=name
        )
        early, before = base[at] < first_sent, now[at] < first_sent
        keys = KEYS[name]
        pd.testing.assert_frame_equal(
            base.loc[early, keys].reset_index(drop=True),
            now.loc[before, keys].reset_index(drop=True),
            obj=name,
        )
        changed += len(now) != len(base)
    assert changed >= 4
    sent = treated["deliveries"].query("campaign_id.str.startswith('back-')")
    assert len(sent) == (treatments["arm"] == "treated").sum()
    assert (sent["arm"] == "treated").all()
    assert sent["opened_at"].notna().any()
    issued = treated["coupons"].dropna(subset=["campaign_id"])
    assert len(issued) == ((treatments["arm"] == "treated") & treatments["is_coupon"]).sum()
    assert issued["redeemed_at"].notna().any()


def test_treatments_after_the_range_do_not_matter(
    config: ShopConfig, frames: Frames, treatments: pd.DataFrame
) -> None:
    until = date(2024, 8, 12)
    assert_same(simulate(config, FIRST, until, treatments), simulate(config, FIRST, until))
    only_control = treatments.assign(arm="control")
    assert_same(simulate(config, FIRST, LAST, only_control), frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="channel"), "lacks the columns channel"),
        (lambda t: t.assign(channel="pigeon"), "pigeon"),
        (lambda t: t.assign(customer_id="X" + t["customer_id"]), "does not know"),
        (lambda t: t.assign(sent_at=t["sent_at"].dt.tz_localize(None)), "time zone"),
        (lambda t: pd.concat([t, t]), "again in one campaign"),
        (lambda t: t.assign(channel=None), "empty channel"),
        (lambda t: t.assign(sent_at=t["sent_at"] - pd.Timedelta(days=900)), "first day"),
    ],
)
def test_bad_treatments_are_refused(config, treatments, change, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        simulate(config, date(2024, 9, 1), date(2024, 9, 2), change(treatments))


@pytest.mark.parametrize(
    "bad",
    [
        {"n_customers": 0}, {"timezone": "Mars/Olympus"}, {"late_rate": 1.5},
        {"hazard_day": -1.0}, {"order_rate_mean": float("nan")}, {"month_factors": (1.0,)},
    ],
)  # fmt: skip
def test_bad_configurations_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ShopConfig(**bad)


def test_bad_ranges_are_refused(config: ShopConfig) -> None:
    with pytest.raises(ValueError, match="no day"):
        simulate(config, FIRST, FIRST)
    with pytest.raises(ValueError, match="begins on"):
        simulate(config, FIRST - timedelta(days=1), LAST)


@pytest.mark.parametrize("zone", ["America/Sao_Paulo", "Asia/Kolkata", "Pacific/Auckland"])
def test_days_are_those_of_the_shop(zone: str) -> None:
    """Also where midnight does not exist once a year (Brazil until 2018)."""
    config = ShopConfig(n_customers=150, n_products=16, timezone=zone, first_day=date(2018, 9, 1))
    end = date(2018, 12, 1)
    whole = simulate(config, config.first_day, end)
    seen: list[date] = []
    on = simulate(config, date(2018, 11, 4), date(2018, 11, 5), on_progress=seen.append)
    local = (
        on["orders"]
        .loc[on["orders"]["ordered_at"] >= moment_of(zone, date(2018, 11, 4)), "ordered_at"]
        .dt.tz_convert(zone)
    )
    assert set(local.dt.date) <= {date(2018, 11, 4)}
    assert seen[-1] == date(2018, 11, 4)
    days = whole["orders"]["ordered_at"].dt.tz_convert(zone).dt.date
    assert days.min() >= config.first_day
    assert days.max() < end


def moment_of(zone: str, day: date) -> pd.Timestamp:
    return pd.Timestamp(day).tz_localize(zone, nonexistent="shift_forward")


def test_the_shop_looks_like_a_shop(config: ShopConfig, frames: Frames) -> None:
    orders, items = valid_orders(frames), frames["order_items"]
    items = items[items["order_id"].isin(orders["order_id"])]
    kept = items["quantity"] - items["cancelled_quantity"]
    cost = items["product_id"].map(frames["products"].set_index("product_id")["unit_cost"])
    revenue = (kept * items["unit_price"]).sum() - orders["discount_amount"].sum()
    assert 45 < revenue / len(orders) < 75
    assert 0.36 < 1 - (kept * cost).sum() / revenue < 0.46
    per_customer = orders.groupby("customer_id").size()
    assert 0.25 < (per_customer == 1).mean() < 0.60
    customers = frames["customers"]
    assert 0.05 < 1 - len(per_customer) / len(customers) < 0.30  # prospects
    assert 0.015 < (customers["account_type"] == "business").mean() < 0.05
    for column in ("email", "phone", "name", "birth_year", "acquisition_channel", "loyalty_tier"):
        assert 0 < customers[column].isna().mean() < 0.7, column
    created = customers["created_at"]
    assert (created < moment(config, FIRST)).mean() == pytest.approx(0.3, abs=0.02)
    assert created.max() > moment(config, LAST - timedelta(days=14))
    # the season shows against what the same engaged customers would buy in June
    local = orders["ordered_at"].dt.tz_convert(config.timezone)
    weekday = local.dt.dayofweek.value_counts(normalize=True)
    assert weekday[6] == weekday.max()
    assert (local.dt.hour >= 12).mean() > 0.5
    assert np.isin(frames["events"]["event_type"].unique(), [
        "view", "search", "add_to_cart", "remove_from_cart", "wishlist", "login", "email_open",
        "email_click", "ad_click",
    ]).all()  # fmt: skip
    assert frames["events"]["event_type"].nunique() == 9

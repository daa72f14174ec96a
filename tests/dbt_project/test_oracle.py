"""The marts against brute force: every feature, status and label, on difficult worlds."""

from __future__ import annotations

import math
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from mart_project import Dbt
from oracle import Knowledge, categories, label, returns
from raw_world import World, finish, make_world

DAYS = [date(2024, 3, 31), date(2024, 10, 27), date(2025, 2, 1), date(2025, 5, 10)]


def equal(actual: Any, expected: Any) -> bool:
    if expected is None or (isinstance(expected, float) and math.isnan(expected)):
        return actual is None or actual != actual
    if actual is None:
        return False
    if isinstance(expected, Decimal):
        # Sums are exact; a mean of money is rounded once, to four decimals.
        return abs(Decimal(actual) - expected) <= Decimal("0.00011")
    if isinstance(expected, float):
        return math.isclose(float(actual), expected, rel_tol=1e-12, abs_tol=1e-12)
    return actual == expected


def assert_row(actual: pd.Series, expected: dict[str, Any], where: str) -> None:
    wrong = {
        name: (actual[name], value)
        for name, value in expected.items()
        if not equal(actual[name], value)
    }
    assert not wrong, f"{where}: (mart, by hand) {wrong}"


@pytest.fixture(scope="module", params=[7, 8])
def pair(request: pytest.FixtureRequest, dbt: Dbt) -> tuple[World, dict[str, pd.DataFrame]]:
    """A world with late rows and second deliveries, and its marts."""
    world = make_world(seed=request.param, late_share=0.25, redelivered_share=0.25)
    days = [day.isoformat() for day in DAYS]
    return world, dbt.run(world, snapshot_dates=days)


def assert_features(world: World, marts: dict[str, pd.DataFrame], day: date) -> None:
    known = Knowledge(world, day)
    features = marts["customer_features"]
    features = features[features["snapshot_date"] == day].set_index("customer_key")
    assert list(features.index) == known.population()
    assert len(features) > 10
    expected = {key: known.features(key) for key in features.index}
    assert set(features.columns) - {"snapshot_date"} == set(next(iter(expected.values())))
    for key, row in features.iterrows():
        assert_row(row, expected[str(key)], f"{key} on {day}")


@pytest.mark.parametrize("day", DAYS)
def test_features(pair: tuple[World, dict[str, pd.DataFrame]], day: date) -> None:
    assert_features(*pair, day)


@pytest.mark.parametrize("day", DAYS)
def test_features_of_one_day_alone(
    dbt: Dbt, pair: tuple[World, dict[str, pd.DataFrame]], day: date
) -> None:
    """One day is other SQL than many."""
    world, _ = pair
    assert_features(world, dbt.run(world, snapshot_dates=[day.isoformat()]), day)


RANGE = [date(2024, 12, 20) + timedelta(days=i) for i in range(24)]


def assert_features_of_a_range(dbt: Dbt, **faults: dict[str, str]) -> None:
    world = make_world(seed=4, late_share=0.3, redelivered_share=0.3)
    marts = dbt.run(world, snapshot_dates=[day.isoformat() for day in RANGE], faults=faults)
    for day in RANGE:
        assert_features(world, marts, day)


def test_features_of_every_day_of_a_range(dbt: Dbt) -> None:
    """Day after day, through month's and year's end: what enters and leaves is told each time."""
    assert_features_of_a_range(dbt)


@pytest.mark.parametrize(
    ("model", "right", "wrong"),
    [
        (
            "int_customer_contacts",
            "greatest(deliveries.known_date, orders.known_date)",
            "deliveries.known_date",
        ),
        ("int_customer_contacts", "(deliveries.sent_date + 6)", "(deliveries.sent_date + 7)"),
        ("int_customer_last_events", "greatest(known_date, opened_date)", "known_date"),
        (
            "int_customer_products",
            "item_count desc, category asc",
            "item_count desc, category desc",
        ),
        ("int_purchase_rhythm", "> shops.gap_p90_days", ">= shops.gap_p90_days + 5"),
        ("int_purchase_rhythm", "places.last_place >= floor", "places.last_place > floor"),
        # what lasts, forgotten of customers of whom a later version told something else
        ("int_customer_service", "where exists", "where false and exists"),
    ],
)
def test_a_wrong_feature_would_be_noticed(dbt: Dbt, model: str, right: str, wrong: str) -> None:
    with pytest.raises(AssertionError, match=r"\(mart, by hand\)"):
        assert_features_of_a_range(dbt, **{model: {right: wrong}})


def daily_buyer() -> World:
    """Return a customer who bought every day from January 2018 to August 2019."""
    world = make_world(seed=3, customers=2, late_share=0, redelivered_share=0)
    orders = (
        world["orders"]
        .iloc[[0] * 600]
        .assign(
            order_id=[f"o{i}" for i in range(600)],
            ordered_at=pd.date_range("2018-01-01 12:00", periods=600),
            delivered_at=pd.NaT,
            cancelled_at=pd.NaT,
            _is_current=True,
        )
    )
    return finish({"customers": world["customers"], "orders": orders}, "Europe/Berlin")


@pytest.mark.parametrize("days", [1, 2], ids=["one day", "many days"])
def test_who_bought_daily_and_stopped_long_ago_is_dead_and_overflows_nothing(
    dbt: Dbt, days: int
) -> None:
    """((alpha + T) / (alpha + t_x)) ** (r + x) has more than 400 digits here."""
    marts = dbt.run(
        daily_buyer(),
        active_window_days=4000,
        snapshot_dates=[f"2028-0{month}-01" for month in range(1, days + 1)],
    )
    features = marts["customer_features"]
    assert len(features) == days
    assert (features["alive_probability"] < 1e-100).all()
    assert (features["alive_probability"] >= 0).all()
    assert (features["purchase_probability_30d"] <= features["alive_probability"]).all()


@pytest.mark.parametrize("days", [1, 2], ids=["one day", "many days"])
def test_days_with_orders_are_counted_beyond_127(dbt: Dbt, days: int) -> None:
    """DuckDB's count of bits is a number of 8 bits."""
    marts = dbt.run(
        daily_buyer(), snapshot_dates=[f"2019-0{month}-01" for month in range(3, 3 + days)]
    )
    features = marts["customer_features"]
    assert list(features["order_day_count_365d"]) == [365] * days
    assert list(features["order_count_365d"]) == [365] * days


@pytest.mark.parametrize("day", DAYS)
def test_status(pair: tuple[World, dict[str, pd.DataFrame]], day: date) -> None:
    assert_status(*pair, day)


@pytest.mark.parametrize(
    ("model", "right", "wrong"),
    [
        ("int_consents", "channel, purpose\n", "channel\n"),
        ("int_customers", "consents.purpose = 'marketing' and", ""),
        ("int_customers", "and consents.purpose != 'marketing'", ""),
        ("int_customers", "in ('sms', 'phone') then customers.has_phone", "= 'sms' then true"),
    ],
)
def test_a_wrong_consent_would_be_noticed(dbt: Dbt, model: str, right: str, wrong: str) -> None:
    world = make_world(seed=7, late_share=0.25, redelivered_share=0.25)
    days = [day.isoformat() for day in DAYS]
    marts = dbt.run(world, snapshot_dates=days, faults={model: {right: wrong}})
    with pytest.raises(AssertionError, match=r"\(mart, by hand\)"):
        _ = [assert_status(world, marts, day) for day in DAYS]


def assert_status(world: World, marts: dict[str, pd.DataFrame], day: date) -> None:
    known = Knowledge(world, day)
    status = marts["customer_status"]
    status = status[status["snapshot_date"] == day].set_index("customer_key")
    rows = {c["customer_key"]: c for c in known.rows["customers"]}
    assert set(status.index) == set(rows) | set(known.by_customer)
    for key, row in status.iterrows():
        valid = known.valid(str(key))
        person = rows.get(str(key), {})
        consents = known.consents(str(key))
        last = max((o["occurred_date"] for o in valid), default=None)
        lifecycle = "prospect"
        if last is not None:
            lifecycle = "active" if (day - last).days < 180 else "dormant"
        sent = [d["occurred_date"] for d in known.of("deliveries", str(key))]
        expected = {
            "lifecycle": lifecycle,
            "first_order_date": min((o["occurred_date"] for o in valid), default=None),
            "last_order_date": last,
            "days_since_last_order": (day - last).days if last else None,
            "order_count_lifetime": len(valid),
            "revenue_amount_lifetime": sum((o["revenue"] for o in valid), Decimal(0)),
            "has_email_consent": consents["email"] and bool(person.get("has_email")),
            "has_sms_consent": consents["sms"] and bool(person.get("has_phone")),
            "has_phone_consent": consents["phone"] and bool(person.get("has_phone")),
            "has_post_consent": consents["post"],
            "has_push_consent": consents["push"],
            "has_ads_consent": consents["ads"]
            and bool(person.get("has_email") or person.get("has_phone")),
            "other_consents": known.other_consents(str(key)),
            "ticket_count_30d": len(known.of("support_tickets", str(key), 30)),
            "low_rating_count_90d": sum(
                r["rating"] <= 2 for r in known.of("reviews", str(key), 90)
            ),
            "last_contact_date": max(sent, default=None),
            "contact_count_7d": len(known.of("deliveries", str(key), 7)),
            "contact_count_30d": len(known.of("deliveries", str(key), 30)),
            "days_since_first_order": (
                (day - min(o["occurred_date"] for o in valid)).days if valid else None
            ),
            **{
                f"{name}_{within}d": measure(known.valid(str(key), within))
                for within in (30, 90)
                for name, measure in (
                    ("order_count", len),
                    ("revenue_amount", lambda o: sum((one["revenue"] for one in o), Decimal(0))),
                )
            },
            **{f"categories_{within}d": categories(known, str(key), within) for within in (7, 30)},
        }
        assert_row(row, expected, f"{key} on {day}")
        # Both marts tell the same of the same customer.
        if lifecycle == "active":
            shared = known.features(str(key))
            names = [name for name in shared if name in status.columns]
            assert len(names) >= 7
            assert_row(row, {name: shared[name] for name in names}, f"{key} on {day}")


@pytest.mark.parametrize("matured", DAYS[1:])
def test_labels(pair: tuple[World, dict[str, pd.DataFrame]], matured: date) -> None:
    world, marts = pair
    then, now = Knowledge(world, matured - timedelta(days=90)), Knowledge(world, matured)
    labels = marts["churn_labels"]
    labels = labels[labels["matured_date"] == matured].set_index("customer_key")
    assert list(labels.index) == then.population()
    assert 0 < labels["is_churned"].mean() < 1
    assert labels["is_churned_30d"].sum() > labels["is_churned_60d"].sum()
    for key, row in labels.iterrows():
        expected = label(then, now, str(key))
        assert set(expected) == set(labels.columns)
        assert_row(row, expected, f"{key} matured on {matured}")


@pytest.mark.parametrize(("horizon", "matured_windows"), [(45, (30,)), (120, (30, 60, 90))])
def test_labels_of_another_horizon(
    dbt: Dbt, horizon: int, matured_windows: tuple[int, ...]
) -> None:
    """A window longer than the horizon is null, a shorter one is not."""
    world = make_world(seed=7, late_share=0.25, redelivered_share=0.25)
    matured = DAYS[2]
    labels = dbt.run(world, snapshot_dates=[matured.isoformat()], horizon_days=horizon)[
        "churn_labels"
    ].set_index("customer_key")
    then = Knowledge(world, matured - timedelta(days=horizon))
    now = Knowledge(world, matured)
    assert list(labels.index) == then.population()
    for key, row in labels.iterrows():
        assert_row(row, label(then, now, str(key)), f"{key}, horizon {horizon}")
    told = {n for n in (30, 60, 90) if labels[f"is_churned_{n}d"].notna().all()}
    assert told == set(matured_windows)


def test_returns(dbt: Dbt) -> None:
    """What is told day by day adds up to all returns known, and answers every label."""
    horizon = 40
    world = make_world(seed=11, customers=60, late_share=0.25, redelivered_share=0.25)
    first = date(2024, 7, 1)
    days = [first + timedelta(days=i) for i in range(200)]
    texts = [day.isoformat() for day in days]
    marts = dbt.run(world, snapshot_dates=texts, horizon_days=horizon)
    told, labels = marts["churn_returns"], marts["churn_labels"]
    assert 5 < told["is_withdrawn"].sum() < len(told) / 2
    # What was known before the first day was told before it.
    state = returns(Knowledge(world, first - timedelta(days=1)), horizon)
    for day in days:
        for row in told[told["snapshot_date"] == day].itertuples():
            assert row.days_silent == (row.returned_date - row.silent_since_date).days > horizon
            assert row.first_matured_date == row.silent_since_date + timedelta(days=horizon)
            before = state.pop((row.customer_key, row.returned_date), None)
            after = (row.silent_since_date, row.revenue_amount)
            if row.is_withdrawn:
                assert before is not None
                assert after == (before[0], 0)
            else:
                assert before != after
                state[row.customer_key, row.returned_date] = after
        if day in days[::20]:
            known = Knowledge(world, day)
            assert state == returns(known, horizon), day
    # One day alone is the day within the range.
    busiest = told["snapshot_date"].value_counts().index[0]
    alone = dbt.run(world, snapshot_dates=[busiest.isoformat()], horizon_days=horizon)
    of_range = told[told["snapshot_date"] == busiest].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone["churn_returns"], of_range)
    assert len(of_range) > 1
    # A churned customer who bought after the horizon, and not within it by what is known now,
    # is found by the label: customer, first_matured_date <= matured_date < returned_date.
    now = Knowledge(world, days[-1])
    answered = 0
    for row in labels[(labels["is_churned"] == 1)].itertuples():
        bought = {o["occurred_date"] for o in now.valid(row.customer_key)}
        later = min((d for d in bought if d > row.snapshot_date), default=None)
        back = [
            returned
            for (key, returned), (since, _) in state.items()
            if key == row.customer_key
            and since + timedelta(days=horizon) <= row.matured_date < returned
        ]
        is_repeat = min(bought, default=row.matured_date) <= row.snapshot_date
        if later is not None and later > row.matured_date and is_repeat:
            assert min(back) == later
            answered += 1
    assert answered > 50


def test_changes_add_up_to_the_state_of_every_day(dbt: Dbt) -> None:
    """The last published row of each order up to a day is the order as known on that day."""
    world = make_world(seed=11, customers=25, days=120, late_share=0.25, redelivered_share=0.25)
    first = date(2023, 12, 31)
    days = [first + timedelta(days=i) for i in range(160)]
    marts = dbt.run(world, snapshot_dates=[day.isoformat() for day in days])
    for day in (days[20], days[77], days[140]):
        then = Knowledge(world, day)
        known = {o["order_id"]: o for o in then.orders}
        returned = {o: Decimal(0) for o in known}
        for row in then.rows["returns"]:
            if row["order_id"] in returned:
                returned[row["order_id"]] += then.refund(row)
        assert max(returned.values()) > 0
        orders = marts["orders"]
        latest = orders[orders["snapshot_date"] <= day].drop_duplicates("order_id", keep="last")
        latest = latest.set_index("order_id")
        assert set(latest.index) == set(known)
        for order_id, row in latest.iterrows():
            order = known[str(order_id)]
            expected = {
                "customer_key": order["customer_key"],
                "is_wholly_cancelled": order["is_wholly_cancelled"],
                "line_count": len(order["lines"]),
                "item_count": order["units"],
                "gross_amount": order["gross"],
                "cancelled_amount": order["gross"] - order["net_amount"],
                "discount_amount": order["discount"],
                "revenue_amount": order["revenue"],
                "margin_amount": order["margin"],
                "is_margin_known": order["margin"] is not None,
                "returned_amount": returned[str(order_id)],
            }
            assert_row(row, expected, f"{order_id} on {day}")
            assert pd.notna(row["delivered_at"]) == (order["delivered_day"] is not None)
        lines = marts["order_lines"]
        lines = lines[lines["snapshot_date"] <= day]
        lines = lines.drop_duplicates(["order_id", "line_number"], keep="last")
        assert lines["net_amount"].sum() == sum(o["net_amount"] for o in known.values())
        assert len(lines) == sum(len(o["lines"]) for o in known.values())

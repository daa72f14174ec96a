"""The outcome by intention to treat, its windows, gates and verdicts."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_shop import DAY, campaign, keys

from ml.campaigns.assignment import assign, empty_ledger
from ml.campaigns.outcomes import (
    COLUMNS,
    FLAGS,
    MEASURES,
    due_on,
    returns_of,
    unit_outcomes,
)

END = DAY + timedelta(days=30)
OUTCOME = {
    "window_days": 30,
    "primary_metric": "retained",
    "minimum_effects": {"retained": 0.05, "revenue_amount": 1000.0},
}


def _orders(
    customers: list[str], day: date = DAY + timedelta(days=3), **changes: Any
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "customer_key": customers,
            "ordered_date": day,
            "revenue_amount": 20.0,
            "margin_amount": 8.0,
            "is_wholly_cancelled": False,
            **changes,
        }
    )


def _ledger(n: int = 4_000, **changes: Any) -> pd.DataFrame:
    return assign(campaign(outcome=OUTCOME, **changes), keys(n), DAY, empty_ledger())


def _some(ledger: pd.DataFrame, arm: str, share: float) -> list[str]:
    members = list(ledger.loc[ledger["arm"] == arm, "customer_key"])
    return members[: round(len(members) * share)]


COSTS = {"control": 0.0, "reminder": 0.1}


def _units(
    ledger: pd.DataFrame, orders: pd.DataFrame, as_of: date = END, **more: Any
) -> pd.DataFrame:
    more = {"window_days": 30, "contact_costs": COSTS, **more}
    return unit_outcomes(ledger, orders, as_of, **more).set_index("customer_key")


def test_every_assigned_customer_is_one_row() -> None:
    ledger = _ledger(500)
    buyer = _some(ledger, "reminder", 0.1)[0]
    orders = _orders([buyer, buyer, "a stranger"], discount_amount=3.0)
    units = _units(ledger.sample(frac=1, random_state=1), orders)
    assert list(units.reset_index().columns) == [COLUMNS[1], COLUMNS[0], *COLUMNS[2:]]
    assert list(units.index) == sorted(ledger["customer_key"])
    assert units.loc[buyer, MEASURES].to_dict() == pytest.approx(
        {
            "retained": 1,
            "order_count": 2,
            "revenue_amount": 40,
            "discount_amount": 6,
            "margin_amount": 16,
            "net_margin_amount": 16,
            "assumed_margin_amount": 0,
            "cost_amount": 6.1,
            "profit_amount": 15.9,
        }
    )
    idle = units.drop(index=buyer)
    assert (idle[["retained", "order_count", "net_margin_amount"]] == 0).all().all()
    assert set(idle.loc[idle["arm"] == "control", "profit_amount"]) == {0.0}
    assert units[FLAGS].isna().all().all(), "without deliveries nothing is known of messages"


def test_returns_count_until_they_have_settled() -> None:
    ledger = _ledger(500)
    a, b, c, *_ = _some(ledger, "reminder", 0.2)
    orders = _orders([a, b, c], order_id=["1", "2", "3"])
    returns = pd.DataFrame(
        {
            "order_id": ["1", "2", "3", "not of this campaign"],
            "returned_date": [END + timedelta(days=n) for n in (0, 10, 11, 0)],
            "revenue_amount": [20.0, 10.0, 20.0, 5.0],
            "margin_amount": [8.0, None, 8.0, 5.0],
        }
    )
    later = END + timedelta(days=60)
    units = _units(ledger, orders, later, settle_days=10, returns=returns)
    assert list(units.loc[[a, b, c], "net_margin_amount"]) == [0.0, 4.0, 8.0]
    assert list(units.loc[[a, b, c], "margin_amount"]) == [8.0] * 3
    assert units.loc[a, "settled_date"] == END + timedelta(days=10)
    known = _units(ledger, orders, END, settle_days=10, returns=returns)
    assert list(known.loc[[a, b, c], "net_margin_amount"]) == [0.0, 8.0, 8.0], "nothing from later"


def test_messages_are_known_and_priced_where_they_were_delivered() -> None:
    ledger = _ledger(500)
    a, b, c, d, *_ = _some(ledger, "reminder", 0.2)
    deliveries = pd.DataFrame(
        {
            "campaign_id": ["winback_1"] * 5 + ["another"],
            "customer_key": [a, a, b, c, d, d],
            "sent_date": [DAY + timedelta(days=n) for n in (1, 2, 1, 1, 99, 1)],
            "bounced_at": [None, None, DAY, None, None, None],
            "opened_at": [None, DAY, None, None, None, None],
            "cost_amount": [0.5, 0.25, None, 0.0, 9.0, 9.0],
        }
    )
    units = _units(ledger, _orders([]), END + timedelta(days=99), deliveries=deliveries)
    assert units.loc[[a, b, c, d], "cost_amount"].tolist() == [0.75, 0.1, 0.0, 0.0]
    assert units.loc[[a, b, c, d], "is_sent"].tolist() == [True, True, True, False]
    assert units.loc[[a, b, c, d], "is_delivered"].tolist() == [True, False, True, False]
    assert units.loc[[a, b], "is_opened"].tolist() == [True, False]
    assert not units["is_clicked"].any()
    assert units["cost_amount"].sum() == pytest.approx(0.85)


def test_whose_message_it_was_is_held_against_the_draw_where_the_tool_says_it() -> None:
    """Intention to treat: who got another arm's message stays in the arm that was drawn."""
    ledger = _ledger(500)
    a, b, c, d, *_ = _some(ledger, "reminder", 0.2)
    deliveries = pd.DataFrame(
        {
            "campaign_id": ["winback_1"] * 6 + ["another"],
            "customer_key": [a, a, b, c, c, d, d],
            "sent_date": [DAY + timedelta(days=n) for n in (1, 2, 1, 1, 2, 99, 1)],
            "arm": ["reminder", None, "coupon", "reminder", "offer 7", "coupon", "coupon"],
        }
    )
    more = {"deliveries": deliveries}
    units = _units(ledger, _orders([]), END + timedelta(days=99), **more)
    told = units["is_sent_other_arm"]
    assert told[[a, b, c]].tolist() == [False, True, True]
    assert told.drop([a, b, c]).isna().all(), "of who got none in the window nothing is known"
    assert units.loc[[a, b, c], "arm"].tolist() == ["reminder"] * 3
    silent = _units(ledger, _orders([]), deliveries=deliveries.drop(columns="arm"))
    assert silent["is_sent_other_arm"].isna().all()
    assert silent["is_sent"].sum() == 3


def test_a_missing_margin_is_declared_and_marked() -> None:
    ledger = _ledger(500)
    a, b, *_ = _some(ledger, "reminder", 0.2)
    orders = _orders([a, b], margin_amount=[None, 8.0])
    with pytest.raises(ValueError, match="1 orders have no margin"):
        _units(ledger, orders)
    units = _units(ledger, orders, margin_rate=0.3)
    assert units.loc[[a, b], "net_margin_amount"].tolist() == [6.0, 8.0]
    assert units.loc[[a, b], "assumed_margin_amount"].tolist() == [6.0, 0.0]


def test_a_closed_window_never_changes() -> None:
    rng = np.random.default_rng(4)
    ledger = _ledger(800)
    chosen = list(rng.choice(ledger["customer_key"], 900))
    orders = _orders(chosen, order_id=[str(i) for i in range(900)])
    orders["ordered_date"] = [DAY + timedelta(days=int(d)) for d in rng.integers(-5, 60, 900)]
    orders["revenue_amount"] = rng.lognormal(3, 1, 900)
    returns = orders.sample(200, random_state=1).assign(
        returned_date=lambda f: [d + timedelta(days=20) for d in f["ordered_date"]]
    )[["order_id", "returned_date", "revenue_amount", "margin_amount"]]
    settled = END + timedelta(days=15)
    first = _units(ledger, orders, settled, settle_days=15, returns=returns)
    later = _units(
        ledger,
        orders.sample(frac=1, random_state=2),
        settled + timedelta(days=90),
        settle_days=15,
        returns=returns.sample(frac=1, random_state=3),
    )
    pd.testing.assert_frame_equal(later, first, check_exact=True)
    assert (first["net_margin_amount"] < first["margin_amount"]).any()


def test_units_of_bad_input_are_refused() -> None:
    ledger = _ledger(50)
    with pytest.raises(ValueError, match="contact_costs lacks the arms"):
        _units(ledger, _orders([]), contact_costs={"control": 0.0})
    with pytest.raises(ValueError, match="one campaign at a time"):
        _units(pd.concat([ledger, ledger.assign(campaign_id="other")]), _orders([]))
    assert _units(ledger[:0], _orders([])).empty


def test_returns_are_what_each_day_added_to_what_had_come_back() -> None:
    days = [DAY + timedelta(days=n) for n in (1, 5, 9, 2)]
    orders = pd.DataFrame(
        {
            "order_id": ["a", "a", "a", "b"],
            "snapshot_date": days,
            "returned_amount": [0.0, 5.0, 12.0, None],
        }
    )
    found = returns_of(orders.sample(frac=1, random_state=1))
    told = found[["order_id", "returned_date", "revenue_amount"]].to_numpy().tolist()
    assert told == [["a", days[1], 5.0], ["a", days[2], 7.0]]


def test_customers_are_due_when_their_window_closes_and_when_it_settles() -> None:
    ledger = _ledger(100)
    assert len(due_on(ledger, END, 10)) == len(due_on(ledger, END + timedelta(days=10), 10)) > 0
    for day in (END - timedelta(days=1), END + timedelta(days=1), END + timedelta(days=11)):
        assert due_on(ledger, day, 10).empty

"""What became of every assigned customer: orders, money, costs, messages, in a window of their own.

What belongs here: one row per assigned customer. What does not: comparisons (results.py), who was
assigned (the ledger).

Intention to treat: a customer whose message was never sent or opened stays a row of the arm that
was drawn; filtering by exposure would compare the willing with everybody.

Windows are half-open and close per customer: orders of (assigned_date, assigned_date + window_days]
count, and returns of those orders up to `settle_days` later (in Online Retail II half of what comes
back does so within 10 days, nine tenths within 78). So the value of a closed window never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

# Sums per customer and window, in the shop's currency where they end in _amount.
MEASURES = [
    "retained",
    "order_count",
    "revenue_amount",
    "discount_amount",
    "margin_amount",
    "net_margin_amount",
    "assumed_margin_amount",
    "cost_amount",
    "profit_amount",
]
FLAGS = ["is_sent", "is_delivered", "is_opened", "is_clicked"]
# Non-compliance: the tool sent the message of another arm than was drawn.
OTHER_ARM = "is_sent_other_arm"
COLUMNS = [
    "campaign_id",
    "customer_key",
    "arm",
    "assigned_date",
    "window_end_date",
    "settled_date",
    *FLAGS,
    *MEASURES,
    "first_order_date",
    OTHER_ARM,
]


def unit_outcomes(
    ledger: pd.DataFrame,
    orders: pd.DataFrame,
    as_of: date,
    *,
    window_days: int,
    settle_days: int = 0,
    contact_costs: Mapping[str, float],
    returns: pd.DataFrame | None = None,
    deliveries: pd.DataFrame | None = None,
    margin_rate: float | None = None,
) -> pd.DataFrame:
    """Return `COLUMNS`, one row per ledger row of one campaign, sorted by customer_key.

    ledger: campaign_id, customer_key, arm, assigned_date. orders: the state of each order as known
    at the end of `as_of`: customer_key, ordered_date, revenue_amount (after discounts and
    cancellations), margin_amount (null where a cost is unknown), is_wholly_cancelled; and
    discount_amount (else 0) and order_id (needed with returns). returns: order_id, returned_date,
    revenue_amount, margin_amount taken back (margin null: at the order's own rate). deliveries:
    their state as known then: campaign_id, customer_key, sent_date, and where known bounced_at,
    opened_at, clicked_at, cost_amount, arm (whose message it was); those sent within the window
    count. Without the frame the messages are unknown (null flags) and everybody in a contacted arm
    is charged. contact_costs:
    declared cost of one contact per arm, where no delivery says what it was. margin_rate: share of
    revenue that is margin where a unit cost is missing; what rests on it is in
    assumed_margin_amount.

    margin_amount is net of discounts, net_margin_amount of returns, too; assumed_margin_amount is
    the part of the latter that rests on margin_rate. cost_amount is what the campaign spent:
    contacts, and the discounts redeemed within the window; profit_amount = net_margin_amount less
    contacts (discounts are out of the margin already). is_sent_other_arm: a message of another arm
    was sent; null where no message says whose it was. first_order_date: of the first of the orders
    counted, or null. Nothing after `as_of` counts.

    Raises ValueError where a customer stands twice, an arm has no declared cost, or a margin is
    missing and no rate is given.
    """
    names = sorted(set(ledger["campaign_id"]))
    if len(names) > 1:
        raise ValueError(f"outcomes are made of one campaign at a time, not of {names}")
    where = f"campaign {names[0]}" if names else "campaign"
    if unpriced := sorted(set(ledger["arm"]) - set(contact_costs)):
        raise ValueError(f"{where}: contact_costs lacks the arms {unpriced}")
    frame = ledger[["campaign_id", "customer_key", "arm", "assigned_date"]]
    if not frame["customer_key"].is_monotonic_increasing:
        frame = frame.sort_values("customer_key")
    frame = frame.reset_index(drop=True)
    units = pd.Index(frame["customer_key"])
    if not units.is_unique:
        raise ValueError(f"{where}: a customer is assigned twice in the ledger")
    assigned = pd.to_datetime(frame["assigned_date"])
    ends = assigned + pd.Timedelta(days=window_days)
    settled = ends + pd.Timedelta(days=settle_days)
    frame["window_end_date"], frame["settled_date"] = ends.dt.date, settled.dt.date

    sums = _sums_of_orders(
        where, orders, units, assigned, ends, settled, as_of, returns, margin_rate
    )
    frame["retained"] = (sums["order_count"] > 0).astype("float64")
    frame["first_order_date"] = sums.pop("first_order_date")
    declared = frame["arm"].map({arm: float(cost) for arm, cost in contact_costs.items()})
    contacts = _messages(frame, units, deliveries, as_of, declared.to_numpy(dtype=np.float64))
    frame = frame.assign(**sums)
    frame["cost_amount"] = contacts + frame["discount_amount"]
    frame["profit_amount"] = frame["net_margin_amount"] - contacts
    return frame[COLUMNS]


def _sums_of_orders(
    where: str,
    orders: pd.DataFrame,
    units: pd.Index,
    assigned: pd.Series,
    ends: pd.Series,
    settled: pd.Series,
    as_of: date,
    returns: pd.DataFrame | None,
    margin_rate: float | None,
) -> dict[str, Any]:
    at = units.get_indexer(pd.Index(orders["customer_key"]))
    ordered = pd.to_datetime(orders["ordered_date"]).to_numpy()
    safe = np.maximum(at, 0)
    if len(units) == 0:
        inside = np.zeros(len(orders), dtype=bool)
    else:
        inside = (
            (at >= 0)
            & ~orders["is_wholly_cancelled"].to_numpy(dtype=bool)
            & (ordered > assigned.to_numpy()[safe])
            & (ordered <= ends.to_numpy()[safe])
            & (ordered <= np.datetime64(as_of))
        )
    valid = orders[inside]
    unit = at[inside]
    revenue = _amounts(valid, "revenue_amount")
    margin = valid["margin_amount"].astype("float64").to_numpy()
    unknown = np.isnan(margin)
    if unknown.any() and margin_rate is None:
        raise ValueError(
            f"{where}: {int(unknown.sum())} orders have no margin; deliver unit_cost, or declare "
            "the margin rate with which to assume it"
        )
    margin = np.where(unknown, revenue * (margin_rate or 0.0), margin)
    net = margin.copy()
    if returns is not None and len(returns) and len(valid):
        order = pd.Index(valid["order_id"])
        back = order.get_indexer(pd.Index(returns["order_id"]))
        returned = pd.to_datetime(returns["returned_date"]).to_numpy()
        known = (back >= 0) & (returned <= np.datetime64(as_of))
        known &= returned <= settled.to_numpy()[unit[np.maximum(back, 0)]]
        back, taken = back[known], returns[known]
        lost = _amounts(taken, "revenue_amount")
        rate = np.divide(margin, revenue, out=np.zeros_like(margin), where=revenue > 0)[back]
        lost_margin = taken["margin_amount"].astype("float64").to_numpy()
        lost_margin = np.where(np.isnan(lost_margin), lost * rate, lost_margin)
        order_of_returns = np.lexsort((lost_margin, back))
        np.subtract.at(net, back[order_of_returns], lost_margin[order_of_returns])
    discount = np.zeros(len(valid))
    if "discount_amount" in valid:
        discount = np.nan_to_num(_amounts(valid, "discount_amount"))
    # Sorted, so that the sums of doubles have one order whatever order the rows came in.
    order_of_rows = np.lexsort((discount, net, margin, revenue, valid["ordered_date"], unit))

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(
            unit[order_of_rows], weights=values[order_of_rows], minlength=len(units)
        ).astype(np.float64)

    first = np.full(len(units), np.datetime64("NaT"), dtype="datetime64[D]")
    np.fmin.at(first, unit, ordered[inside].astype("datetime64[D]"))
    days = pd.Series(pd.to_datetime(first)).dt.date

    return {
        "first_order_date": days.astype("object").where(days.notna(), None),
        "order_count": total(np.ones(len(valid))),
        "revenue_amount": total(revenue),
        "discount_amount": total(discount),
        "margin_amount": total(margin),
        "net_margin_amount": total(net),
        "assumed_margin_amount": total(np.where(unknown, net, 0.0)),
    }


def _messages(
    frame: pd.DataFrame,
    units: pd.Index,
    deliveries: pd.DataFrame | None,
    as_of: date,
    declared: np.ndarray,
) -> np.ndarray:
    """Set the flags of what was sent; return the cost of contacts per customer."""
    if deliveries is None:
        for flag in (*FLAGS, OTHER_ARM):
            frame[flag] = pd.Series(pd.NA, index=frame.index, dtype="boolean")
        return declared
    own = deliveries[deliveries["campaign_id"].isin(set(frame["campaign_id"]))]
    at = units.get_indexer(pd.Index(own["customer_key"]))
    sent = pd.to_datetime(own["sent_date"]).to_numpy()
    inside = (at >= 0) & (sent <= np.datetime64(as_of))
    if len(units):
        ends = pd.to_datetime(frame["window_end_date"]).to_numpy()
        inside &= sent <= ends[np.maximum(at, 0)]
    own, at = own[inside], at[inside]

    def known(column: str) -> np.ndarray:
        return own[column].notna().to_numpy() if column in own else np.zeros(len(own), dtype=bool)

    for flag, which in (
        ("is_sent", np.ones(len(own), dtype=bool)),
        ("is_delivered", ~known("bounced_at")),
        ("is_opened", known("opened_at")),
        ("is_clicked", known("clicked_at")),
    ):
        value = np.zeros(len(frame), dtype=bool)
        value[at[which]] = True
        frame[flag] = pd.array(value, dtype="boolean")
    told = known("arm")
    is_other = np.zeros(len(frame), dtype=bool)
    is_told = np.zeros(len(frame), dtype=bool)
    if told.any():
        drawn = frame["arm"].to_numpy(dtype=object)[at[told]]
        is_other[at[told][own["arm"].to_numpy(dtype=object)[told] != drawn]] = True
        is_told[at[told]] = True
    frame[OTHER_ARM] = pd.array(is_other, dtype="boolean")
    frame.loc[~is_told, OTHER_ARM] = pd.NA
    cost = declared[at]
    if "cost_amount" in own:
        given = own["cost_amount"].astype("float64").to_numpy()
        cost = np.where(np.isnan(given), cost, given)
    order_of_rows = np.lexsort((cost, at))
    return np.bincount(at[order_of_rows], weights=cost[order_of_rows], minlength=len(frame)).astype(
        np.float64
    )


def _amounts(frame: pd.DataFrame, column: str) -> np.ndarray:
    return frame[column].astype("float64").to_numpy(copy=True)


def returns_of(orders: pd.DataFrame) -> pd.DataFrame:
    """The returns behind published orders: what came back on each day on which that was known.

    orders: `lake/orders` of some days, changes in order of `snapshot_date` with the amount returned
    so far. Returns order_id, returned_date, revenue_amount, margin_amount (null: at the order's own
    rate, so goods count as back on the shelf).
    """
    changes = orders.sort_values(["order_id", "snapshot_date"], kind="stable")
    so_far = changes["returned_amount"].astype("float64").fillna(0.0)
    before = so_far.groupby(changes["order_id"]).shift(fill_value=0.0)
    frame = pd.DataFrame(
        {
            "order_id": changes["order_id"],
            "returned_date": changes["snapshot_date"],
            "revenue_amount": so_far - before,
            "margin_amount": np.nan,
        }
    )
    return frame[frame["revenue_amount"] != 0].reset_index(drop=True)


def due_on(ledger: pd.DataFrame, day: date, settle_days: int) -> pd.DataFrame:
    """The rows of a campaign's ledger whose window closes on `day`, or settles on it."""
    ends = ledger["window_end_date"]
    return ledger[(ends == day) | (ends == day - timedelta(days=settle_days))]

"""Campaigns: what the shop sends to customers, and what it truly does to them.

What belongs here: the treatments frame turned into contacts, and their true effects. What does not:
who is eligible and in which arm (the platform decides that), and how customers respond
(behaviour.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.simulation.behaviour import Contacts, contact_strength, live, start
from ml.simulation.config import Calendar, ShopConfig, calendar, day_number
from ml.simulation.customers import Customers, customers_until
from ml.simulation.draws import Stream, derive, name_key
from ml.simulation.sales import Sales, amounts_per_order, sell

CONTROL = "control"
_COLUMNS = ("campaign_id", "customer_id", "arm", "sent_at", "channel", "is_coupon")


def customer_id(number: NDArray[np.int64]) -> list[str]:
    """Return the shop's own ids of customers by number."""
    return [f"C{i:07d}" for i in number.tolist()]


@dataclass(frozen=True, eq=False)
class Sent:
    """Treatments that were sent, in the order of `contacts`."""

    contacts: Contacts
    sent_us: NDArray[np.int64]
    is_coupon: NDArray[np.bool_]
    campaign_id: NDArray[np.object_]
    channel: NDArray[np.object_]
    arm: NDArray[np.object_]

    def take(self, index: NDArray) -> Sent:
        """Return the treatments at `index`."""
        rest = {k: v[index] for k, v in vars(self).items() if k != "contacts"}
        return Sent(contacts=self.contacts.take(index), **rest)


def read_treatments(
    config: ShopConfig,
    cal: Calendar,
    customers: Customers,
    treatments: pd.DataFrame | None,
    before_us: int,
) -> Sent:
    """Return what was sent before a moment, ordered by (day, customer, campaign).

    Args:
        treatments: columns campaign_id, customer_id, arm, sent_at (with a time zone), channel (of
            the contract's consent channels), is_coupon. Rows of arm `control` or without an arm are
            not sent.

    Raises:
        ValueError: a column is missing or null, a channel or customer is unknown, sent_at has no
            time zone, or a customer is treated twice in one campaign.
    """
    if treatments is None or treatments.empty:
        no = np.zeros(0, object)
        return Sent(Contacts.none(), np.zeros(0, np.int64), np.zeros(0, bool), no, no, no)
    missing = [c for c in _COLUMNS if c not in treatments.columns]
    if missing:
        raise ValueError(f"treatments lacks the columns {', '.join(missing)}")
    rows = treatments.loc[treatments["arm"].notna() & (treatments["arm"] != CONTROL), [*_COLUMNS]]
    if rows.isna().any(axis=None):
        bad = [c for c in _COLUMNS if rows[c].isna().any()]
        raise ValueError(f"treatments has rows to be sent with empty {', '.join(bad)}")
    if not isinstance(rows["sent_at"].dtype, pd.DatetimeTZDtype):
        raise ValueError("treatments.sent_at needs a time zone (UTC timestamps)")
    twice = int(rows.duplicated(["campaign_id", "customer_id"]).sum())
    if twice:
        raise ValueError(f"treatments has {twice} rows that treat a customer again in one campaign")
    sent_us = rows["sent_at"].dt.tz_convert("UTC").dt.as_unit("us").astype("int64").to_numpy()
    rows, sent_us = rows[sent_us < before_us], sent_us[sent_us < before_us]
    index = pd.Index(customer_id(customers.number))
    who = index.get_indexer(pd.Index(rows["customer_id"].astype(str)))
    if (who < 0).any():
        raise ValueError(
            f"treatments names {int((who < 0).sum())} customers whom this shop does not know when "
            "they are sent to"
        )
    day = cal.day_of(sent_us)
    if (day < 0).any() or (day < customers.entry_day[who]).any():
        raise ValueError("treatments has rows sent before the shop's first day or the customer's")
    campaign = rows["campaign_id"].astype(str).to_numpy(object)
    channel = rows["channel"].astype(str).to_numpy(object)
    is_coupon = rows["is_coupon"].to_numpy(bool)
    keys = {name: name_key(name) for name in sorted(set(campaign))}
    kinds = {
        (c, k): contact_strength(config, c, k)
        for c, k in sorted(set(zip(channel, is_coupon, strict=True)))
    }
    contacts = Contacts(
        day=day,
        customer=who.astype(np.int64),
        campaign_key=np.array([keys[c] for c in campaign], np.uint64),
        strength=np.array([kinds[p] for p in zip(channel, is_coupon, strict=True)], float),
    )
    arm = rows["arm"].astype(str).to_numpy(object)
    everything = Sent(contacts, sent_us, is_coupon, campaign, channel, arm)
    return everything.take(np.lexsort((campaign.astype(str), who, day)))


def true_effects(
    config: ShopConfig,
    treatments: pd.DataFrame,
    campaign_id: str,
    window_days: int = 28,
    customer_ids: Sequence[str] | None = None,
    n_replicates: int = 100,
) -> pd.DataFrame:
    """Return the expected effect of a campaign, customer by customer: treated minus untreated.

    Each customer is taken in the hidden state that they really had on the morning of the sending
    day, and lives through the window `n_replicates` times in either world, with the same luck in
    both. Earlier and other contacts in `treatments` happen in both worlds alike. The mean over
    customers is the average effect of treating them (not of assigning them, where some are not
    sent to); its standard error from replication is about 0.4 / sqrt(customers * replicates).

    Args:
        treatments: as for `simulate`; the campaign's rows say when, by which channel and with which
            offer. Control rows count as would-have-been: their sent_at, channel and is_coupon are
            used where given, otherwise those of the campaign's first sent row.
        window_days: the days after the sending day that count, half-open on the sending day.
        customer_ids: whom to average over; by default every customer of the campaign.

    Returns:
        One row per customer: customer_id; control_* and treated_* means and effect_* for
        is_retained (any kept order in the window), order_count, revenue_amount, margin_amount
        (definitions in sales.amounts_per_order; cost of contact not deducted).

    Raises:
        ValueError: the campaign has no sent row, or a customer is not part of it.
    """
    mine = treatments[treatments["campaign_id"] == campaign_id].copy()
    sent_rows = mine[mine["arm"].notna() & (mine["arm"] != CONTROL)]
    if sent_rows.empty:
        raise ValueError(f"campaign {campaign_id!r} has no row that was sent")
    for column in ("sent_at", "channel", "is_coupon"):
        mine[column] = mine[column].where(mine[column].notna(), sent_rows[column].iloc[0])
    mine["arm"] = "treated"
    mine["is_coupon"] = mine["is_coupon"].astype(bool)
    mine["sent_at"] = pd.to_datetime(mine["sent_at"], utc=True)
    if customer_ids is not None:
        wanted = pd.Index(customer_ids)
        absent = ~wanted.isin(mine["customer_id"])
        if absent.any():
            raise ValueError(
                f"{int(absent.sum())} customers are not part of campaign {campaign_id!r}"
            )
        mine = mine[mine["customer_id"].isin(wanted)]
    last = mine["sent_at"].max().tz_convert(config.timezone).date()
    end = day_number(config, last) + window_days + 1
    cal = calendar(config, end)
    customers = customers_until(config, cal, end)
    others = treatments[treatments["campaign_id"] != campaign_id]
    end_us = cal.start_us(end)
    context = read_treatments(config, cal, customers, others, end_us)
    target = read_treatments(config, cal, customers, mine, end_us)

    parts = []
    state, at = start(config, customers), 0
    for day in np.unique(target.contacts.day).tolist():
        live(config, cal, customers, state, at, day, context.contacts, sessions_from=end)
        at = day
        these = target.take(target.contacts.day == day)
        n = len(these.sent_us)
        # the same people n_replicates times over, each with luck of their own from here on
        unit = np.tile(np.arange(n), n_replicates)
        person = these.contacts.customer[unit]
        luck = derive(
            customers.key[person], Stream.REPLICATE, np.repeat(np.arange(n_replicates), n), day
        )
        worlds = {}
        for name, with_target in (("control", False), ("treated", True)):
            people = customers.take(person, luck)
            sent = _of_units(context, these, person, with_target)
            log = live(
                config, cal, people, state.take(person), day, day + window_days + 1,
                sent.contacts, sessions_from=end,
            )  # fmt: skip
            sales = sell(
                config, cal, people, log, sent.contacts, sent.sent_us, sent.is_coupon, welcome=False
            )
            worlds[name] = _outcomes(config, sales, unit, n, day, n_replicates)
        ids = customer_id(customers.number[these.contacts.customer])
        frame = pd.DataFrame({"customer_id": ids})
        for metric in worlds["control"]:
            frame[f"control_{metric}"] = worlds["control"][metric]
            frame[f"treated_{metric}"] = worlds["treated"][metric]
            frame[f"effect_{metric}"] = worlds["treated"][metric] - worlds["control"][metric]
        parts.append(frame)
    return pd.concat(parts).sort_values("customer_id", ignore_index=True)


def _of_units(context: Sent, these: Sent, person: NDArray, with_target: bool) -> Sent:
    """Return the contacts of replicated people: the context's, and the target's if wanted."""
    n = len(these.sent_us)
    pieces = [context.take(np.isin(context.contacts.customer, these.contacts.customer))]
    if with_target:
        pieces.append(these)
    joined = Sent(
        Contacts(*(np.concatenate([getattr(p.contacts, k) for p in pieces])
                   for k in ("day", "customer", "campaign_key", "strength"))),
        *(np.concatenate([getattr(p, k) for p in pieces])
          for k in ("sent_us", "is_coupon", "campaign_id", "channel", "arm")),
    )  # fmt: skip
    # position of each contact's person among the n, repeated for each replicate
    order = np.argsort(these.contacts.customer)
    among = order[np.searchsorted(these.contacts.customer[order], joined.contacts.customer)]
    replicates = len(person) // n
    row = np.tile(np.arange(len(among)), replicates)
    units = np.tile(among, replicates) + np.repeat(np.arange(replicates) * n, len(among))
    many = joined.take(row)
    contacts = Contacts(
        many.contacts.day, units, many.contacts.campaign_key, many.contacts.strength
    )
    moved = replace(many, contacts=contacts)
    return moved.take(np.lexsort((contacts.campaign_key, units, contacts.day)))


def _outcomes(
    config: ShopConfig, sales: Sales, unit: NDArray, n: int, day: int, n_replicates: int
) -> dict[str, NDArray[np.float64]]:
    """Return the mean outcomes of n people over their replicates, in days after `day`."""
    revenue, margin = amounts_per_order(config, sales)
    counts = sales.is_kept & (sales.day > day)
    orders = np.bincount(sales.customer, counts, len(unit))
    per_unit = {
        "is_retained": (orders > 0).astype(float),
        "order_count": orders,
        "revenue_amount": np.bincount(sales.customer, revenue * counts, len(unit)) / 100,
        "margin_amount": np.bincount(sales.customer, margin * counts, len(unit)) / 100,
    }
    return {k: np.bincount(unit, v, n) / n_replicates for k, v in per_unit.items()}

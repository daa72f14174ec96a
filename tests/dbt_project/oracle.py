"""The marts by brute force: plain loops over raw rows, without any of the mart's devices.

Belongs here: what a person would compute with a pencil who may look at the raw rows of one day's
knowledge. First each table is reduced to the rows as known at the end of the day, outcomes of later
days struck out; then every number is a loop over those rows.
"""

from __future__ import annotations

import math
import statistics
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from raw_world import KEYS, OUTCOMES, World, shop_day

Row = dict[str, Any]
NEVER = date(1900, 1, 1)
PERSON = ("country", "birth_year", "gender", "acquisition_channel")
CENTS = Decimal("0.0001")


def _plain(frame: pd.DataFrame) -> list[Row]:
    rows: list[Row] = []
    for record in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        for name in ("occurred_date", "arrived_date"):
            row[name] = row[name].date() if row[name] is not None else None
        rows.append(row)
    return rows


def known_date(row: Row) -> date:
    """The later of a row's business day and its arrival, whichever of them there are."""
    return max((d for d in (row["occurred_date"], row["arrived_date"]) if d), default=NEVER)


def as_known(world: World, table: str, day: date, timezone: str) -> list[Row]:
    """Return the rows of a table as known at the end of a day, one per key, outcomes dated."""
    frame = world[table].copy()
    for column in (*OUTCOMES.get(table, []), "expires_at"):
        if column in frame:
            frame[column.replace("_at", "_day")] = shop_day(frame[column], timezone)
    winners: dict[tuple[Any, ...], Row] = {}
    for row in sorted(
        _plain(frame), key=lambda r: (bool(r["_is_current"]), r["_file_id"], r["_line"])
    ):
        if known_date(row) <= day:
            winners[tuple(row[name] for name in KEYS[table])] = row
    for row in winners.values():
        row["has_cancelled_at"] = row.get("cancelled_at") is not None
        for column in OUTCOMES.get(table, []):
            name = column.replace("_at", "_day")
            row[name] = row[name].date() if row[name] is not None else None
            if row[name] is not None and row[name] > day:
                row[name] = row[column] = None
        if row.get("expires_day") is not None:
            row["expires_day"] = row["expires_day"].date()
    return list(winners.values())


def money(value: Any) -> Decimal:
    return Decimal(str(value)).quantize(CENTS, ROUND_HALF_UP)


def _quantile(values: list[int], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None


class Knowledge:
    """Everything known at the end of one day, and the numbers of each customer on it."""

    def __init__(
        self,
        world: World,
        day: date,
        timezone: str = "Europe/Berlin",
        active_window_days: int = 180,
        history_start: date = date(2024, 1, 1),
        season_days: int = 90,
        prior: int = 3,
        consent_without_records: bool = False,
    ) -> None:
        self.day = day
        self.active_window_days = active_window_days
        self.history_start = history_start
        self.season_days = season_days
        self.prior = prior
        self.consent_without_records = consent_without_records
        self.rows = {table: as_known(world, table, day, timezone) for table in KEYS}
        self.all_products = _plain(world["products"])
        self.orders = self._orders()
        self.by_customer: dict[str, list[Row]] = {}
        for order in self.orders:
            self.by_customer.setdefault(order["customer_key"], []).append(order)
        self.gaps = {key: self._gaps(key) for key in self.by_customer}
        self.shop_gaps = [gap for gaps in self.gaps.values() for gap in gaps]
        self.dropout = self._dropout()

    def _product(self, product_id: str, line_known: date) -> Row | None:
        """The version of a product that a line keeps: the one known with it, else the first."""
        versions = [p for p in self.all_products if p["product_id"] == product_id]
        versions.sort(key=lambda p: (bool(p["_is_current"]), p["_file_id"], p["_line"]))
        if not versions:
            return None
        since = max(line_known, min(known_date(p) for p in versions))
        if since > self.day:
            return None
        return [p for p in versions if known_date(p) <= since][-1]

    def _orders(self) -> list[Row]:
        items: dict[str, list[Row]] = {}
        for item in self.rows["order_items"]:
            items.setdefault(item["order_id"], []).append(item)
        orders = []
        for order in self.rows["orders"]:
            lines = []
            for item in items.get(order["order_id"], []):
                cancelled = 0
                if item["cancelled_day"] is not None or not item["has_cancelled_at"]:
                    whole = item["quantity"] if item["has_cancelled_at"] else 0
                    asked = item["cancelled_quantity"]
                    cancelled = min(whole if asked is None else asked, item["quantity"])
                if order["cancelled_day"] is not None:
                    cancelled = item["quantity"]
                product = self._product(
                    item["product_id"], max(known_date(order), known_date(item))
                )
                net = item["quantity"] - cancelled
                price = money(item["unit_price"])
                cost = money(product["unit_cost"]) if product and product["unit_cost"] else None
                lines.append(
                    {
                        "product_id": item["product_id"],
                        "line_number": item["line_number"],
                        "is_product": product is not None,
                        "category": product["category"] if product else None,
                        "quantity": item["quantity"],
                        "net": net,
                        "price": price,
                        "gross": price * item["quantity"],
                        "net_amount": price * net,
                        "cost": Decimal(0) if net == 0 else cost and cost * net,
                    }
                )
            units = sum(line["net"] for line in lines)
            wholly = order["cancelled_day"] is not None or (bool(lines) and units == 0)
            net_amount = sum((line["net_amount"] for line in lines), Decimal(0))
            discount = Decimal(0)
            if not wholly and order["discount_amount"] is not None:
                discount = min(money(order["discount_amount"]), net_amount)
            known_cost = bool(lines) and all(line["cost"] is not None for line in lines)
            margin: Decimal | None = None
            if wholly:
                margin = Decimal(0)
            elif known_cost:
                margin = net_amount - discount - sum(line["cost"] for line in lines)
            orders.append(
                {
                    **order,
                    "lines": lines,
                    "is_wholly_cancelled": wholly,
                    "units": units,
                    "gross": sum((line["gross"] for line in lines), Decimal(0)),
                    "net_amount": net_amount,
                    "discount": discount,
                    "revenue": net_amount - discount,
                    "margin": margin,
                }
            )
        return orders

    def refund(self, row: Row) -> Decimal:
        """Return what a return is worth: as refunded, otherwise at the price of its line."""
        if row["amount"] is not None:
            return money(row["amount"])
        for order in self.orders:
            for line in order["lines"]:
                if (order["order_id"], line["line_number"]) == (
                    row["order_id"],
                    row["line_number"],
                ):
                    return line["price"] * row["quantity"]
        return Decimal(0)

    def age(self, day: date) -> int:
        return (self.day - day).days

    def valid(self, key: str, within: int | None = None) -> list[Row]:
        return [
            order
            for order in self.by_customer.get(key, [])
            if not order["is_wholly_cancelled"]
            and (within is None or self.age(order["occurred_date"]) < within)
        ]

    def _gaps(self, key: str) -> list[int]:
        days = sorted({order["occurred_date"] for order in self.valid(key)})
        return [(b - a).days for a, b in pairwise(days)]

    def _dropout(self) -> float:
        """Customers lost per day with a purchase, as far as silence tells who is lost."""
        days = {
            key: {order["occurred_date"] for order in self.valid(key)} for key in self.by_customer
        }
        if not self.shop_gaps:
            return 0.01
        longest = float(np.quantile(self.shop_gaps, 0.9))
        lost = sum(self.age(max(own)) > longest for own in days.values() if own)
        return min(max(lost / sum(map(len, days.values())), 0.01), 0.5)

    def alive(self, key: str) -> tuple[float | None, float | None]:
        """Return P(alive) by MBG/NBD, and P(alive and a purchase within 30 days)."""
        if not self.shop_gaps:
            return None, None
        gaps = self.gaps[key]
        alpha = sum(self.shop_gaps) / len(self.shop_gaps)
        a, b, r = 2 * self.dropout, 2 * (1 - self.dropout), 1
        x, t_x = len(gaps), sum(gaps)
        age = self.age(min(order["occurred_date"] for order in self.valid(key)))
        odds = a / (b + x) * ((alpha + age) / (alpha + t_x)) ** (r + x)
        none_in_30_days = ((alpha + age) / (alpha + age + 30)) ** (r + x)
        return 1 / (1 + odds), 1 / (1 + odds) * (1 - none_in_30_days)

    def population(self) -> list[str]:
        return sorted(key for key in self.by_customer if self.valid(key, self.active_window_days))

    def of(self, table: str, key: str, within: int | None = None) -> list[Row]:
        return [
            row
            for row in self.rows[table]
            if row["customer_key"] == key
            and (within is None or self.age(row["occurred_date"]) < within)
        ]

    def features(self, key: str) -> Row:
        """Return the features of one customer of the population."""
        age = self.age
        ever = self.valid(key)
        year = self.valid(key, 365)
        every = [order for order in self.by_customer[key] if age(order["occurred_date"]) < 365]
        first = min(order["occurred_date"] for order in ever)
        last = max(order["occurred_date"] for order in ever)
        customer = next((c for c in self.rows["customers"] if c["customer_key"] == key), None)
        created = customer["occurred_date"] if customer else None
        gaps = self.gaps[key]

        def revenue(within: int) -> Decimal:
            return sum((order["revenue"] for order in self.valid(key, within)), Decimal(0))

        def count(within: int) -> int:
            return len(self.valid(key, within))

        season = [o for o in year if age(o["occurred_date"]) >= 365 - self.season_days]
        has_last_year = self.history_start <= self.day - timedelta(days=364)
        shop_mean = sum(self.shop_gaps) / len(self.shop_gaps) if self.shop_gaps else None
        shrunk = (
            (sum(gaps) + self.prior * shop_mean) / (len(gaps) + self.prior)
            if shop_mean is not None
            else None
        )

        shrunk_p90 = (
            (
                len(gaps) * (_quantile(gaps, 0.9) or 0.0)
                + self.prior * _quantile(self.shop_gaps, 0.9)
            )
            / (len(gaps) + self.prior)
            if self.shop_gaps
            else None
        )
        alive, buys = self.alive(key)
        recent = self.valid(key, 90)
        before = [o for o in self.valid(key, 180) if age(o["occurred_date"]) >= 90]

        def mean_amount(orders: list[Row]) -> Decimal:
            return sum((o["revenue"] for o in orders), Decimal(0)) / len(orders)

        def since(days: list[date]) -> int | None:
            return age(max(days)) if days else None

        own_orders = {order["order_id"]: order for order in self.by_customer[key]}
        returns = [r for r in self.rows["returns"] if r["order_id"] in own_orders]
        recent_returns = [r for r in returns if age(r["occurred_date"]) < 365]

        coupons = self.of("coupons", key)
        delivered = [
            o for o in year if o["delivered_day"] is not None and age(o["delivered_day"]) < 180
        ]
        days_to = [(o["delivered_day"] - o["occurred_date"]).days for o in delivered]
        shop_delivers = any(
            o["delivered_day"] is not None and age(o["occurred_date"]) < 365 for o in self.orders
        )

        lines = [line for o in year for line in o["lines"] if line["net"] > 0]
        catalogue = any(known_date(p) <= self.day for p in self.all_products)
        per_category: dict[str, int] = {}
        for line in lines:
            if line["category"] is not None:
                per_category[line["category"]] = per_category.get(line["category"], 0) + line["net"]

        units = sum(per_category.values())
        shares = [n / units for n in per_category.values()]

        mail = ("email_open", "email_click")
        events = [e for e in self.of("events", key) if e["event_type"] not in mail]

        def seen(within: int, *kinds: str) -> list[Row]:
            return [
                e
                for e in events
                if age(e["occurred_date"]) < within and (not kinds or e["event_type"] in kinds)
            ]

        def mailed(kind: str) -> int:
            return sum(
                e["event_type"] == kind and age(e["occurred_date"]) < 90
                for e in self.of("events", key)
            )

        tickets = self.of("support_tickets", key)
        csat = [
            float(t["csat"])
            for t in tickets
            if t["closed_day"] is not None and age(t["closed_day"]) < 365 and t["csat"] is not None
        ]
        reviews = sorted(self.of("reviews", key), key=lambda r: (r["created_at"], r["review_id"]))
        ratings = [r["rating"] for r in reviews if age(r["occurred_date"]) < 365]
        sent = self.of("deliveries", key)
        emails = [d for d in sent if d["channel"] == "email"]
        received = [d for d in emails if age(d["occurred_date"]) < 90]
        opened = sum(d["opened_day"] is not None and age(d["opened_day"]) < 90 for d in emails)
        clicked = sum(d["clicked_day"] is not None and age(d["clicked_day"]) < 90 for d in emails)
        opens = max(opened, mailed("email_open"))
        open_days = [
            *(d["opened_day"] for d in emails if d["opened_day"] is not None),
            *(e["occurred_date"] for e in self.of("events", key) if e["event_type"] == mail[0]),
        ]
        contacts = self.of("deliveries", key, 365)
        answered = [
            d
            for d in contacts
            if any(0 <= (o["occurred_date"] - d["occurred_date"]).days < 7 for o in ever)
        ]
        margins = [o["margin"] for o in every]
        return {
            "account_type": (customer or {}).get("account_type") or "consumer",
            "main_category": min(per_category, key=lambda c: (-per_category[c], c), default=None),
            **{name: (customer or {}).get(name) for name in PERSON},
            "days_since_last_order": age(last),
            "days_since_first_order": age(first),
            "is_tenure_censored": (
                first < self.history_start + timedelta(days=self.active_window_days)
                or (created is not None and created < self.history_start)
            ),
            "days_since_created": age(created) if created else None,
            "order_count_30d": count(30),
            "order_count_90d": count(90),
            "order_count_180d": count(180),
            "order_count_365d": count(365),
            "order_count_lifetime": len(ever),
            "order_day_count_365d": len({o["occurred_date"] for o in year}),
            "revenue_amount_30d": revenue(30),
            "revenue_amount_90d": revenue(90),
            "revenue_amount_180d": revenue(180),
            "revenue_amount_365d": revenue(365),
            "margin_amount_365d": None if None in margins else sum(margins, Decimal(0)),
            "average_order_amount_365d": revenue(365) / len(year) if year else None,
            "max_order_amount_365d": max((o["revenue"] for o in year), default=None),
            "average_unit_price_amount_365d": (
                sum(o["net_amount"] for o in year) / sum(o["units"] for o in year)
                if sum(o["units"] for o in year)
                else None
            ),
            "gap_mean_days": statistics.fmean(gaps) if gaps else None,
            "gap_median_days": _quantile(gaps, 0.5),
            "gap_stddev_days": statistics.stdev(gaps) if len(gaps) > 1 else None,
            "gap_p90_days": _quantile(gaps, 0.9),
            "silence_ratio": age(last) / shrunk if shrunk else None,
            "silence_p90_ratio": age(last) / shrunk_p90 if shrunk_p90 else None,
            "alive_probability": alive,
            "purchase_probability_30d": buys,
            "order_count_change_90d": 2 * count(90) - count(180),
            "revenue_amount_change_90d": 2 * revenue(90) - revenue(180),
            "average_order_amount_change_90d": (
                mean_amount(recent) - mean_amount(before) if recent and before else None
            ),
            "return_count_365d": len(recent_returns),
            "return_amount_365d": sum(map(self.refund, recent_returns), Decimal(0)),
            "return_rate_365d": (
                len({r["order_id"] for r in returns} & {o["order_id"] for o in year}) / len(year)
                if year
                else None
            ),
            "days_since_last_return": since([r["occurred_date"] for r in returns]),
            "cancelled_order_count_365d": len(every) - len(year),
            "cancelled_amount_365d": sum((o["gross"] - o["net_amount"] for o in every), Decimal(0)),
            "discount_amount_365d": sum((o["discount"] for o in every), Decimal(0)),
            "discount_rate_365d": (
                float(sum(o["discount"] for o in every))
                / float(sum(o["net_amount"] for o in every))
                if sum(o["net_amount"] for o in every)
                else None
            ),
            "discounted_order_rate_365d": (
                sum(o["discount"] > 0 for o in year) / len(year) if year else None
            ),
            "coupon_redeemed_count_365d": sum(
                c["redeemed_day"] is not None and age(c["redeemed_day"]) < 365 for c in coupons
            ),
            "open_coupon_count": sum(
                c["redeemed_day"] is None
                and (c["expires_day"] is None or c["expires_day"] > self.day)
                for c in coupons
            ),
            "product_count_365d": len(
                {line["product_id"] for line in lines if line["is_product"] or not catalogue}
            ),
            "category_count_365d": len(per_category),
            "item_count_365d": sum(o["units"] for o in year),
            "main_category_share_365d": (
                max(per_category.values()) / sum(per_category.values()) if per_category else None
            ),
            # Each term is rounded to nine digits, so that the sum of them is exact.
            "category_entropy_365d": (
                float(sum(round(-s * math.log(s), 9) for s in shares)) if shares else None
            ),
            "order_count_same_weeks_last_year": len(season) if has_last_year else None,
            "revenue_amount_same_weeks_last_year": (
                sum((o["revenue"] for o in season), Decimal(0)) if has_last_year else None
            ),
            "same_weeks_order_share": len(season) / len(year) if has_last_year and year else None,
            "has_last_year": has_last_year,
            "late_delivery_count_180d": sum(days > 7 for days in days_to),
            "delivery_days_mean_180d": statistics.fmean(days_to) if days_to else None,
            "undelivered_order_count": (
                sum(o["delivered_day"] is None and 14 < age(o["occurred_date"]) < 180 for o in year)
                if shop_delivers
                else 0
            ),
            "event_count_7d": len(seen(7)),
            "event_count_30d": len(seen(30)),
            "event_count_90d": len(seen(90)),
            "event_day_count_30d": len({e["occurred_date"] for e in seen(30)}),
            "event_day_count_90d": len({e["occurred_date"] for e in seen(90)}),
            "view_count_30d": len(seen(30, "view")),
            "cart_count_30d": len(seen(30, "add_to_cart")),
            "session_count_30d": len(
                {(e["occurred_date"], e["session_id"]) for e in seen(30) if e["session_id"]}
            ),
            "days_since_last_event": (
                age(max(e["occurred_date"] for e in events)) if events else None
            ),
            "days_since_last_cart": since(
                [e["occurred_date"] for e in events if e["event_type"] == "add_to_cart"]
            ),
            "event_count_change_30d": 2 * len(seen(30)) - len(seen(60)),
            "event_decay_ratio_30d": (
                (len(seen(7)) / 7) / (len(seen(30)) / 30) if seen(30) else None
            ),
            "ticket_count_90d": len(self.of("support_tickets", key, 90)),
            "ticket_count_365d": len(self.of("support_tickets", key, 365)),
            "open_ticket_count": sum(
                t["closed_day"] is None for t in self.of("support_tickets", key, 180)
            ),
            "days_since_last_ticket": since([t["occurred_date"] for t in tickets]),
            "csat_mean_365d": statistics.fmean(csat) if csat else None,
            "review_count_365d": len(ratings),
            "rating_mean_365d": statistics.fmean(ratings) if ratings else None,
            "last_rating": reviews[-1]["rating"] if reviews else None,
            "rating_change": reviews[-1]["rating"] - statistics.fmean(ratings) if ratings else None,
            "low_rating_count_180d": sum(r["rating"] <= 2 for r in self.of("reviews", key, 180)),
            "days_since_last_review": since([r["occurred_date"] for r in reviews]),
            "email_open_count_90d": opens,
            "email_click_count_90d": max(clicked, mailed("email_click")),
            "email_open_rate_90d": min(1.0, opens / len(received)) if received else None,
            "days_since_last_email_open": since(open_days),
            "contact_count_30d": len(self.of("deliveries", key, 30)),
            "contact_count_90d": len(self.of("deliveries", key, 90)),
            "contact_count_365d": len(contacts),
            "contact_response_rate_365d": len(answered) / len(contacts) if contacts else None,
            "days_since_last_contact": (
                age(max(d["occurred_date"] for d in sent)) if sent else None
            ),
        }

    def consents(self, key: str, purpose: str = "marketing") -> dict[str, bool]:
        """Return whether each channel may be used at the end of the day, addresses apart."""
        answer = {}
        for channel in ("email", "sms", "phone", "post", "push", "ads"):
            told = [
                c
                for c in self.rows["consents"]
                if (c["customer_key"], c["channel"]) == (key, channel)
            ]
            records = [c for c in told if c["purpose"] == purpose]
            if not records:
                assumed = purpose == "marketing" and self.consent_without_records
                answer[channel] = assumed and not told
                continue
            latest = max(records, key=lambda c: (c["changed_at"], c["status"] != "granted"))
            answer[channel] = latest["status"] == "granted" and (
                latest["expires_day"] is None or latest["expires_day"] > self.day
            )
        return answer

    def other_consents(self, key: str) -> str | None:
        """Return the consents to other purposes for which there is an address, in one text."""
        person = next((c for c in self.rows["customers"] if c["customer_key"] == key), {})
        email, phone = bool(person.get("has_email")), bool(person.get("has_phone"))
        reached = {"email": email, "sms": phone, "phone": phone, "ads": email or phone}
        purposes = {c["purpose"] for c in self.rows["consents"]} - {"marketing"}
        found = [
            f"{channel}:{purpose}"
            for purpose in purposes
            for channel, is_given in self.consents(key, purpose).items()
            if is_given and reached.get(channel, True)
        ]
        return "|".join(sorted(found)) or None

    def personal_horizon_days(self, key: str, horizon_days: int) -> int:
        """Return the personal horizon of a customer of the population."""
        if not self.shop_gaps:
            shrunk: float = horizon_days
        else:
            own = self.gaps[key]
            shop = float(np.quantile(self.shop_gaps, 0.9))
            shrunk = (len(own) * (_quantile(own, 0.9) or 0.0) + self.prior * shop) / (
                len(own) + self.prior
            )
        return min(max(int(np.ceil(round(shrunk, 6))), 30), 180)


def label(then: Knowledge, now: Knowledge, key: str) -> Row:
    """Return the label of a customer of the population `then`, judged `now`, when it matures."""
    horizon = now.age(then.day)
    every = [o for o in now.by_customer.get(key, []) if o["occurred_date"] > then.day]
    days = [days_after(then, order) for order in every if not order["is_wholly_cancelled"]]
    own = then.personal_horizon_days(key, horizon)

    def within(length: int) -> tuple[int, Decimal, Decimal | None]:
        orders = [order for order in every if days_after(then, order) <= length]
        margins = [order["margin"] for order in orders]
        return (
            sum(not order["is_wholly_cancelled"] for order in orders),
            sum((order["revenue"] for order in orders), Decimal(0)),
            None if None in margins else sum(margins, Decimal(0)),
        )

    count, revenue, margin = within(horizon)
    answer: Row = {
        "matured_date": now.day,
        "snapshot_date": then.day,
        "horizon_days": horizon,
        "is_churned": int(not count),
        "order_count_horizon": count,
        "revenue_amount_horizon": revenue,
        "margin_amount_horizon": margin,
        "personal_horizon_days": own,
        "is_churned_personal": int(not any(d <= own for d in days)) if own <= horizon else None,
        "was_contacted": any(d["occurred_date"] > then.day for d in now.of("deliveries", key)),
        "days_to_next_order": min(days, default=None),
    }
    for length in (30, 60, 90):
        count_, revenue_, margin_ = within(length) if length <= horizon else (None, None, None)
        answer[f"is_churned_{length}d"] = None if count_ is None else int(count_ == 0)
        answer[f"order_count_next_{length}d"] = count_
        answer[f"revenue_amount_next_{length}d"] = revenue_
        answer[f"margin_amount_next_{length}d"] = margin_
    return answer


def categories(known: Knowledge, key: str, within: int) -> str | None:
    """Return the categories bought of within so many days, by name, a | between two."""
    bought = {
        line["category"].replace("|", "/")
        for order in known.valid(key, within)
        for line in order["lines"]
        if line["category"] is not None and line["net"] > 0
    }
    return "|".join(sorted(bought)) or None


def days_after(then: Knowledge, order: Row) -> int:
    """Return how many days after a snapshot an order was placed."""
    return (order["occurred_date"] - then.day).days


def returns(known: Knowledge, horizon_days: int) -> dict[tuple[str, date], tuple[date, Decimal]]:
    """Return (customer, day of return) -> (silent since, revenue) of all silences ended by then."""
    found = {}
    for key in known.by_customer:
        orders = known.valid(key)
        for last, back in pairwise(sorted({order["occurred_date"] for order in orders})):
            if (back - last).days > horizon_days:
                earned = [o["revenue"] for o in orders if o["occurred_date"] == back]
                found[key, back] = (last, sum(earned, Decimal(0)))
    return found

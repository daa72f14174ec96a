"""A made-up shop as raw tables: the input of every test of the mart, and of its measurements.

Belongs here: one generator, vectorised, for worlds of a few customers or of 20,000, with what makes
time hard in them (late arrivals, versions, cancellations and deliveries known later, expiries), and
the writer that puts such a world into a DuckDB file as the loader would. Does not belong here: the
simulated shop of the product, or any expectation of what the mart makes of it.
"""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pandas as pd

World = dict[str, pd.DataFrame]

RAW_COLUMNS: dict[str, dict[str, str]] = {
    "customers": {
        "customer_key": "VARCHAR",
        "created_at": "TIMESTAMP",
        "has_email": "BOOLEAN",
        "has_phone": "BOOLEAN",
        "account_type": "VARCHAR",
        "country": "VARCHAR",
        "birth_year": "INTEGER",
        "gender": "VARCHAR",
        "acquisition_channel": "VARCHAR",
    },
    "consents": {
        "customer_key": "VARCHAR",
        "channel": "VARCHAR",
        "purpose": "VARCHAR",
        "status": "VARCHAR",
        "changed_at": "TIMESTAMP",
        "expires_at": "TIMESTAMP",
    },
    "products": {
        "product_id": "VARCHAR",
        "category": "VARCHAR",
        "unit_cost": "DECIMAL(18,4)",
    },
    "orders": {
        "order_id": "VARCHAR",
        "customer_key": "VARCHAR",
        "ordered_at": "TIMESTAMP",
        "delivered_at": "TIMESTAMP",
        "cancelled_at": "TIMESTAMP",
        "discount_amount": "DECIMAL(18,4)",
        "shipping_amount": "DECIMAL(18,4)",
        "channel": "VARCHAR",
    },
    "order_items": {
        "order_id": "VARCHAR",
        "line_number": "INTEGER",
        "product_id": "VARCHAR",
        "quantity": "INTEGER",
        "unit_price": "DECIMAL(18,4)",
        "cancelled_quantity": "INTEGER",
        "cancelled_at": "TIMESTAMP",
    },
    "returns": {
        "return_id": "VARCHAR",
        "order_id": "VARCHAR",
        "line_number": "INTEGER",
        "quantity": "INTEGER",
        "amount": "DECIMAL(18,4)",
        "returned_at": "TIMESTAMP",
        "reason": "VARCHAR",
    },
    "coupons": {
        "code": "VARCHAR",
        "customer_key": "VARCHAR",
        "issued_at": "TIMESTAMP",
        "expires_at": "TIMESTAMP",
        "redeemed_at": "TIMESTAMP",
    },
    "events": {
        "event_id": "VARCHAR",
        "customer_key": "VARCHAR",
        "event_type": "VARCHAR",
        "occurred_at": "TIMESTAMP",
        "session_id": "VARCHAR",
    },
    "support_tickets": {
        "ticket_id": "VARCHAR",
        "customer_key": "VARCHAR",
        "opened_at": "TIMESTAMP",
        "closed_at": "TIMESTAMP",
        "csat": "DECIMAL(18,4)",
    },
    "reviews": {
        "review_id": "VARCHAR",
        "customer_key": "VARCHAR",
        "rating": "INTEGER",
        "created_at": "TIMESTAMP",
    },
    "inventory": {
        "product_id": "VARCHAR",
        "counted_at": "TIMESTAMP",
        "quantity_on_hand": "INTEGER",
    },
    "deliveries": {
        "campaign_id": "VARCHAR",
        "customer_key": "VARCHAR",
        "channel": "VARCHAR",
        "sent_at": "TIMESTAMP",
        "status": "VARCHAR",
        "opened_at": "TIMESTAMP",
        "clicked_at": "TIMESTAMP",
        "cost_amount": "DECIMAL(18,4)",
        "arm": "VARCHAR",
    },
}

COMMON_COLUMNS = {
    "arrived_at": "TIMESTAMP",
    "occurred_date": "DATE",
    "arrived_date": "DATE",
    "_file_id": "INTEGER",
    "_line": "INTEGER",
    "_is_current": "BOOLEAN",
    "_superseded_date": "DATE",
}

BUSINESS_TIME = {
    "customers": "created_at",
    "consents": "changed_at",
    "orders": "ordered_at",
    "returns": "returned_at",
    "coupons": "issued_at",
    "events": "occurred_at",
    "support_tickets": "opened_at",
    "reviews": "created_at",
    "inventory": "counted_at",
    "deliveries": "sent_at",
}

KEYS = {
    "customers": ["customer_key"],
    "consents": ["customer_key", "channel", "purpose", "changed_at"],
    "products": ["product_id"],
    "orders": ["order_id"],
    "order_items": ["order_id", "line_number"],
    "returns": ["return_id"],
    "coupons": ["code", "customer_key"],
    "events": ["event_id"],
    "support_tickets": ["ticket_id"],
    "reviews": ["review_id"],
    "inventory": ["product_id", "counted_at"],
    "deliveries": ["campaign_id", "customer_key", "channel", "sent_at"],
}

OUTCOMES = {
    "orders": ["delivered_at", "cancelled_at"],
    "order_items": ["cancelled_at"],
    "coupons": ["redeemed_at"],
    "support_tickets": ["closed_at"],
    "deliveries": ["opened_at", "clicked_at"],
}


def shop_day(timestamps: pd.Series, timezone: str) -> pd.Series:
    """Return the shop's calendar day of naive UTC timestamps, as midnight; NaT stays NaT."""
    return (
        pd.to_datetime(timestamps)
        .dt.tz_localize("UTC")
        .dt.tz_convert(ZoneInfo(timezone))
        .dt.tz_localize(None)
        .dt.normalize()
    )


def make_world(
    seed: int,
    customers: int = 60,
    start: str = "2024-01-01",
    days: int = 500,
    orders_per_customer: float = 6.5,
    events_per_customer: float = 25.0,
    products: int = 40,
    late_share: float = 0.1,
    redelivered_share: float = 0.1,
    timezone: str = "Europe/Berlin",
) -> World:
    """Return a world of raw tables, one frame each, with the loader's own columns filled in.

    `late_share` of the rows of every table carry an arrival one to twenty days after their business
    time; `redelivered_share` are delivered a second time, changed, with or without an arrival.
    """
    rng = np.random.default_rng(seed)
    origin = pd.Timestamp(start)
    keys = np.array([f"{i:032x}" for i in range(customers)])

    def instants(low: np.ndarray | float, high: np.ndarray | float, size: int) -> pd.Series:
        """Timestamps between two offsets in days; a third of them close to midnight UTC."""
        offset = rng.uniform(low, high, size)
        near = rng.random(size) < 0.33
        offset = np.where(near, np.floor(offset) + rng.integers(-3, 4, size) / 24, offset)
        offset = np.clip(offset, 0, None)
        return pd.Series(origin + pd.to_timedelta(np.round(offset * 86400), unit="s"))

    def after(times: pd.Series, share: float, low: float, high: float) -> pd.Series:
        """Later timestamps for a share of the rows, none for the others."""
        shifted = times + pd.to_timedelta(
            np.round(rng.uniform(low, high, len(times)) * 86400), unit="s"
        )
        return shifted.where(rng.random(len(times)) < share)

    def money(low: float, high: float, size: int) -> np.ndarray:
        return np.round(rng.uniform(low, high, size), 2)

    world: World = {}
    created = rng.uniform(-100, days * 0.8, customers)
    world["customers"] = pd.DataFrame(
        {
            "customer_key": keys,
            "created_at": origin + pd.to_timedelta(np.round(created * 86400), unit="s"),
            "has_email": rng.random(customers) < 0.9,
            "has_phone": rng.random(customers) < 0.5,
            "account_type": rng.choice(["consumer", "business"], customers, p=[0.9, 0.1]),
        }
    )
    person = np.random.default_rng(customers)  # its own, so that no other draw depends on it
    for column, values in {
        "country": ["DE", "AT", None],
        "birth_year": [1950, 1988, None],
        "gender": ["female", "male", None],
        "acquisition_channel": ["search", "friend", None],
    }.items():
        drawn = person.integers(0, 3, customers)
        world["customers"][column] = pd.Series([values[i] for i in drawn], dtype=object)

    n = int(customers * 2.5)
    changed = instants(0, days, n)
    world["consents"] = pd.DataFrame(
        {
            "customer_key": rng.choice(keys, n),
            "channel": rng.choice(["email", "sms", "phone", "post", "push"], n),
            "status": rng.choice(["granted", "denied", "revoked"], n, p=[0.7, 0.1, 0.2]),
            "changed_at": changed,
            "expires_at": after(changed, 0.3, 1, 200),
        }
    ).drop_duplicates(["customer_key", "channel", "changed_at"], ignore_index=True)

    product_ids = np.array([f"p{i:05d}" for i in range(products)])
    world["products"] = pd.DataFrame(
        {
            "product_id": product_ids[: max(1, int(products * 0.95))],
        }
    )
    n = len(world["products"])
    world["products"]["category"] = rng.choice(
        np.array(["a", "b", "c", "d", "e", None], dtype=object), n
    )
    world["products"]["unit_cost"] = np.where(rng.random(n) < 0.97, money(1, 20, n), np.nan)

    n = int(customers * orders_per_customer)
    weight = rng.gamma(0.8, 1.0, customers) + 0.02
    owner = rng.choice(customers, n, p=weight / weight.sum())
    first = np.clip(created[owner], 0, None)
    life = first + rng.uniform(0.1, 1.0, customers)[owner] * (days - first)
    ordered = instants(first, life, n)
    world["orders"] = pd.DataFrame(
        {
            "order_id": [f"o{i:07d}" for i in range(n)],
            "customer_key": keys[owner],
            "ordered_at": ordered,
            "delivered_at": after(ordered, 0.85, 0.5, 14),
            "cancelled_at": after(ordered, 0.06, 0.0, 30),
            "discount_amount": np.where(rng.random(n) < 0.3, money(0, 30, n), np.nan),
            "shipping_amount": money(0, 6, n),
            "channel": rng.choice(["web", "app"], n),
        }
    )

    lines = 1 + rng.poisson(1.2, n)
    order = np.repeat(np.arange(n), lines)
    m = len(order)
    quantity = rng.integers(1, 5, m)
    line_cancelled = after(ordered.iloc[order].reset_index(drop=True), 0.08, 0.0, 40)
    world["order_items"] = pd.DataFrame(
        {
            "order_id": world["orders"]["order_id"].to_numpy()[order],
            "line_number": (np.arange(m) - np.repeat(np.cumsum(lines) - lines, lines) + 1),
            "product_id": rng.choice(product_ids, m),
            "quantity": quantity,
            "unit_price": money(2, 60, m),
            "cancelled_quantity": pd.array(
                np.where(line_cancelled.notna(), rng.integers(1, quantity + 1), 0), dtype="Int64"
            ),
            "cancelled_at": line_cancelled,
        }
    )

    picked = np.sort(rng.choice(m, int(m * 0.06), replace=False))
    returned = ordered.iloc[order[picked]].reset_index(drop=True)
    world["returns"] = pd.DataFrame(
        {
            "return_id": [f"r{i:06d}" for i in range(len(picked))],
            "order_id": world["order_items"]["order_id"].to_numpy()[picked],
            "line_number": world["order_items"]["line_number"].to_numpy()[picked],
            "quantity": 1,
            "amount": np.where(rng.random(len(picked)) < 0.8, money(2, 60, len(picked)), np.nan),
            "returned_at": after(returned, 2.0, 1, 60),
            "reason": "size",
        }
    )

    n = customers * 2
    issued = instants(0, days, n)
    world["coupons"] = pd.DataFrame(
        {
            "code": [f"c{i:06d}" for i in range(n)],
            "customer_key": rng.choice(keys, n),
            "issued_at": issued,
            "expires_at": after(issued, 0.7, 5, 90),
            "redeemed_at": after(issued, 0.3, 0.1, 60),
        }
    )

    n = int(customers * events_per_customer)
    owner = rng.choice(customers, n, p=weight / weight.sum())
    # A customer browses on a few days, several events each time.
    visit = rng.integers(0, max(1, int(events_per_customer // 5)), n)
    visit_day = rng.random((customers, visit.max() + 1))[owner, visit]
    joined = np.clip(created[owner], 0, None)
    world["events"] = pd.DataFrame(
        {
            "event_id": [f"e{i:08d}" for i in range(n)],
            "customer_key": keys[owner],
            "event_type": rng.choice(
                ["view", "add_to_cart", "search", "login", "email_open", "email_click"],
                n,
                p=[0.6, 0.12, 0.1, 0.06, 0.08, 0.04],
            ),
            "occurred_at": instants(
                joined + visit_day * (days - joined),
                joined + visit_day * (days - joined) + 0.05,
                n,
            ),
            "session_id": pd.Series([f"s{c}-{v}" for c, v in zip(owner, visit, strict=True)]).where(
                rng.random(n) < 0.95
            ),
        }
    )

    n = customers // 2
    opened = instants(0, days, n)
    closed = after(opened, 0.8, 0.1, 30)
    world["support_tickets"] = pd.DataFrame(
        {
            "ticket_id": [f"t{i:06d}" for i in range(n)],
            "customer_key": rng.choice(keys, n),
            "opened_at": opened,
            "closed_at": closed,
            "csat": pd.Series(rng.integers(1, 6, n)).where(closed.notna()),
        }
    )

    n = customers
    world["reviews"] = pd.DataFrame(
        {
            "review_id": [f"v{i:06d}" for i in range(n)],
            "customer_key": rng.choice(keys, n),
            "rating": rng.integers(1, 6, n),
            "created_at": instants(0, days, n),
        }
    )

    world["inventory"] = pd.DataFrame(
        {
            "product_id": product_ids,
            "counted_at": origin,
            "quantity_on_hand": 10,
        }
    )

    n = customers * 3
    sent = instants(0, days, n)
    opened = after(sent, 0.4, 0.01, 10)
    world["deliveries"] = pd.DataFrame(
        {
            "campaign_id": rng.choice(["spring", "summer", "autumn"], n),
            "customer_key": rng.choice(keys, n),
            "channel": rng.choice(["email", "sms"], n, p=[0.8, 0.2]),
            "sent_at": sent,
            "status": np.where(np.arange(n) % 9 == 0, "bounced", "delivered"),
            "opened_at": opened,
            "clicked_at": after(opened, 0.3, 0.001, 0.5),
            "cost_amount": money(0, 0.2, n),
            "arm": np.where(np.random.default_rng(n).random(n) < 0.5, "coupon", None),
        }
    ).drop_duplicates(KEYS["deliveries"], ignore_index=True)

    for table, frame in world.items():
        times = frame[BUSINESS_TIME[table]] if table in BUSINESS_TIME else None
        if times is not None:
            frame["arrived_at"] = after(times, late_share, 1, 20)
        elif table == "order_items":
            order_times = pd.Series(ordered.to_numpy()[order])
            frame["arrived_at"] = after(order_times, late_share, 1, 20)
        else:
            frame["arrived_at"] = after(pd.Series(origin, index=frame.index), late_share, 0, days)
        frame["_file_id"] = 1
        world[table] = _redeliver(table, frame, redelivered_share, rng)
    world["consents"] = _with_purposes(world["consents"], np.random.default_rng(customers))
    return finish(world, timezone)


def _with_purposes(consents: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Give each decision a purpose, and some a second one that was decided at the same instant."""
    decision = consents.groupby(["customer_key", "channel", "changed_at"], sort=False).ngroup()
    n = int(decision.max()) + 1
    first = rng.choice(["marketing", "service", "survey"], n, p=[0.6, 0.3, 0.1])
    other = rng.choice(["marketing", "service"], n)
    status = rng.choice(["granted", "revoked"], n)
    is_also = (rng.random(n) < 0.4) & (other != first)
    also = consents[is_also[decision]]
    own = decision[also.index]
    return pd.concat(
        [
            consents.assign(purpose=first[decision]),
            also.assign(purpose=other[own], status=status[own]),
        ],
        ignore_index=True,
    )


def _redeliver(
    table: str, frame: pd.DataFrame, share: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Deliver a share of the rows twice: early and without most outcomes, then as they are."""
    frame["_is_current"] = True
    picked = rng.random(len(frame)) < share
    if not picked.any():
        return frame
    early = frame[picked].copy()
    early["_is_current"] = False
    for column in OUTCOMES.get(table, []):
        early[column] = early[column].where(rng.random(len(early)) < 0.3)
    for column, change in {
        "quantity": 1,
        "unit_price": 3,
        "amount": 2,
        "unit_cost": 1,
        "discount_amount": 5,
    }.items():
        if column in early:
            early[column] = early[column] + change
    if "event_type" in early:
        early["event_type"] = "view"
    if "rating" in early:
        early["rating"] = 3
    if "account_type" in early:
        early["account_type"] = "consumer"
    later = frame.copy()
    later["_file_id"] = np.where(picked, 2, 1)
    known = later["arrived_at"]
    if table in BUSINESS_TIME:
        known = known.fillna(later[BUSINESS_TIME[table]])
    moved = known + pd.to_timedelta(rng.integers(1, 60, len(later)), unit="D")
    says = picked & (rng.random(len(later)) < 0.8)
    later["arrived_at"] = later["arrived_at"].where(~says, moved)
    return pd.concat([early, later], ignore_index=True)


def finish(world: World, timezone: str) -> World:
    """Fill in what the loader derives: shop days, lines, and since when a version is superseded."""
    for table, frame in world.items():
        if table in BUSINESS_TIME:
            frame["occurred_date"] = shop_day(frame[BUSINESS_TIME[table]], timezone)
        else:
            frame["occurred_date"] = pd.NaT
        frame["arrived_date"] = shop_day(frame["arrived_at"], timezone)
        frame["_line"] = np.arange(1, len(frame) + 1)
        frame["_superseded_date"] = _superseded_dates(frame, KEYS[table])
    return world


def _superseded_dates(frame: pd.DataFrame, key: list[str]) -> pd.Series:
    """The first day on which a version of the same key that wins over the row was known."""
    latest_first = frame.sort_values(["_is_current", "_file_id", "_line"], ascending=False)
    known = latest_first[["occurred_date", "arrived_date"]].apply(pd.to_datetime).max(axis=1)
    known = known.fillna(pd.Timestamp("1900-01-01"))
    keys = [latest_first[name] for name in key]
    until = known.groupby(keys, dropna=False).cummin()
    return until.groupby(keys, dropna=False).shift().reindex(frame.index)


def write_raw(
    connection: duckdb.DuckDBPyConnection, world: World, shuffle_seed: int | None = None
) -> None:
    """Write a world into the schema `raw`, replacing what is there.

    A table that the world lacks becomes an empty one, as the loader makes it.
    """
    connection.execute("CREATE SCHEMA IF NOT EXISTS raw")
    for table, columns in RAW_COLUMNS.items():
        types = {**columns, **COMMON_COLUMNS}
        declared = ", ".join(f"{name} {kind}" for name, kind in types.items())
        connection.execute(f"CREATE OR REPLACE TABLE raw.{table} ({declared})")
        frame = world.get(table)
        if frame is None or frame.empty:
            continue
        if shuffle_seed is not None:
            frame = frame.sample(frac=1.0, random_state=shuffle_seed)
        connection.register("frame", frame)
        chosen = ", ".join(f"CAST({name} AS {kind})" for name, kind in types.items())
        connection.execute(f"INSERT INTO raw.{table} SELECT {chosen} FROM frame")
        connection.unregister("frame")


def write_world(world: World, path: Path, shuffle_seed: int | None = None) -> None:
    """Write a world into the schema `raw` of a DuckDB file."""
    with duckdb.connect(str(path)) as connection:
        write_raw(connection, world, shuffle_seed)

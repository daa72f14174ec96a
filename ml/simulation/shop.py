"""What the shop delivers: the twelve tables of the source contract for a range of shop days.

What belongs here: rows. What does not: why anything happens (behaviour.py), amounts (sales.py).

Deliveries are what a real shop would send. A row is delivered in the range of days in which it
became known: at `arrived_at` where that is set, otherwise at its business time. What becomes of it
later (delivered, cancelled, redeemed, closed, opened) is not known yet, so it is empty; in the
range in which it happens the row is delivered again, same key, with the outcome filled in. Its
`arrived_at` stays that of the first delivery: an outcome is known from its own timestamp, and must
not make the row itself look late. Of the versions of a key the one delivered last is right. No
timestamp of a delivered row lies at or after the end of the range, `expires_at` excepted, which is
a promise and not an event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.simulation.behaviour import Log, live, start
from ml.simulation.campaigns import Sent, customer_id, read_treatments
from ml.simulation.config import (
    DAY_US,
    NAT,
    SECOND_US,
    Calendar,
    ShopConfig,
    calendar,
    day_number,
)
from ml.simulation.customers import CHANNELS, Customers, customers_until
from ml.simulation.draws import Keys, Stream, derive, exponential, name_key, uniform
from ml.simulation.sales import CATEGORIES, RETURN_FACTOR, Sales, catalogue, sell

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Columns = dict[str, Any]

# column -> kind of each table: text, time (UTC), money (float64 made of whole cents, so that its
# shortest decimal form has at most two digits and is exact), int (no nulls), count (nullable)
TABLES: Mapping[str, Mapping[str, str]] = {
    "customers": {
        "customer_id": "text", "created_at": "time", "email": "text", "phone": "text",
        "name": "text", "country": "text", "birth_year": "count", "gender": "text",
        "occupation": "text", "acquisition_channel": "text", "account_type": "text",
        "loyalty_tier": "text",
    },
    "consents": {
        "customer_id": "text", "channel": "text", "purpose": "text", "status": "text",
        "changed_at": "time", "expires_at": "time",
    },
    "products": {
        "product_id": "text", "name": "text", "category": "text", "brand": "text",
        "list_price": "money", "unit_cost": "money",
    },
    "orders": {
        "order_id": "text", "customer_id": "text", "ordered_at": "time", "delivered_at": "time",
        "cancelled_at": "time", "discount_amount": "money", "shipping_amount": "money",
        "channel": "text",
    },
    "order_items": {
        "order_id": "text", "line_number": "int", "product_id": "text", "quantity": "int",
        "unit_price": "money", "cancelled_quantity": "int", "cancelled_at": "time",
    },
    "returns": {
        "return_id": "text", "order_id": "text", "line_number": "count", "quantity": "count",
        "amount": "money", "returned_at": "time", "reason": "text", "arrived_at": "time",
    },
    "coupons": {
        "code": "text", "customer_id": "text", "issued_at": "time", "expires_at": "time",
        "campaign_id": "text", "redeemed_order_id": "text", "redeemed_at": "time",
        "amount": "money",
    },
    "events": {
        "event_id": "text", "customer_id": "text", "event_type": "text", "occurred_at": "time",
        "session_id": "text", "product_id": "text", "channel": "text", "arrived_at": "time",
    },
    "support_tickets": {
        "ticket_id": "text", "customer_id": "text", "opened_at": "time", "closed_at": "time",
        "channel": "text", "text": "text", "csat": "count",
    },
    "reviews": {
        "review_id": "text", "customer_id": "text", "product_id": "text", "rating": "int",
        "created_at": "time", "text": "text", "arrived_at": "time",
    },
    "inventory": {
        "product_id": "text", "counted_at": "time", "quantity_on_hand": "int",
        "lead_time_days": "count",
    },
    "deliveries": {
        "campaign_id": "text", "customer_id": "text", "channel": "text", "sent_at": "time",
        "status": "text", "opened_at": "time", "clicked_at": "time", "cost_amount": "money",
        "arm": "text",
    },
}  # fmt: skip

_LATE_SYNC_DAYS = 4  # an app that was offline sends its events within this
_SPILL_DAYS = _LATE_SYNC_DAYS + 2  # how far events of a session may reach beyond its day
_OPEN_DAYS = 3  # within which an e-mail is opened, if at all
_EVENT_TYPES = (
    "view", "search", "add_to_cart", "remove_from_cart", "wishlist", "login", "ad_click",
    "email_open", "email_click",
)  # fmt: skip
_VIEW, _SEARCH, _CART, _UNCART, _WISH, _LOGIN, _AD, _OPEN, _CLICK = range(9)
_APP, _WEB, _PHONE, _EMAIL = 0, 1, 2, 3
_EVENT_CHANNELS = ("app", "web", "phone", "email")
_COST_CENTS = {"email": 1, "push": 0, "sms": 8, "phone": 450, "post": 95, "ads": 30}
_CONSENT_SHARES = {  # granted, denied; the rest was never asked
    "email": (0.74, 0.12), "sms": (0.28, 0.22), "push": (0.30, 0.10), "phone": (0.14, 0.20),
    "post": (0.55, 0.05), "ads": (0.35, 0.20),
}  # fmt: skip
_SERVICE_SHARE = 0.85  # of those with an account, by e-mail, whatever they said of marketing
_REVOKED_PER_YEAR, _ANNOYED_REVOKES = 0.08, 0.30

_FIRST = (
    "Anna", "Ben", "Clara", "David", "Elif", "Finn", "Greta", "Hannes", "Ida", "Jonas",
    "Karla", "Leon", "Mia", "Noah", "Olga", "Paul", "Romy", "Sami", "Tilda", "Uwe", "Vera",
    "Willi", "Yara", "Zoe",
)  # fmt: skip
_LAST = (
    "Albrecht", "Becker", "Conrad", "Demir", "Engel", "Fischer", "Graf", "Huber", "Ilic",
    "Jung", "Keller", "Lorenz", "Maier", "Nowak", "Otto", "Petrov", "Richter", "Schulz",
    "Thoma", "Ulrich", "Vogel", "Weber", "Yilmaz", "Ziegler",
)  # fmt: skip
_OCCUPATIONS = (
    "employee",
    "self-employed",
    "student",
    "retired",
    "parent at home",
    "civil servant",
)
_ADJECTIVES = ("classic", "small", "large", "soft", "bright", "plain", "fine", "sturdy", "light")
_NOUNS = {
    "kitchen": ("pan", "knife", "bowl", "apron", "kettle"),
    "garden": ("spade", "lantern", "planter", "hose", "bench"),
    "toys": ("puzzle", "train", "doll", "kite", "board game"),
    "books": ("novel", "atlas", "cookbook", "diary", "picture book"),
    "beauty": ("cream", "soap", "perfume", "brush", "oil"),
    "sports": ("ball", "mat", "bottle", "racket", "rucksack"),
    "home": ("lamp", "cushion", "rug", "vase", "frame"),
    "stationery": ("notebook", "pen", "card set", "folder", "calendar"),
}
_RETURN_REASONS = ("does not fit", "not as described", "damaged", "changed my mind", "too late")
_TICKETS_LATE = (
    "My parcel should have been here days ago, where is it?",
    "Still waiting for my order. When will it come?",
)
_TICKETS_LOST = (
    "The order never arrived and the tracking has stopped. I want my money back.",
    "Nothing has come for two weeks, is the parcel lost?",
)
_TICKETS_OTHER = (
    "One item arrived broken, please send a new one.",
    "The wrong colour was in the box.",
    "There was a piece missing from my order.",
    "I was charged twice for this order.",
)
_REVIEWS = {
    1: ("Broke after two days.", "Would not buy again.", "Nothing like the picture."),
    2: ("Took far too long and is not worth the price.", "Disappointing quality."),
    3: ("It is all right.", "Does what it should, not more."),
    4: ("Good value, arrived well packed.", "Nice, a little smaller than I thought."),
    5: ("Wonderful, exactly what I wanted!", "Great quality, will come back."),
}


@dataclass(frozen=True, eq=False)
class _World:
    """All that happened until the end of a range, and the range."""

    config: ShopConfig
    cal: Calendar
    customers: Customers
    log: Log
    sales: Sales
    sent: Sent
    start_us: int
    end_us: int
    first: int
    end: int

    def is_known(self, known_us: Ints, *outcomes_us: Ints) -> Bools:
        """Return which rows are delivered: known in the range, or with an outcome in it."""
        fresh = known_us >= self.start_us
        for at in outcomes_us:
            fresh = fresh | ((at >= self.start_us) & (at < self.end_us))
        return fresh & (known_us < self.end_us)

    def so_far(self, at_us: Ints) -> Ints:
        """Return times of outcomes, those beyond the end of the range emptied."""
        return np.where(at_us < self.end_us, at_us, NAT)

    def created_us(self) -> Ints:
        """Return when each customer was created."""
        return self.cal.at(self.customers.entry_day, self.customers.entry_fraction)


def simulate(
    config: ShopConfig,
    start_date: date,
    end_date: date,
    treatments: pd.DataFrame | None = None,
    on_progress: Callable[[date], None] | None = None,
) -> dict[str, pd.DataFrame]:
    """Return what the shop delivers on the shop days [start_date, end_date).

    Delivering a long range at once, or piece by piece, gives the same rows once the last version of
    each key is taken. Base behaviour depends on (seed, customer, day), the response to a campaign
    on (seed, customer, campaign, day): a treatment changes nothing before it was sent and nothing
    for other customers (stock counts excepted, which everybody draws on).

    Args:
        treatments: every contact up to `end_date`, those of earlier ranges included, since their
            effect goes on: campaign_id, customer_id, arm, sent_at (UTC), channel, is_coupon. Rows
            of arm `control` are not sent. Later ones are ignored.
        on_progress: called with each shop day that has been lived through.

    Returns:
        The tables of `TABLES`, each with exactly those columns, totally ordered; text as `str`,
        timestamps `datetime64[us, UTC]`, money float64 of whole cents, nullable counts `Int64`.
        Optional columns have nulls.

    Raises:
        ValueError: the range is empty or begins before the shop's first day, or `treatments` is not
            as described.
    """
    first, end = day_number(config, start_date), day_number(config, end_date)
    if first < 0:
        raise ValueError(f"the shop's history begins on {config.first_day}, not on {start_date}")
    if end <= first:
        raise ValueError(f"the range [{start_date}, {end_date}) has no day")
    cal = calendar(config, end)
    customers = customers_until(config, cal, end)
    end_us = cal.start_us(end)
    sent = read_treatments(config, cal, customers, treatments, end_us)
    # histories are replayed from the first day: 18 months of 20,000 customers take 0.8 s
    log = live(
        config,
        cal,
        customers,
        start(config, customers),
        0,
        end,
        sent.contacts,
        sessions_from=first - _SPILL_DAYS,
        stages_on=tuple(_newsletter_days(config, first - _OPEN_DAYS - 1, end)),
        on_day=None
        if on_progress is None
        else lambda day: on_progress(date.fromordinal(config.first_day.toordinal() + day)),
    )
    sales = sell(config, cal, customers, log, sent.contacts, sent.sent_us, sent.is_coupon)
    world = _World(
        config, cal, customers, log, sales, sent, cal.start_us(first), end_us, first, end
    )
    letters = _deliveries(world)
    columns = {
        "customers": _customers(world),
        "consents": _consents(world),
        "products": _products(world),
        "orders": _orders(world),
        "order_items": _order_items(world),
        "returns": _returns(world),
        "coupons": _coupons(world),
        "events": _events(world, letters),
        "support_tickets": _tickets(world),
        "reviews": _reviews(world),
        "inventory": _inventory(world),
        "deliveries": _letters(world, letters),
    }
    return {name: _frame(name, columns[name]) for name in TABLES}


# ---------------------------------------------------------------------------------------- columns


def _frame(table: str, columns: Columns) -> pd.DataFrame:
    """Return columns as the typed frame of a table."""
    series: dict[str, Any] = {}
    for name, kind in TABLES[table].items():
        values = columns[name]
        if kind == "time":
            series[name] = pd.DatetimeIndex(np.asarray(values, np.int64).view("M8[us]"), tz="UTC")
        elif kind == "text":
            series[name] = pd.array(values, dtype="str")
        elif kind == "money":
            series[name] = np.asarray(values, np.int64) / 100
        elif kind == "count":
            series[name] = pd.array(values, dtype="Int64")
        else:
            series[name] = np.asarray(values, np.int64)
    return pd.DataFrame(series)


def _ids(prefix: str, keys: Keys) -> NDArray[np.object_]:
    """Return ids that say nothing of whom they belong to: 64 bits of hash."""
    return np.array([f"{prefix}{k:016x}" for k in keys.tolist()], dtype=object)


def _pick(words: tuple[str, ...] | list[str], u: Any) -> NDArray[np.object_]:
    """Choose words by uniforms."""
    return np.array(words, object)[(u * len(words)).astype(np.int64)]


def _choose(words: tuple[str | None, ...], code: Any) -> NDArray[np.object_]:
    """Choose words by number."""
    return np.array(words, object)[code]


def _unless(is_null: Any, values: Any) -> NDArray[np.object_]:
    """Return values with nulls where wanted."""
    result = np.array(values, object)
    result[np.asarray(is_null, bool)] = None
    return result


def _customer_ids(world: _World, position: Ints) -> NDArray[np.object_]:
    ids = np.array(customer_id(world.customers.number), object)
    return ids[position]


def _product_ids(config: ShopConfig, product: Ints) -> NDArray[np.object_]:
    ids = np.array([*(f"P{i:05d}" for i in range(config.n_products)), None], object)
    return ids[product]


# ----------------------------------------------------------------------------------------- tables


def _has_email(customers: Customers) -> Bools:
    return uniform(customers.key, Stream.PROFILE, 0) >= 0.04


def _customers(world: _World) -> Columns:
    people, created = world.customers, world.created_us()
    # those of before the history are delivered on its first day
    who = np.flatnonzero(world.is_known(np.maximum(created, world.cal.start_us(0))))
    who = who[np.lexsort((who, created[who]))]
    key, number = people.key[who], people.number[who]

    def draw(k: int) -> NDArray[np.float64]:
        return uniform(key, Stream.PROFILE, k)

    first, last = _pick(_FIRST, draw(1)), _pick(_LAST, draw(2))
    mail = [
        f"{a.lower()}.{b.lower()}.{i}@example.com"
        for a, b, i in zip(first, last, number.tolist(), strict=True)
    ]
    country = np.searchsorted([0.72, 0.84, 0.92, 0.97], draw(3), side="right")
    age = 18 + 62 * draw(4) ** 1.3
    unknown = draw(5) < 0.25
    born = pd.array(world.config.first_day.year - age.astype(np.int64), dtype="Int64")
    born[unknown] = pd.NA
    return {
        "customer_id": customer_id(number),
        "created_at": created[who],
        "email": _unless(~_has_email(people)[who], mail),
        "phone": _unless(draw(6) < 0.45, [f"+49 30 {5_000_000 + i:07d}" for i in number.tolist()]),
        "name": _unless(draw(7) < 0.02, first + " " + last),
        "country": _choose(("DE", "AT", "CH", "NL", None), country),
        "birth_year": born,
        "gender": _choose(
            ("female", "male", "diverse", None),
            np.searchsorted([0.48, 0.82, 0.84], draw(8), side="right"),
        ),
        "occupation": _unless(draw(9) < 0.60, _pick(_OCCUPATIONS, draw(10))),
        "acquisition_channel": _choose((*CHANNELS, None), people.channel[who]),
        "account_type": _choose(("consumer", "business"), people.is_business[who].astype(int)),
        "loyalty_tier": _choose(
            (None, "basic", "plus"), np.searchsorted([0.55, 0.90], draw(11), side="right")
        ),
    }


@dataclass(frozen=True, eq=False)
class _Consent:
    """Consent of every customer for one channel; times in microseconds, NAT for never.

    `status` at creation: 0 never asked, 1 granted, 2 denied. What was granted may be revoked, given
    back, and revoked for good by a contact that annoyed.
    """

    status: Ints
    revoked_us: Ints
    again_us: Ints
    enough_us: Ints

    def holds(self, who: Ints, at_us: Ints) -> Bools:
        """Return whether customers consent at a moment."""
        again, enough = self.again_us[who], self.enough_us[who]
        back = (again != NAT) & (at_us >= again) & ~((enough != NAT) & (at_us >= enough))
        return (self.status[who] == 1) & ((at_us < self.revoked_us[who]) | back)


def _consent(world: _World, channel: str) -> _Consent:
    people, created, sent = world.customers, world.created_us(), world.sent
    key = derive(people.key, Stream.CONSENT, name_key(channel) % 2**32)
    granted, denied = _CONSENT_SHARES[channel]
    u = uniform(key, Stream.CONSENT, 0)
    status = np.where(u < granted, 1, np.where(u < granted + denied, 2, 0))
    wait_days = (
        np.minimum(exponential(uniform(key, Stream.CONSENT, 1)) / _REVOKED_PER_YEAR, 50) * 365
    )
    revoked = created + (86_400 * (1 + wait_days)).astype(np.int64) * SECOND_US
    back_days = 60 + 300 * uniform(key, Stream.CONSENT, 2)
    again = revoked + (86_400 * back_days).astype(np.int64) * SECOND_US
    comes_back = uniform(key, Stream.CONSENT, 3) < 0.2

    # who is annoyed may withdraw consent within hours
    who = sent.contacts.customer
    u = uniform(people.key[who], Stream.CONTACT, sent.contacts.day, sent.contacts.campaign_key)
    row = np.flatnonzero(world.log.annoyed & (sent.channel == channel) & (u < _ANNOYED_REVOKES))
    never = np.iinfo(np.int64).max
    enough = np.full(len(people), never)
    hours = (3_600 * (1 + 40 * u[row])).astype(np.int64)
    np.minimum.at(enough, who[row], sent.sent_us[row] + hours * SECOND_US)
    again = np.where((status == 1) & comes_back & (again < enough), again, NAT)
    return _Consent(
        status=status,
        revoked_us=np.where(status == 1, np.minimum(revoked, enough), NAT),
        again_us=again,
        enough_us=np.where((again != NAT) & (enough < never), enough, NAT),
    )


def _consents(world: _World) -> Columns:
    created = world.created_us()
    everyone = np.arange(len(created))
    parts = []
    wants_service = uniform(world.customers.key, Stream.CONSENT, 10) < _SERVICE_SHARE
    said = np.where(wants_service, "granted", "denied")
    parts.append((everyone, "email", said, created, np.full(len(created), NAT), "service"))
    for channel in _CONSENT_SHARES:
        consent = _consent(world, channel)
        asked = consent.status > 0
        # one in eight consents was given for two years only
        limited = uniform(world.customers.key, Stream.CONSENT, 9) < 0.125
        expires = np.where(limited & (consent.status == 1), created + 730 * DAY_US, NAT)
        first = np.where(consent.status == 1, "granted", "denied")
        begun = (first[asked], created[asked], expires[asked])
        parts.append((everyone[asked], channel, *begun, "marketing"))
        for at, then in (
            (consent.revoked_us, "revoked"),
            (consent.again_us, "granted"),
            (consent.enough_us, "revoked"),
        ):
            who = np.flatnonzero(at != NAT)
            changes = (np.full(len(who), then), at[who], np.full(len(who), NAT))
            parts.append((who, channel, *changes, "marketing"))
    who = np.concatenate([p[0] for p in parts])
    channels = np.concatenate([np.full(len(p[0]), p[1], object) for p in parts])
    status = np.concatenate([p[2].astype(object) for p in parts])
    changed = np.concatenate([p[3] for p in parts])
    expires = np.concatenate([p[4] for p in parts])
    purposes = np.concatenate([np.full(len(p[0]), p[5], object) for p in parts])
    keep = world.is_known(np.maximum(changed, world.cal.start_us(0)))
    rows = np.flatnonzero(keep)
    order = (purposes[rows].astype(str), channels[rows].astype(str), who[rows], changed[rows])
    rows = rows[np.lexsort(order)]
    return {
        "customer_id": _customer_ids(world, who[rows]),
        "channel": channels[rows],
        "purpose": purposes[rows],
        "status": status[rows],
        "changed_at": changed[rows],
        "expires_at": expires[rows],
    }


def _products(world: _World) -> Columns:
    """The catalogue is delivered once, on the first day of the history."""
    products = catalogue(world.config)
    n = len(products) if world.first == 0 else 0
    i = np.arange(n)
    category = [CATEGORIES[c] for c in products.category[:n].tolist()]
    key = derive(world.config.seed, Stream.PRODUCT, i, 1)
    adjective = _pick(_ADJECTIVES, uniform(key, Stream.PRODUCT, 3))
    u = uniform(key, Stream.PRODUCT, 4)
    noun = [_NOUNS[c][int(x * len(_NOUNS[c]))] for c, x in zip(category, u.tolist(), strict=True)]
    brand = _pick(("Nordlicht", "Halm & Co", "Tagwerk", "Luma"), uniform(key, Stream.PRODUCT, 5))
    return {
        "product_id": _product_ids(world.config, i),
        "name": [f"{a} {b} no. {k + 1}" for a, b, k in zip(adjective, noun, range(n), strict=True)],
        "category": category,
        "brand": _unless(uniform(key, Stream.PRODUCT, 6) < 0.15, brand),
        "list_price": products.price_cents[:n],
        "unit_cost": products.cost_cents[:n],
    }


def _order_channel(world: _World) -> NDArray[np.object_]:
    sales = world.sales
    app = uniform(world.customers.key[sales.customer], Stream.PROFILE, 20) < 0.4
    u = uniform(sales.key, Stream.ORDER, 7)
    code = np.where(u < 0.04, _PHONE, np.where(app & (u < 0.75), _APP, _WEB))
    return _choose(_EVENT_CHANNELS, code)


def _orders(world: _World) -> Columns:
    sales = world.sales
    keep = world.is_known(sales.ordered_us, sales.delivered_us, sales.cancelled_us)
    rows = np.flatnonzero(keep)
    rows = rows[np.lexsort((sales.key[rows], sales.ordered_us[rows]))]
    return {
        "order_id": _ids("O", sales.key[rows]),
        "customer_id": _customer_ids(world, sales.customer[rows]),
        "ordered_at": sales.ordered_us[rows],
        "delivered_at": world.so_far(sales.delivered_us)[rows],
        "cancelled_at": world.so_far(sales.cancelled_us)[rows],
        "discount_amount": sales.discount_cents[rows],
        "shipping_amount": sales.shipping_cents[rows],
        "channel": _order_channel(world)[rows],
    }


def _order_items(world: _World) -> Columns:
    sales = world.sales
    ordered = sales.ordered_us[sales.line_order]
    rows = np.flatnonzero(world.is_known(ordered, sales.line_cancelled_us))
    order = sales.line_order[rows]
    sort = np.lexsort((sales.line_number[rows], sales.key[order], ordered[rows]))
    rows, order = rows[sort], order[sort]
    cancelled = world.so_far(sales.line_cancelled_us)[rows]
    return {
        "order_id": _ids("O", sales.key[order]),
        "line_number": sales.line_number[rows],
        "product_id": _product_ids(world.config, sales.line_product[rows]),
        "quantity": sales.line_quantity[rows],
        "unit_price": catalogue(world.config).price_cents[sales.line_product[rows]],
        "cancelled_quantity": np.where(cancelled != NAT, sales.line_cancelled_quantity[rows], 0),
        "cancelled_at": cancelled,
    }


def _returns(world: _World) -> Columns:
    sales, config = world.sales, world.config
    products = catalogue(config)
    kept = sales.line_quantity - sales.line_cancelled_quantity
    delivered = sales.delivered_us[sales.line_order]
    rate = config.return_rate * RETURN_FACTOR[products.category[sales.line_product]]
    u = uniform(sales.line_key, Stream.LINE, 6)
    rows = np.flatnonzero((delivered != NAT) & (kept > 0) & (u < rate))
    key = sales.line_key[rows]

    def draw(k: int) -> NDArray[np.float64]:
        return uniform(key, Stream.LINE, k)

    returned = delivered[rows] + ((2 + 18 * draw(7)) * 86_400).astype(np.int64) * SECOND_US
    # the warehouse books one in five some days later
    late = ((0.1 + 2.9 * draw(8)) * 86_400).astype(np.int64) * SECOND_US
    arrived = np.where(draw(9) < 0.2, returned + late, NAT)
    known = np.where(arrived == NAT, returned, arrived)
    quantity = 1 + (draw(10) * kept[rows]).astype(np.int64)
    amount = quantity * products.price_cents[sales.line_product[rows]]
    number = pd.array(sales.line_number[rows], dtype="Int64")
    number[draw(11) < 0.08] = pd.NA
    reason = _unless(draw(12) < 0.2, _pick(_RETURN_REASONS, draw(13)))
    chosen = np.flatnonzero(world.is_known(known))
    chosen = chosen[np.lexsort((key[chosen], returned[chosen]))]
    return {
        "return_id": _ids("R", key[chosen]),
        "order_id": _ids("O", sales.key[sales.line_order[rows[chosen]]]),
        "line_number": number[chosen],
        "quantity": quantity[chosen],
        "amount": amount[chosen],
        "returned_at": returned[chosen],
        "reason": reason[chosen],
        "arrived_at": arrived[chosen],
    }


def _coupons(world: _World) -> Columns:
    sales = world.sales
    order = sales.coupon_order
    if len(sales.key):
        redeemed = np.where(order >= 0, sales.ordered_us[order], NAT)
    else:
        redeemed = np.full(len(order), NAT)
    rows = np.flatnonzero(world.is_known(sales.coupon_issued_us, redeemed))
    rows = rows[np.lexsort((sales.coupon_key[rows], sales.coupon_issued_us[rows]))]
    redeemed = world.so_far(redeemed)[rows]
    nobody = np.array([None], object)  # at position -1
    orders = np.concatenate([_ids("O", sales.key), nobody])
    campaigns = np.concatenate([world.sent.campaign_id, nobody])
    return {
        "code": [f"{k:016X}" for k in sales.coupon_key[rows].tolist()],
        "customer_id": _customer_ids(world, sales.coupon_customer[rows]),
        "issued_at": sales.coupon_issued_us[rows],
        "expires_at": sales.coupon_expires_us[rows],
        "campaign_id": campaigns[sales.coupon_contact[rows]],
        "redeemed_order_id": orders[np.where(redeemed != NAT, order[rows], -1)],
        "redeemed_at": redeemed,
        "amount": sales.coupon_cents[rows],
    }


def _tickets(world: _World) -> Columns:
    sales, cal = world.sales, world.cal
    has = np.flatnonzero(sales.fate.ticket_day >= 0)
    key = sales.key[has]

    def draw(k: int) -> NDArray[np.float64]:
        return uniform(key, Stream.TEXT, k)

    opened = cal.at(sales.day[has] + sales.fate.ticket_day[has], 0.35 + 0.55 * draw(0))
    wait = np.minimum(exponential(draw(1)) * 2.5 + 0.05, 30)
    closed = opened + (wait * 86_400).astype(np.int64) * SECOND_US
    closed = np.where(draw(2) < 0.04, NAT, closed)
    is_late, is_lost = sales.fate.is_late[has], sales.fate.delivery_days[has] < 0
    text = np.where(
        is_lost,
        _pick(_TICKETS_LOST, draw(3)),
        np.where(is_late, _pick(_TICKETS_LATE, draw(3)), _pick(_TICKETS_OTHER, draw(3))),
    )
    text = _unless(draw(7) < 0.05, text)
    # quick answers please; a lost parcel does not
    level = np.clip(4.6 - 0.35 * wait - 1.0 * is_lost + 1.6 * (draw(4) - 0.5), 1, 5)
    csat = pd.array(np.rint(level).astype(np.int64), dtype="Int64")
    rows = np.flatnonzero(world.is_known(opened, closed))
    rows = rows[np.lexsort((key[rows], opened[rows]))]
    closed = world.so_far(closed)[rows]
    csat = csat[rows]
    csat[(closed == NAT) | (draw(5)[rows] < 0.45)] = pd.NA
    return {
        "ticket_id": _ids("T", key[rows]),
        "customer_id": _customer_ids(world, sales.customer[has[rows]]),
        "opened_at": opened[rows],
        "closed_at": closed,
        "channel": _pick(("email", "chat", "phone"), draw(6))[rows],
        "text": text[rows],
        "csat": csat,
    }


def _reviews(world: _World) -> Columns:
    sales, cal = world.sales, world.cal
    has = np.flatnonzero(sales.fate.review_day >= 0)
    key = sales.key[has]

    def draw(k: int) -> NDArray[np.float64]:
        return uniform(key, Stream.TEXT, 10 + k)

    created = cal.at(sales.day[has] + sales.fate.review_day[has], 0.3 + 0.68 * draw(0))
    # one in twenty waits for the moderator
    late = ((0.1 + 2.4 * draw(1)) * 86_400).astype(np.int64) * SECOND_US
    arrived = np.where(draw(2) < 0.05, created + late, NAT)
    rows = np.flatnonzero(world.is_known(np.where(arrived == NAT, created, arrived)))
    rows = rows[np.lexsort((key[rows], created[rows]))]
    rating = sales.fate.rating[has[rows]]
    text = np.empty(len(rows), object)
    for stars, words in _REVIEWS.items():
        text[rating == stars] = _pick(words, draw(3)[rows][rating == stars])
    first_line = np.searchsorted(sales.line_order, has[rows])
    return {
        "review_id": _ids("V", key[rows]),
        "customer_id": _customer_ids(world, sales.customer[has[rows]]),
        "product_id": _product_ids(world.config, sales.line_product[first_line]),
        "rating": rating,
        "created_at": created[rows],
        "text": _unless(draw(4)[rows] < 0.35, text),
        "arrived_at": arrived[rows],
    }


def _inventory(world: _World) -> Columns:
    """Stock is counted on Monday mornings; each product is filled up every four weeks."""
    config, cal, sales = world.config, world.cal, world.sales
    n = config.n_products
    kept = sales.is_kept[sales.line_order]
    sold = np.zeros((n, world.end + 1), np.int64)
    day = sales.day[sales.line_order]
    np.add.at(sold, (sales.line_product[kept], day[kept] + 1), sales.line_quantity[kept])
    sold = np.cumsum(sold, axis=1)  # up to the beginning of each day
    key = derive(config.seed, Stream.STOCK, np.arange(n))
    # about twice what a product sells in four weeks: 2.7 pieces an order, an order in 100 days
    level = np.maximum(config.n_customers * 1.5 / n * (0.5 + uniform(key, Stream.STOCK, 1)), 12)
    filled = (uniform(key, Stream.STOCK, 2) * 28).astype(np.int64)
    lead = 3 + (uniform(key, Stream.STOCK, 3) * 25).astype(np.int64)
    mondays = np.arange((-config.first_day.weekday()) % 7, world.end, 7)
    mondays = mondays[mondays >= world.first]
    product = np.tile(np.arange(n), len(mondays))
    monday = np.repeat(mondays, n)
    since = np.maximum(monday - (monday + filled[product]) % 28, 0)
    used = sold[product, monday] - sold[product, since]
    return {
        "product_id": _product_ids(config, product),
        "counted_at": cal.at(monday, np.full(len(monday), 0.25)),
        "quantity_on_hand": np.maximum(level[product].astype(np.int64) - used, 0),
        "lead_time_days": pd.array(lead, dtype="Int64")[product],
    }


# ------------------------------------------------------------------------- messages and browsing


def _newsletter_days(config: ShopConfig, first: int, end: int) -> list[int]:
    """Return the shop days in [first, end), from 0 on, on which a newsletter goes out."""
    origin = config.first_day.toordinal()
    days = range(max(first, 0), end)
    return [d for d in days if date.fromordinal(origin + d).day == config.newsletter_day]


@dataclass(frozen=True, eq=False)
class _Messages:
    """Messages sent, newsletters and campaigns alike; opens and clicks of e-mails only."""

    campaign: NDArray[np.object_]
    customer: Ints
    channel: NDArray[np.object_]
    arm: NDArray[np.object_]
    key: Keys
    sent_us: Ints
    is_bounced: Bools
    opened_us: Ints
    clicked_us: Ints


def _deliveries(world: _World) -> _Messages:
    config, cal, people, sent = world.config, world.cal, world.customers, world.sent
    created, consent = world.created_us(), _consent(world, "email")
    has_email, everyone = _has_email(people), np.arange(len(people))
    campaign, customer, stage, at = [], [], [], []
    for day, stages in sorted(world.log.stages.items()):
        moment = int(cal.at(np.array([day]), np.array([10 / 24]))[0])
        who = np.flatnonzero(
            has_email & (created < moment) & consent.holds(everyone, np.full(len(people), moment))
        )
        month = date.fromordinal(config.first_day.toordinal() + day).strftime("%Y-%m")
        campaign.append(np.full(len(who), f"newsletter-{month}", object))
        customer.append(who)
        stage.append(stages[who])
        at.append(np.full(len(who), moment, np.int64))
    news = sum(map(len, customer))
    channel = np.append(np.full(news, "email", object), sent.channel)
    arm = np.append(np.full(news, None, object), sent.arm)
    campaigns = np.concatenate([*campaign, sent.campaign_id])
    who = np.concatenate([*customer, sent.contacts.customer]).astype(np.int64)
    stages = np.concatenate([*stage, world.log.contact_stage]).astype(np.int64)
    at_us = np.concatenate([*at, sent.sent_us]).astype(np.int64)
    names = {c: name_key(c) for c in sorted(set(campaigns))}
    number = np.array([names[c] for c in campaigns], np.uint64)
    key = derive(people.key[who], Stream.NEWSLETTER, number)

    def draw(k: int) -> NDArray[np.float64]:
        return uniform(key, Stream.NEWSLETTER, k)

    is_mail = channel == "email"
    bounced = is_mail & (~has_email[who] | (draw(0) < 0.012)) & (np.arange(len(who)) < news)
    likely = np.array([0.0, *config.open_rates])[stages]
    opens = is_mail & ~bounced & (draw(1) < likely)
    wait = np.minimum(0.05 + 9 * exponential(draw(2)), 24 * _OPEN_DAYS - 1)
    opened = np.where(opens, at_us + (wait * 3_600).astype(np.int64) * SECOND_US, NAT)
    after = (20 + 400 * draw(4)).astype(np.int64) * SECOND_US
    clicked = np.where(opens & (draw(3) < 0.18), opened + after, NAT)
    return _Messages(campaigns, who, channel, arm, key, at_us, bounced, opened, clicked)


def _letters(world: _World, mail: _Messages) -> Columns:
    rows = np.flatnonzero(world.is_known(mail.sent_us, mail.opened_us, mail.clicked_us))
    rows = rows[np.lexsort((mail.key[rows], mail.sent_us[rows]))]
    costs = {c: _COST_CENTS[c] for c in sorted(set(mail.channel))}
    return {
        "campaign_id": mail.campaign[rows],
        "customer_id": _customer_ids(world, mail.customer[rows]),
        "channel": mail.channel[rows],
        "sent_at": mail.sent_us[rows],
        "status": _choose(("delivered", "bounced"), mail.is_bounced[rows].astype(int)),
        "opened_at": world.so_far(mail.opened_us)[rows],
        "clicked_at": world.so_far(mail.clicked_us)[rows],
        "cost_amount": [costs[c] for c in mail.channel[rows]],
        "arm": mail.arm[rows],
    }


def _events(world: _World, mail: _Messages) -> Columns:
    parts = [_browsing(world), _checkouts(world)]
    for then, kind in ((mail.opened_us, _OPEN), (mail.clicked_us, _CLICK)):
        row = np.flatnonzero((then >= world.start_us) & (then < world.end_us))
        n = len(row)
        nothing = np.full(n, -1)
        parts.append(
            (
                mail.customer[row], np.full(n, kind), then[row], np.zeros(n, np.uint64),
                derive(mail.key[row], Stream.EVENT, kind), nothing, np.full(n, _EMAIL),
                np.full(n, NAT),
            )
        )  # fmt: skip
    who, code, at, session, key, product, channel, arrived = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    rows = np.flatnonzero(world.is_known(np.where(arrived == NAT, at, arrived)))
    rows = rows[np.lexsort((key[rows], at[rows]))]
    session = session[rows]
    ids, inverse = np.unique(session, return_inverse=True)
    names = _ids("S", ids)
    names[ids == 0] = None
    return {
        "event_id": _ids("E", key[rows]),
        "customer_id": _customer_ids(world, who[rows]),
        "event_type": _choose(_EVENT_TYPES, code[rows]),
        "occurred_at": at[rows],
        "session_id": names[inverse],
        "product_id": _product_ids(world.config, product[rows]),
        "channel": _choose((*_EVENT_CHANNELS, None), channel[rows]),
        "arrived_at": arrived[rows],
    }


_Events = tuple[Ints, Ints, Ints, Keys, Keys, Ints, Ints, Ints]


def _browsing(world: _World) -> _Events:
    """Return the events of browsing sessions."""
    config, people, log = world.config, world.customers, world.log
    who, day = log.session_customer, log.session_day
    session = derive(people.key[who], Stream.SESSION_KEY, day)
    pages = np.minimum(np.rint(3.4 * exponential(uniform(session, Stream.SESSION, 1))), 18)
    n = 1 + pages.astype(np.int64)
    fraction = 0.26 + 0.70 * uniform(session, Stream.SESSION, 2) ** 0.8
    fraction = np.where(day == people.entry_day[who], people.entry_fraction[who], fraction)
    begins = world.cal.at(day, fraction)
    is_app = (uniform(people.key[who], Stream.PROFILE, 20) < 0.4) & (
        uniform(session, Stream.SESSION, 3) < 0.8
    )
    late = is_app & (uniform(session, Stream.SESSION, 4) < config.late_sync_rate)
    offline_us = (
        (1 + 24 * (_LATE_SYNC_DAYS - 0.5) * uniform(session, Stream.SESSION, 5) ** 2) * 3_600
    ).astype(np.int64) * SECOND_US
    arrived = np.where(late, begins + n * 60 * SECOND_US + offline_us, NAT)
    channel = np.where(is_app, _APP, _WEB)
    channel = np.where(uniform(session, Stream.SESSION, 6) < 0.02, -1, channel)
    by_ad = ~is_app & (uniform(session, Stream.SESSION, 7) < 0.14)
    by_login = uniform(session, Stream.SESSION, 8) < 0.35

    of = np.repeat(np.arange(len(n)), n)
    step = np.arange(len(of)) - np.repeat(np.cumsum(n) - n, n)
    key = derive(session[of], Stream.EVENT, step)
    code = np.searchsorted([0.66, 0.83, 0.91, 0.94, 0.985], uniform(key, Stream.EVENT, 0), "right")
    code = np.where(step > 0, code, np.where(by_ad[of], _AD, np.where(by_login[of], _LOGIN, code)))
    code = np.where((step == 0) & (code == _UNCART), _VIEW, code)
    at = (
        begins[of] + (step * 50 + (uniform(key, Stream.EVENT, 1) * 40).astype(np.int64)) * SECOND_US
    )
    product = (uniform(key, Stream.EVENT, 2) * config.n_products).astype(np.int64)
    product = np.where(np.isin(code, (_SEARCH, _LOGIN, _AD)), -1, product)
    return who[of], code, at, session[of], key, product, channel[of], arrived[of]


def _checkouts(world: _World) -> _Events:
    """Return what precedes an order: each line viewed, and put into the cart."""
    sales = world.sales
    line = np.flatnonzero(sales.day[sales.line_order] >= world.first - 1)
    order = sales.line_order[line]
    lines = np.bincount(sales.line_order, minlength=len(sales.key))
    channel = _order_channel(world)
    code = np.where(channel == "app", _APP, _WEB)[order]
    online = (channel != "phone")[order]
    parts = []
    for event, offset in ((_VIEW, 2), (_CART, 1)):
        ahead = 9 * (2 * (lines[order] - sales.line_number[line]) + offset)
        at = sales.ordered_us[order] - ahead * SECOND_US
        key = derive(sales.line_key[line], Stream.EVENT, event)
        session = derive(sales.key[order], Stream.SESSION_KEY)
        n = len(line)
        columns = (
            sales.customer[order], np.full(n, event), at, session, key, sales.line_product[line],
            code, np.full(n, NAT),
        )  # fmt: skip
        parts.append(tuple(c[online] for c in columns))
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return (*joined,)  # type: ignore[return-value]

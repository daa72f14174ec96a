"""What is sold: the catalogue, the baskets of orders, coupons, discounts, returns.

What belongs here: amounts. What does not: when and why customers buy (behaviour.py), rows of tables
(shop.py). Money is counted in whole cents (int64) throughout, so sums are exact in any order.

Everything is a function of the order's own key and of its customer's traits, so it is the same in
whatever window or replicate the order appears.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.simulation.behaviour import Contacts, Fate, Log, fate, order_keys
from ml.simulation.config import DAY_US, NAT, SECOND_US, Calendar, ShopConfig
from ml.simulation.customers import Customers
from ml.simulation.draws import Keys, Stream, derive, exponential, normal, uniform

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CATEGORIES = ("kitchen", "garden", "toys", "books", "beauty", "sports", "home", "stationery")
_CATEGORY_PRICE_CENTS = np.array([2200, 2650, 1950, 1550, 1700, 2950, 2400, 950])
RETURN_FACTOR = np.array([1.0, 1.0, 1.0, 0.4, 0.7, 1.8, 1.2, 0.5])
_MAIN_CATEGORY_RATE = 0.55
_MAX_LINES = 9
_SHIPPING_CENTS, _FREE_SHIPPING_FROM_CENTS = 490, 5_000
_SALE_RATE, _SALE_SHARE = 0.08, 0.10  # orders with a discount code that is no coupon
_SALE_WEEK_SHARE = 0.15  # 20 to 30 November, for everybody
_CANCEL_WITHIN_DAYS = 1.5
WELCOME_RATE, WELCOME_CENTS, WELCOME_DAYS = 0.25, 500, 60
CAMPAIGN_COUPON_DAYS = 14
# share of coupons that are used on the first order while they are valid, by response type
_REDEMPTION = np.array([0.85, 0.90, 0.25, 0.45])


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Products as parallel arrays, ordered by category, then price."""

    category: Ints
    price_cents: Ints
    cost_cents: Ints
    first: Ints
    """Position of each category's first product, and the number of products at the end."""

    def __len__(self) -> int:
        return len(self.category)


def catalogue(config: ShopConfig) -> Catalogue:
    """Return the products: prices are log-normal in a category, costs 48 to 68 % of them."""
    key = derive(config.seed, Stream.PRODUCT, np.arange(config.n_products))
    category = np.arange(config.n_products) * len(CATEGORIES) // config.n_products
    spread = np.exp(0.55 * normal(uniform(key, Stream.PRODUCT, 1)) - 0.15)
    price = np.maximum(_CATEGORY_PRICE_CENTS[category] * spread, 150)
    price = (price / 50).astype(np.int64) * 50 + 49  # ends in 49 or 99
    order = np.lexsort((np.arange(len(price)), price, category))
    price = price[order]
    cost = np.rint(price * (0.48 + 0.20 * uniform(key, Stream.PRODUCT, 2))).astype(np.int64)
    first = np.searchsorted(category, np.arange(len(CATEGORIES) + 1))
    return Catalogue(category, price, cost, first)


@dataclass(frozen=True, eq=False)
class Sales:
    """Orders, their lines, and coupons, as parallel arrays; lines point to orders by position.

    Times are UTC microseconds, `NAT` for never. All outcomes are here, however late.
    """

    # orders, ordered by (customer, time, sequence)
    customer: Ints
    day: Ints
    key: Keys
    ordered_us: Ints
    cancelled_us: Ints
    delivered_us: Ints
    is_kept: Bools
    fate: Fate
    goods_cents: Ints
    discount_cents: Ints
    shipping_cents: Ints
    # lines, ordered by (order, line number)
    line_order: Ints
    line_number: Ints
    line_key: Keys
    line_product: Ints
    line_quantity: Ints
    line_cancelled_quantity: Ints
    line_cancelled_us: Ints
    # coupons, ordered by (customer, time of issue)
    coupon_customer: Ints
    coupon_key: Keys
    coupon_issued_us: Ints
    coupon_expires_us: Ints
    coupon_cents: Ints
    coupon_contact: Ints
    coupon_order: Ints


def sell(
    config: ShopConfig,
    cal: Calendar,
    customers: Customers,
    log: Log,
    contacts: Contacts | None = None,
    contact_sent_us: Ints | None = None,
    contact_is_coupon: Bools | None = None,
    welcome: bool = True,
) -> Sales:
    """Fill the baskets of all orders of a log.

    Args:
        contacts: with `contact_sent_us` and `contact_is_coupon` the coupons that campaigns issued.
        welcome: whether coupons are issued to new customers (not in a replicate of later days).
    """
    key = order_keys(customers.key[log.order_customer], log.order_day, log.order_sequence)
    fraction = 0.30 + 0.69 * uniform(key, Stream.ORDER, 1) ** 0.8  # evenings more than mornings
    ordered_us = cal.at(log.order_day, fraction)
    # the first order of a new customer follows creation, not the other way round
    entry = log.order_day == customers.entry_day[log.order_customer]
    created_us = cal.at(log.order_day, customers.entry_fraction[log.order_customer])
    minutes = 60 * SECOND_US * (3 + (uniform(key, Stream.ORDER, 2) * 5).astype(np.int64))
    second = 60 * SECOND_US * 4 * log.order_sequence
    ordered_us = np.where(entry, created_us + minutes + second, ordered_us)
    day_end = cal.starts_us[log.order_day + cal.past + 1]
    ordered_us = np.minimum(ordered_us, day_end - SECOND_US)

    order = np.lexsort((log.order_sequence, ordered_us, log.order_customer))
    key, ordered_us, customer = key[order], ordered_us[order], log.order_customer[order]
    day = log.order_day[order]
    what = fate(config, key)
    delivered_us = np.where(
        what.delivery_days >= 0,
        cal.at(day + np.maximum(what.delivery_days, 0), 0.35 + 0.4 * uniform(key, Stream.ORDER, 3)),
        NAT,
    )
    cancel_us = ordered_us + _within(key, 4, _CANCEL_WITHIN_DAYS)
    lines = _baskets(config, customers, customer, key)
    line_order, line_number, line_key, product, quantity = lines
    goods_of_line = catalogue(config).price_cents[product] * quantity
    goods = np.bincount(line_order, goods_of_line, len(key)).astype(np.int64)  # exact below 2^53

    # an order is cancelled as a whole, or by cancelling each of its lines: shops do either
    by_lines = what.is_cancelled & (uniform(key, Stream.ORDER, 5) < 0.5)
    part = uniform(line_key, Stream.LINE, 4) < config.cancelled_line_rate
    part &= ~what.is_cancelled[line_order]
    # of the first line one piece always remains, so a kept order is never cancelled bit by bit
    most = np.where(line_number == 1, quantity - 1, quantity)
    some = np.ceil(uniform(line_key, Stream.LINE, 5) * most).astype(np.int64)
    cancelled_quantity = np.where(by_lines[line_order], quantity, np.where(part, some, 0))
    line_cancel_us = np.where(
        by_lines[line_order],
        cancel_us[line_order],
        ordered_us[line_order] + _within(line_key, 6, 0.8),
    )

    cents = config.coupon_amount
    coupons = _coupons(
        config, cal, customers, contacts, contact_sent_us, contact_is_coupon, cents, welcome
    )
    coupon_customer, coupon_key, issued_us, expires_us, coupon_cents, coupon_contact = coupons
    coupon_order = _redeem(
        customers, coupon_customer, coupon_key, issued_us, expires_us, customer, ordered_us
    )
    share = np.where(uniform(key, Stream.ORDER, 6) < _SALE_RATE, _SALE_SHARE, 0.0)
    share = np.where(_is_sale_week(config, day), _SALE_WEEK_SHARE, share)
    discount = np.rint(goods * share).astype(np.int64)
    used = np.flatnonzero(coupon_order >= 0)
    np.add.at(discount, coupon_order[used], coupon_cents[used])
    discount = np.minimum(discount, goods // 2)
    return Sales(
        customer=customer,
        day=day,
        key=key,
        ordered_us=ordered_us,
        cancelled_us=np.where(what.is_cancelled & ~by_lines, cancel_us, NAT),
        delivered_us=delivered_us,
        is_kept=~what.is_cancelled,
        fate=what,
        goods_cents=goods,
        discount_cents=discount,
        shipping_cents=np.where(goods < _FREE_SHIPPING_FROM_CENTS, _SHIPPING_CENTS, 0),
        line_order=line_order,
        line_number=line_number,
        line_key=line_key,
        line_product=product,
        line_quantity=quantity,
        line_cancelled_quantity=cancelled_quantity,
        line_cancelled_us=np.where(cancelled_quantity > 0, line_cancel_us, NAT),
        coupon_customer=coupon_customer,
        coupon_key=coupon_key,
        coupon_issued_us=issued_us,
        coupon_expires_us=expires_us,
        coupon_cents=coupon_cents,
        coupon_contact=coupon_contact,
        coupon_order=coupon_order,
    )


def _within(key: Keys, k: int, days: float) -> Ints:
    """Draw a span of between a minute and `days`, in microseconds, whole seconds."""
    seconds = 60 + uniform(key, Stream.FATE, 20 + k) * (days * 86_400 - 60)
    return seconds.astype(np.int64) * SECOND_US


def _is_sale_week(config: ShopConfig, day: Ints) -> Bools:
    date = np.datetime64(config.first_day, "D") + day
    month = date.astype("M8[M]")
    return (month.astype(int) % 12 == 10) & ((date - month).astype(int) >= 19)


def _baskets(
    config: ShopConfig, customers: Customers, customer: Ints, key: Keys
) -> tuple[Ints, Ints, Keys, Ints, Ints]:
    """Return order position, line number, key, product and quantity of the lines of orders."""
    products = catalogue(config)
    more = exponential(uniform(key, Stream.BASKET)) * customers.lines_mean[customer]
    n = 1 + np.minimum(np.rint(more).astype(np.int64), _MAX_LINES - 1)
    line_order = np.repeat(np.arange(len(key)), n)
    line_number = np.arange(len(line_order)) - np.repeat(np.cumsum(n) - n, n) + 1
    line_key = derive(key[line_order], Stream.LINE_KEY, line_number)
    who = customer[line_order]
    u = uniform(line_key, Stream.LINE, 0)
    anything = (uniform(line_key, Stream.LINE, 1) * len(CATEGORIES)).astype(np.int64)
    category = np.where(u < _MAIN_CATEGORY_RATE, customers.main_category[who], anything)
    # products stand in order of price: a bias above 1 reaches for the dearer ones
    place = uniform(line_key, Stream.LINE, 2) ** (1 / customers.price_bias[who])
    size = products.first[category + 1] - products.first[category]
    product = products.first[category] + (place * size).astype(np.int64)
    u = uniform(line_key, Stream.LINE, 3)
    quantity = 1 + (u < 0.17).astype(np.int64) + (u < 0.05)
    quantity *= np.where(customers.is_business[who], 1 + (u * 997 % 4).astype(np.int64), 1)
    return line_order, line_number, line_key, product, quantity


def _coupons(
    config: ShopConfig,
    cal: Calendar,
    customers: Customers,
    contacts: Contacts | None,
    sent_us: Ints | None,
    is_coupon: Bools | None,
    amount: float,
    welcome: bool,
) -> tuple[Ints, Keys, Ints, Ints, Ints, Ints]:
    """Return customer, key, issue, expiry, cents and contact (or -1) of coupons, in order."""
    lucky = welcome & (uniform(customers.key, Stream.COUPON) < WELCOME_RATE)
    who = np.flatnonzero(lucky & (customers.entry_day >= 0))
    issued = cal.at(customers.entry_day[who], customers.entry_fraction[who]) + 600 * SECOND_US
    parts = [
        (
            who,
            derive(customers.key[who], Stream.COUPON, 1),
            issued,
            issued + WELCOME_DAYS * DAY_US,
            np.full(len(who), WELCOME_CENTS),
            np.full(len(who), -1),
        )
    ]
    if contacts is not None and sent_us is not None and is_coupon is not None:
        row = np.flatnonzero(is_coupon)
        who, sent = contacts.customer[row], sent_us[row]
        parts.append(
            (
                who,
                derive(customers.key[who], Stream.COUPON, 2, contacts.campaign_key[row]),
                sent,
                sent + CAMPAIGN_COUPON_DAYS * DAY_US,
                np.full(len(row), round(amount * 100)),
                row,
            )
        )
    customer, key, issued, expires, cents, contact = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    order = np.lexsort((key, issued, customer))
    return (
        customer[order], key[order], issued[order], expires[order], cents[order], contact[order]
    )  # fmt: skip


def _redeem(
    customers: Customers,
    coupon_customer: Ints,
    coupon_key: Keys,
    issued_us: Ints,
    expires_us: Ints,
    order_customer: Ints,
    ordered_us: Ints,
) -> Ints:
    """Return the position of the order that redeems each coupon, or -1.

    It is the first order after the issue, if the coupon is still valid then and the customer thinks
    of it. An order takes one coupon, the one that was issued first. Nothing of it looks ahead.
    """
    if not len(order_customer) or not len(coupon_customer):
        return np.full(len(coupon_customer), -1)
    base = min(issued_us.min(), ordered_us.min())

    def place(customer: Ints, at_us: Ints) -> Ints:  # orders of one number line: 2^29 customers
        return (customer << 34) + (at_us - base) // SECOND_US

    found = np.searchsorted(
        place(order_customer, ordered_us), place(coupon_customer, issued_us), "right"
    )
    order = np.minimum(found, len(order_customer) - 1)
    fits = (found < len(order_customer)) & (order_customer[order] == coupon_customer)
    fits &= ordered_us[order] < expires_us
    kind = customers.response_type[coupon_customer]
    fits &= uniform(coupon_key, Stream.COUPON, 3) < _REDEMPTION[kind]
    order = np.where(fits, order, -1)
    taken = np.flatnonzero(fits)
    _, first = np.unique(order[taken], return_index=True)
    result = np.full(len(order), -1)
    result[taken[first]] = order[taken[first]]
    return result


def amounts_per_order(config: ShopConfig, sales: Sales) -> tuple[Ints, Ints]:
    """Return revenue and margin in cents of each order, 0 for one that was cancelled as a whole.

    Revenue: pieces kept times their price, less the discount, returns not deducted, shipping not
    included. Margin: revenue less what the pieces kept cost the shop.
    """
    products = catalogue(config)
    kept = sales.line_quantity - sales.line_cancelled_quantity
    n = len(sales.key)
    goods = np.bincount(sales.line_order, products.price_cents[sales.line_product] * kept, n)
    costs = np.bincount(sales.line_order, products.cost_cents[sales.line_product] * kept, n)
    revenue = np.where(sales.is_kept, goods.astype(np.int64) - sales.discount_cents, 0)
    return revenue, np.where(sales.is_kept, revenue - costs.astype(np.int64), 0)

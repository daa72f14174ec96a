"""Who the customers are: the traits that each was born with, drawn from (seed, customer) alone.

What belongs here: hidden traits (purchase rate, frailty, browsing, spend, response type), the
moment of creation, and the visible traits that hang together with them. What does not: what
customers do (behaviour.py), names and addresses (shop.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ml.simulation.config import Calendar, ShopConfig
from ml.simulation.draws import Floats, Keys, Stream, derive, exponential, gamma, normal, uniform

CHANNELS = ("search", "ads", "social", "referral", "email", "marketplace")
_CHANNEL_SHARES = (0.30, 0.22, 0.16, 0.12, 0.08, 0.07)  # the rest is unknown: null
# who is bought leaves sooner, who is recommended stays: frailty by channel, unknown last
FRAILTY_BY_CHANNEL = np.array([0.85, 1.45, 1.15, 0.65, 0.75, 1.35, 1.0])
BUSINESS_ORDER_FACTOR = 1.5


class ResponseType(IntEnum):
    """How a customer responds to being contacted."""

    PERSUADABLE = 0
    SURE_THING = 1
    LOST_CAUSE = 2
    ANNOYED = 3


@dataclass(frozen=True, eq=False)
class Customers:
    """Customers as parallel arrays of length n, in the order of their numbers.

    `key` feeds the draws of daily life; traits are drawn before. Rates are per day.
    """

    number: NDArray[np.int64]
    key: Keys
    entry_day: NDArray[np.int64]
    entry_fraction: Floats
    channel: NDArray[np.int64]
    is_business: NDArray[np.bool_]
    order_rate: Floats
    frailty: Floats
    session_rate: Floats
    lines_mean: Floats
    price_bias: Floats
    main_category: NDArray[np.int64]
    response_type: NDArray[np.int64]
    responsiveness: Floats

    def __len__(self) -> int:
        return len(self.key)

    def take(self, index: NDArray[np.int64], key: Keys | None = None) -> Customers:
        """Return the customers at `index`, with other keys if given: same people, other luck."""
        arrays = {name: value[index] for name, value in vars(self).items()}
        if key is not None:
            arrays["key"] = key
        return Customers(**arrays)


def frailty_factor(channel: NDArray[np.int64]) -> Floats:
    """Return the part of frailty that can be seen: the factor of the acquisition channel."""
    return FRAILTY_BY_CHANNEL[channel]


def session_rate_given(config: ShopConfig, order_rate: Floats) -> Floats:
    """Return the mean session rate of customers who buy at `order_rate`: those buy and browse."""
    return config.session_rate_mean * np.sqrt(order_rate / config.order_rate_mean)


def _entry_days(config: ShopConfig, cal: Calendar, end_day: int) -> tuple[NDArray, NDArray]:
    """Return numbers and entry days of all customers created before `end_day`."""
    n, existing = config.n_customers, round(config.existing_rate * config.n_customers)
    pace = np.cumsum(cal.season[cal.past :])  # acquisition follows the season
    scale = float(pace[config.acquisition_days - 1])
    days_ahead = max(end_day, 1)
    last = existing + int(np.ceil((n - existing) * pace[days_ahead] / scale)) + 1
    number = np.arange(last, dtype=np.int64)
    u = uniform(derive(config.seed, Stream.CUSTOMER, number), Stream.CREATED)
    # no older than 1,500 days, to which the calendar reaches back
    oldest = -np.expm1(-1_500 / config.existing_age_days)
    ages = 1 + (exponential(u * oldest) * config.existing_age_days).astype(np.int64)
    if n > existing:
        place = (number - existing + u) / (n - existing) * scale
        entry = np.searchsorted(pace, place, side="right").astype(np.int64)
    else:
        entry = np.full(last, end_day, np.int64)
    entry = np.where(number < existing, -ages, entry)
    created = entry < end_day
    return number[created], entry[created]


def customers_until(config: ShopConfig, cal: Calendar, end_day: int) -> Customers:
    """Return the customers created before shop day `end_day`; the same ones for a later day."""
    number, entry = _entry_days(config, cal, end_day)
    person = derive(config.seed, Stream.CUSTOMER, number)

    def draw(k: int) -> Floats:
        return uniform(person, Stream.TRAIT, k)

    channel = np.searchsorted(np.cumsum(_CHANNEL_SHARES), draw(0), side="right")
    is_business = draw(1) < config.business_rate
    order_rate = config.order_rate_mean * gamma(draw(2), config.order_rate_shape)
    order_rate = np.maximum(order_rate, 1e-7)
    order_rate *= np.where(is_business, BUSINESS_ORDER_FACTOR, 1.0)
    luck = gamma(draw(3), config.frailty_shape)
    frailty = luck * frailty_factor(channel)
    session_rate = session_rate_given(config, order_rate) * gamma(
        draw(4), config.session_rate_shape
    )

    # the type hangs together with how often one buys and how easily one leaves, which shows in the
    # history, and with taste, which does not
    often = np.log(order_rate / config.order_rate_mean)
    weak = np.log(np.maximum(luck, 1e-6))
    logits = np.stack(
        [
            0.55 + 0.10 * often,
            0.10 + 0.55 * often - 0.15 * weak,
            0.10 - 0.25 * often + 0.15 * weak,
            -1.10 + 0.10 * often + 0.35 * weak,
        ],
        axis=1,
    )
    gumbel = -np.log(-np.log(np.stack([draw(10 + k) for k in range(4)], axis=1) + 2.0**-60))
    response_type = np.argmax(logits + gumbel, axis=1)
    return Customers(
        number=number,
        key=person,
        entry_day=entry,
        entry_fraction=0.3 + 0.69 * draw(5),
        channel=channel,
        is_business=is_business,
        order_rate=order_rate,
        frailty=frailty,
        session_rate=session_rate,
        lines_mean=1.35 * np.exp(0.35 * normal(draw(6))),
        price_bias=np.exp(0.45 * normal(draw(7))),
        main_category=(draw(8) * 8).astype(np.int64),
        response_type=response_type,
        responsiveness=exponential(draw(9)),
    )

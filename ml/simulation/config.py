"""Every knob of the simulated shop, with its unit, and its calendar.

What belongs here: numbers that describe a shop, and the mapping from shop days to UTC. What does
not: behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

DAY_US = 86_400_000_000
SECOND_US = 1_000_000
NAT = np.iinfo(np.int64).min  # numpy's own code for "not a time"

# days before first_day on which the oldest customers were created, and days after the last one into
# which what began before it may reach (a review: 20 days of delivery and 10 more)
_PAST, _FUTURE = 1_600, 120


@dataclass(frozen=True)
class ShopConfig:
    """A simulated shop. Equal configurations give equal shops.

    Rates per day hold for an average customer on an average day; hazards are amounts of cumulative
    hazard of an average customer (frailty 1), so an amount h makes them leave with 1 - exp(-h).

    Raises:
        ValueError: a number is out of its range, or the time zone is unknown.
    """

    seed: int = 7
    n_customers: int = 20_000
    """Customers created by the end of `acquisition_days`; acquisition goes on at the same pace."""
    first_day: date = date(2024, 1, 1)
    """First shop day of the delivered history."""
    timezone: str = "Europe/Berlin"
    currency: str = "EUR"
    n_products: int = 320

    # acquisition
    existing_rate: float = 0.30
    """Share of `n_customers` created before `first_day`."""
    existing_age_days: float = 400.0
    """Mean age in days of those on `first_day`."""
    acquisition_days: int = 548
    first_order_rate: float = 0.72
    """Probability of an order on the day of creation."""
    business_rate: float = 0.03
    """Share of business accounts."""

    # buying: orders per day follow a Poisson process of the customer's own rate
    order_rate_mean: float = 1 / 55
    """Orders per day while engaged."""
    order_rate_shape: float = 1.0
    """Gamma shape of the customers' rates: the smaller, the more they differ."""
    month_factors: tuple[float, ...] = (
        0.84, 0.84, 0.92, 0.96, 0.97, 0.95, 0.88, 0.90, 1.00, 1.06, 1.34, 1.34,
    )  # fmt: skip
    """Purchase rate in mid-month relative to the year, January first; interpolated."""
    weekday_factors: tuple[float, ...] = (1.04, 1.00, 0.98, 0.97, 0.92, 0.90, 1.19)
    """Purchase rate relative to the week, Monday first."""

    # leaving: engaged -> fading -> gone; all hazards are multiplied by the customer's frailty
    frailty_shape: float = 0.4
    hazard_day: float = 1 / 1600
    """Per engaged day."""
    hazard_order: float = 0.25
    """Per kept order: having bought is a moment of decision (most buyers never come back)."""
    hazard_late: float = 0.9
    """On the day on which an order comes more than 7 days after it was placed."""
    hazard_review: float = 0.7
    """On the day of a review of two stars or less."""
    hazard_ticket: float = 0.5
    """On the day of a service ticket."""
    fading_days: float = 40.0
    """Mean days between fading and gone."""
    fading_order_factor: float = 0.35
    fading_browse_factor: float = 0.60
    gone_browse_factor: float = 0.30

    # browsing
    session_rate_mean: float = 0.055
    """Browsing sessions per engaged day (at most one a day)."""
    session_rate_shape: float = 1.5
    open_rates: tuple[float, float, float] = (0.35, 0.25, 0.15)
    """Probability that an e-mail is opened: engaged, fading, gone."""

    # what happens to an order
    cancelled_order_rate: float = 0.03
    cancelled_line_rate: float = 0.02
    late_rate: float = 0.07
    lost_rate: float = 0.006
    return_rate: float = 0.06
    """Per delivered line."""
    review_rate: float = 0.22
    """Per delivered order."""
    ticket_rate: float = 0.03
    """Per order delivered in time; 0.30 if late, 0.80 if lost."""
    late_sync_rate: float = 0.10
    """Share of app sessions whose events arrive hours to days later."""

    newsletter_day: int = 5
    """Day of the month on which the newsletter goes out."""

    # response to a contact
    response_days: int = 14
    """Days after the contact on which it may cause an order."""
    response_strength: float = 0.22
    """Mean cumulative hazard of an extra order of a persuadable customer, for a plain e-mail."""
    coupon_factor: float = 1.35
    """By which a coupon strengthens that."""
    coupon_amount: float = 10.0
    """Face value of a campaign's coupon, in the shop's currency."""
    hazard_annoyed: float = 0.8
    """On the day of the contact, for customers who are annoyed by it (not times frailty)."""

    def __post_init__(self) -> None:
        """Check ranges; see the class."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name.endswith("_rate") and not 0 <= value <= 1:
                raise ValueError(f"ShopConfig.{f.name} is a probability, got {value}")
            if isinstance(value, float) and not (np.isfinite(value) and value >= 0):
                raise ValueError(f"ShopConfig.{f.name} must be finite and at least 0, got {value}")
        for name, least in (
            ("seed", 0), ("n_customers", 1), ("n_products", 8), ("acquisition_days", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(
                    f"ShopConfig.{name} must be at least {least}, got {getattr(self, name)}"
                )
        if len(self.month_factors) != 12 or len(self.weekday_factors) != 7:
            raise ValueError("ShopConfig needs 12 month_factors and 7 weekday_factors")
        try:
            ZoneInfo(self.timezone)
        except Exception as error:
            raise ValueError(f"ShopConfig.timezone {self.timezone!r} is not known") from error


@dataclass(frozen=True, eq=False)
class Calendar:
    """Shop days, numbered from `first_day` = 0, against UTC and the season.

    `starts_us` holds the UTC microsecond at which each day begins, from day -`past` on;
    `season` the purchase rate of each day relative to an average one, likewise.
    """

    past: int
    starts_us: NDArray[np.int64]
    season: NDArray[np.float64]

    def at(self, day: NDArray[np.int64], fraction: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the UTC microsecond (whole seconds) at a fraction in [0, 1) of each day.

        Days of 23 and 25 hours are stretched, so the result never leaves its shop day.
        """
        i = np.asarray(day, np.int64) + self.past
        start = self.starts_us[i]
        within = (fraction * (self.starts_us[i + 1] - start)).astype(np.int64)
        return start + within // SECOND_US * SECOND_US

    def start_us(self, day: int) -> int:
        """Return the UTC microsecond at which a shop day begins."""
        return int(self.starts_us[day + self.past])

    def day_of(self, at_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shop day in which each UTC microsecond lies."""
        return np.searchsorted(self.starts_us, at_us, side="right") - 1 - self.past

    def factor(self, day: int) -> float:
        """Return the season's factor of a day."""
        return float(self.season[day + self.past])


@lru_cache(maxsize=8)
def calendar(config: ShopConfig, last_day: int) -> Calendar:
    """Return the calendar of a shop that reaches beyond day number `last_day`."""
    import pandas as pd

    reach = max(last_day, config.acquisition_days) + _FUTURE
    days = pd.date_range(config.first_day - timedelta(days=_PAST), periods=_PAST + reach, freq="D")
    # midnight does not exist everywhere every day: then the day begins when the clock jumps
    local = days.tz_localize(
        config.timezone, ambiguous=np.ones(len(days), bool), nonexistent="shift_forward"
    )
    starts = local.tz_convert("UTC").as_unit("us").asi8
    middle = np.array([(m + 0.5) * 365.25 / 12 for m in range(12)])
    yearly = np.interp(days.dayofyear, middle, config.month_factors, period=365.25)
    return Calendar(_PAST, starts, yearly * np.asarray(config.weekday_factors)[days.dayofweek])


def day_number(config: ShopConfig, day: date) -> int:
    """Return the number of a shop day, counted from `first_day`."""
    return (day - config.first_day).days

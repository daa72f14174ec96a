"""What customers do, day by day: buy, browse, fade, leave, respond to a contact.

What belongs here: the one loop over days that every other part replays, and the hidden state that
it carries. What does not: what is in a basket (sales.py), rows of tables (shop.py).

The process of one customer (buy till you die, after Schmittlein, Morrison and Colombo, "Counting
your customers", Management Science 33, 1987, in discrete days):

- engaged, fading, gone, in this order. An engaged customer orders on a day with probability
  1 - exp(-rate * season), a fading one at a fraction of the rate, one who is gone never. So it is
  with browsing, which therefore thins in the weeks before a customer has left.
- an engaged customer begins to fade at the end of a day with probability 1 - exp(-frailty * h),
  where h adds up a small amount for the day and larger ones for a kept order, a late delivery, a
  bad review and a service ticket on that day.
- a contact can cause an extra order on one of the following days, which wins the customer back, or
  annoy, which makes the customer fade and avoid the shop for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml.simulation.config import Calendar, ShopConfig
from ml.simulation.customers import Customers, ResponseType
from ml.simulation.draws import Floats, Keys, Stream, derive, uniform

ABSENT, ENGAGED, FADING, GONE = 0, 1, 2, 3
RING = 64  # days ahead for which hazards of placed orders can be due; the latest is 20 + 10
LATE_DAYS = 7
SECOND_ORDER_RATE = 0.02  # "and I forgot": a second order on the same day
_AVOID_FACTOR = 0.5  # purchase rate of an annoyed customer while a contact is fresh
# the strength with which a contact reaches a customer by stage, and by channel
_RESPONSE_BY_STAGE = np.array([0.0, 1.0, 1.0, 0.6])
_RESPONSE_BY_CHANNEL = {
    "email": 1.0, "sms": 1.1, "push": 0.6, "phone": 1.6, "post": 0.8, "ads": 0.4,
}  # fmt: skip
_FADE_OF_RESPONSE_DAYS = 5.0


@dataclass(eq=False)
class State:
    """The hidden state at the beginning of a day, for n customers.

    `stage` is ABSENT, ENGAGED, FADING or GONE; `due[:, day % 64]` the hazard that orders placed
    before will bring on that day.
    """

    stage: NDArray[np.int64]
    due: Floats

    @classmethod
    def empty(cls, n: int) -> State:
        """Return the state of n customers who do not exist yet."""
        return cls(np.zeros(n, np.int64), np.zeros((n, RING)))

    def take(self, index: NDArray[np.int64]) -> State:
        """Return a copy of the states at `index`."""
        return State(self.stage[index], self.due[index])


@dataclass(frozen=True, eq=False)
class Contacts:
    """Contacts that were sent, ordered by (day, customer, campaign): parallel arrays of length m.

    `customer` is a position in the `Customers` at hand; `strength` the factor of channel and offer.
    """

    day: NDArray[np.int64]
    customer: NDArray[np.int64]
    campaign_key: Keys
    strength: Floats

    @classmethod
    def none(cls) -> Contacts:
        """Return no contacts."""
        empty = np.zeros(0, np.int64)
        return cls(empty, empty, np.zeros(0, np.uint64), np.zeros(0))

    def take(self, index: NDArray) -> Contacts:
        """Return the contacts at `index`."""
        return Contacts(**{name: value[index] for name, value in vars(self).items()})


def contact_strength(config: ShopConfig, channel: str, is_coupon: bool) -> float:
    """Return the factor by which channel and offer strengthen the response to a contact.

    Raises:
        ValueError: the channel is not one of the contract's.
    """
    if channel not in _RESPONSE_BY_CHANNEL:
        raise ValueError(
            f"treatments.channel {channel!r} is none of {', '.join(sorted(_RESPONSE_BY_CHANNEL))}"
        )
    return _RESPONSE_BY_CHANNEL[channel] * (config.coupon_factor if is_coupon else 1.0)


@dataclass(frozen=True, eq=False)
class Fate:
    """What becomes of orders, decided when they are placed. Days are counted from the order's.

    -1 stands for never: lost, not reviewed, no ticket.
    """

    is_cancelled: NDArray[np.bool_]
    delivery_days: NDArray[np.int64]
    review_day: NDArray[np.int64]
    rating: NDArray[np.int64]
    ticket_day: NDArray[np.int64]

    @property
    def is_late(self) -> NDArray[np.bool_]:
        """Whether the order comes more than `LATE_DAYS` days after it was placed."""
        return self.delivery_days > LATE_DAYS


def fate(config: ShopConfig, order_key: Keys) -> Fate:
    """Return the fate of the orders with these keys."""

    def draw(k: int) -> Floats:
        return uniform(order_key, Stream.FATE, k)

    is_cancelled = draw(0) < config.cancelled_order_rate
    u = draw(1)
    is_lost = u < config.lost_rate
    is_late = ~is_lost & (u < config.lost_rate + config.late_rate)
    days = np.where(is_late, LATE_DAYS + 1 + (draw(2) * 13).astype(np.int64), 0)
    days = np.where(is_late, days, 1 + (draw(2) * 5).astype(np.int64))
    delivered = ~is_cancelled & ~is_lost
    reviewed = delivered & (draw(3) < config.review_rate)
    low = draw(4) < np.where(is_late, 0.50, 0.10)
    rating = np.where(low, 1 + (draw(5) * 2).astype(np.int64), 3 + (draw(5) ** 0.5 * 3).astype(int))
    ticket = ~is_cancelled & (
        draw(6) < np.where(is_lost, 0.80, np.where(is_late, 0.30, config.ticket_rate))
    )
    after = (draw(7) * 5).astype(np.int64)
    return Fate(
        is_cancelled=is_cancelled,
        delivery_days=np.where(delivered, days, -1),
        review_day=np.where(reviewed, days + 1 + (draw(8) * 10).astype(np.int64), -1),
        rating=rating,
        # a lost parcel is missed after two weeks, a late one before it comes, the rest afterwards
        ticket_day=np.where(ticket, np.where(is_lost, 15, np.where(is_late, 6, days)) + after, -1),
    )


def order_keys(customer_key: Keys, day: NDArray | int, sequence: NDArray | int) -> Keys:
    """Return the keys of orders: a customer's first (0) or second (1) of a day."""
    return derive(customer_key, Stream.ORDER_KEY, day, sequence)


@dataclass(frozen=True, eq=False)
class Log:
    """What happened, ordered by day and customer: orders, browsing sessions, and stages.

    `stages` holds the stage of every customer at the beginning of the days asked for,
    `contact_stage` that of each contact's customer at the beginning of its day, `annoyed` whether
    the contact annoyed.
    """

    order_customer: NDArray[np.int64]
    order_day: NDArray[np.int64]
    order_sequence: NDArray[np.int64]
    session_customer: NDArray[np.int64]
    session_day: NDArray[np.int64]
    contact_stage: NDArray[np.int64]
    annoyed: NDArray[np.bool_]
    stages: dict[int, NDArray[np.int64]] = field(default_factory=dict)


def starting_stage_probabilities(
    config: ShopConfig, order_rate: Floats, frailty: Floats, age_days: Floats
) -> tuple[Floats, Floats]:
    """Return P(engaged) and P(fading) of customers `age_days` after creation, history unknown.

    The two-step chain in continuous time: leaving at rate mu, then gone at rate nu, after the order
    on the first day had its chance. Used for customers who are older than the shop's history.
    """
    mu = frailty * (config.hazard_day + order_rate * config.hazard_order)
    nu = 1.0 / config.fading_days
    mu = np.where(np.abs(mu - nu) < 1e-9, mu + 1e-8, mu)
    at_once = config.first_order_rate * -np.expm1(-frailty * config.hazard_order)
    stays, fades = np.exp(-mu * age_days), np.exp(-nu * age_days)
    return (
        (1 - at_once) * stays,
        at_once * fades + (1 - at_once) * mu / (nu - mu) * (stays - fades),
    )


def start(config: ShopConfig, customers: Customers) -> State:
    """Return the state at the beginning of day 0."""
    state = State.empty(len(customers))
    engaged, fading = starting_stage_probabilities(
        config, customers.order_rate, customers.frailty, -customers.entry_day.astype(float)
    )
    u = uniform(customers.key, Stream.START)
    stage = np.where(u < engaged, ENGAGED, np.where(u < engaged + fading, FADING, GONE))
    state.stage[:] = np.where(customers.entry_day < 0, stage, ABSENT)
    return state


def stage_factors(config: ShopConfig) -> tuple[Floats, Floats]:
    """Return the factors of order and session rate by stage."""
    return (
        np.array([0.0, 1.0, config.fading_order_factor, 0.0]),
        np.array([0.0, 1.0, config.fading_browse_factor, config.gone_browse_factor]),
    )


def live(
    config: ShopConfig,
    cal: Calendar,
    customers: Customers,
    state: State,
    first: int,
    end: int,
    contacts: Contacts | None = None,
    sessions_from: int = 0,
    stages_on: NDArray[np.int64] | tuple[int, ...] = (),
    on_day: Callable[[int], None] | None = None,
) -> Log:
    """Let customers live through the days [first, end); `state` is moved along with them.

    Args:
        contacts: those of before `first` still have their effect.
        sessions_from: browsing before this day is not drawn (it has no consequence).
        stages_on: days at whose beginning the stages are noted.
        on_day: called at the end of each day with its number.
    """
    contacts = contacts or Contacts.none()
    order_factor, browse_factor = stage_factors(config)
    fade = -np.expm1(-1.0 / config.fading_days)
    kind = customers.response_type[contacts.customer]
    weights = np.exp(-np.arange(config.response_days) / _FADE_OF_RESPONSE_DAYS)
    weights /= weights.sum()
    pull = (
        config.response_strength
        * contacts.strength
        * customers.responsiveness[contacts.customer]
        * np.array([1.0, 0.04, 0.0, 0.0])[kind]
    )
    noted = set(np.asarray(stages_on).tolist())
    stages: dict[int, NDArray[np.int64]] = {}
    contact_stage = np.zeros(len(contacts.day), np.int64)
    annoyed = np.zeros(len(contacts.day), bool)
    orders: list[tuple] = []
    sessions: list[tuple] = []

    for day in range(first, end):
        stage, key = state.stage, customers.key
        arriving = np.flatnonzero(customers.entry_day == day)
        stage[arriving] = ENGAGED
        if day in noted:
            stages[day] = stage.copy()

        # contacts at work: those of the days before, so that nothing precedes its sending
        low, high = np.searchsorted(contacts.day, [day - config.response_days, day])
        today = np.searchsorted(contacts.day, day, side="right")
        rate = customers.order_rate * (cal.factor(day) * order_factor[stage])
        avoiding = contacts.customer[low:high][kind[low:high] == ResponseType.ANNOYED]
        rate[np.unique(avoiding)] *= _AVOID_FACTOR
        probability = -np.expm1(-rate)
        probability[arriving] = config.first_order_rate
        bought = uniform(key, Stream.ORDER, day) < probability
        won_back = np.zeros(0, np.int64)
        if low < high:
            who = contacts.customer[low:high]
            extra = pull[low:high] * weights[day - contacts.day[low:high] - 1]
            extra = extra * _RESPONSE_BY_STAGE[stage[who]]
            v = uniform(key[who], Stream.RESPONSE, day, contacts.campaign_key[low:high])
            responds = np.flatnonzero((v < -np.expm1(-extra)) & ~bought[who])
            won_back = who[responds]
            bought[won_back] = True
        who = np.flatnonzero(bought)
        hazard = config.hazard_day + state.due[:, day % RING]
        state.due[:, day % RING] = 0.0
        if len(who):
            order_key = order_keys(key[who], day, 0)
            what = fate(config, order_key)
            again = ~what.is_cancelled & (
                uniform(order_key, Stream.ORDER_KEY, 1) < SECOND_ORDER_RATE
            )
            hazard[who] += config.hazard_order * ~what.is_cancelled
            _bring(config, state, who, day, what)
            orders.append((who, np.full(len(who), day), np.zeros(len(who), int)))
            if again.any():
                two = who[again]
                _bring(config, state, two, day, fate(config, order_keys(key[two], day, 1)))
                orders.append((two, np.full(len(two), day), np.ones(len(two), int)))

        if day >= sessions_from:
            browsing = customers.session_rate * (cal.factor(day) * browse_factor[stage])
            came = uniform(key, Stream.SESSION, day) < -np.expm1(-browsing)
            came[arriving] = True
            visitors = np.flatnonzero(came)
            sessions.append((visitors, np.full(len(visitors), day)))

        # the end of the day: who leaves
        total = customers.frailty * hazard
        if high < today:
            who = contacts.customer[high:today]
            contact_stage[high:today] = stage[who]
            annoyed[high:today] = kind[high:today] == ResponseType.ANNOYED
            np.add.at(total, who, config.hazard_annoyed * annoyed[high:today])
        leaves = (stage == ENGAGED) & (uniform(key, Stream.LEAVE, day) < -np.expm1(-total))
        is_over = (stage == FADING) & (uniform(key, Stream.FADE, day) < fade)
        stage[leaves] = FADING
        stage[is_over] = GONE
        stage[won_back] = ENGAGED
        if on_day is not None:
            on_day(day)

    def columns(parts: list[tuple], n: int) -> list[NDArray[np.int64]]:
        if not parts:
            return [np.zeros(0, np.int64) for _ in range(n)]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    customer, ordered, sequence = columns(orders, 3)
    visitor, visited = columns(sessions, 2)
    return Log(customer, ordered, sequence, visitor, visited, contact_stage, annoyed, stages)


def _bring(config: ShopConfig, state: State, who: NDArray, day: int, what: Fate) -> None:
    """Note the days on which orders will disappoint (a customer appears once in `who`)."""
    for offset, hazard, applies in (
        (what.delivery_days, config.hazard_late, what.is_late),
        (what.review_day, config.hazard_review, (what.review_day >= 0) & (what.rating <= 2)),
        (what.ticket_day, config.hazard_ticket, what.ticket_day >= 0),
    ):
        i = np.flatnonzero(applies)
        state.due[who[i], (day + offset[i]) % RING] += hazard

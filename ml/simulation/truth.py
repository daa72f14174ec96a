"""What only a simulation can know: how likely each customer really was to churn.

What belongs here: true churn probabilities, given everything, and given what a shop can observe.
What does not: models of the platform; they may be compared with this, never fed with it.

Churn is the platform's: no valid order on the `horizon_days` days after the snapshot day, for
customers with a valid order on the `active_window_days` days up to it, under business as usual (no
campaign after the snapshot). A valid order is one that is not cancelled as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.simulation.behaviour import (
    ENGAGED,
    FADING,
    GONE,
    LATE_DAYS,
    RING,
    live,
    stage_factors,
    start,
    starting_stage_probabilities,
)
from ml.simulation.campaigns import customer_id, read_treatments
from ml.simulation.config import Calendar, ShopConfig, calendar, day_number
from ml.simulation.customers import (
    BUSINESS_ORDER_FACTOR,
    CHANNELS,
    ResponseType,
    customers_until,
    frailty_factor,
    session_rate_given,
)
from ml.simulation.draws import Stream, derive, gamma, uniform
from ml.simulation.shop import simulate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_BATCH = 2_000  # customers filtered at once: 1.5 MB for each array over 96 particles


def truth(
    config: ShopConfig,
    as_of: date,
    horizon_days: int = 90,
    active_window_days: int = 180,
    treatments: pd.DataFrame | None = None,
    customer_ids: Sequence[str] | None = None,
    n_particles: int = 96,
) -> pd.DataFrame:
    """Return the true churn probabilities of the population at the end of shop day `as_of`.

    `p_churn_full` is exact given everything that is settled at the end of the day: traits, stage,
    and the disappointments that placed orders will bring (an order of the last day and a half of
    the horizon that is cancelled after it counts as cancelled; that moves it by less than 0.001).
    `p_churn_observable` is the posterior mean of the same given the delivered tables only; see
    `observable_churn`.

    Args:
        treatments: contacts that shaped the history, as for `simulate`.
        customer_ids: whom to judge, of the population; by default all of it.
        n_particles: see `observable_churn`.

    Returns:
        customer_id, p_churn_full, p_churn_observable, is_alive (not gone), response_type (name in
        lower case), ordered by customer_id.
    """
    day = day_number(config, as_of)
    end_date = as_of + timedelta(days=1)
    frames = simulate(config, config.first_day, end_date, treatments)
    cal = calendar(config, day + 1 + horizon_days)
    customers = customers_until(config, cal, day + 1)
    state = start(config, customers)
    sent = read_treatments(config, cal, customers, treatments, cal.start_us(day + 1))
    live(config, cal, customers, state, 0, day + 1, sent.contacts, sessions_from=day + 1)

    ids = pd.Index(customer_id(customers.number))
    orders = frames["orders"]
    begins = pd.Timestamp(cal.start_us(day + 1 - active_window_days), unit="us", tz="UTC")
    active = orders[_is_valid(frames) & (orders["ordered_at"] >= begins)]
    mine = ids.isin(active["customer_id"])
    if customer_ids is not None:
        mine &= ids.isin(list(customer_ids))
    who = np.flatnonzero(mine)
    value = no_order_probability(
        config, cal, customers.order_rate[who], customers.frailty[who], day + 1, horizon_days,
        state.due[who],
    )  # fmt: skip
    stage = state.stage[who]
    full = np.select([stage == ENGAGED, stage == FADING], [value[0], value[1]], 1.0)
    observable = observable_churn(config, frames, as_of, list(ids[who]), horizon_days, n_particles)
    names = np.array([kind.name.lower() for kind in ResponseType], object)
    return pd.DataFrame(
        {
            "customer_id": pd.array(ids[who].to_numpy(object), dtype="str"),
            "p_churn_full": full,
            "p_churn_observable": observable,
            "is_alive": stage != GONE,
            "response_type": pd.array(names[customers.response_type[who]], dtype="str"),
        }
    ).sort_values("customer_id", ignore_index=True)


def no_order_probability(
    config: ShopConfig,
    cal: Calendar,
    order_rate: Floats,
    frailty: Floats,
    first: int,
    n_days: int,
    due: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Return P(no valid order on the days [first, first + n_days)) of engaged and fading customers.

    Backward recursion over the chain of behaviour.py, exact. `due` holds known coming hazards by
    day modulo their number, as `State` does; without it there are none.
    """
    fade = -np.expm1(-1.0 / config.fading_days)
    kept = 1.0 - config.cancelled_order_rate
    engaged, fading = np.ones_like(order_rate), np.ones_like(order_rate)
    plain = np.exp(-frailty * config.hazard_day)
    for day in reversed(range(first, first + n_days)):
        rate = order_rate * cal.factor(day)
        stays = plain
        if due is not None and day < first + RING:
            stays = np.exp(-frailty * (config.hazard_day + due[:, day % RING]))
        engaged = (1 + kept * np.expm1(-rate)) * (stays * engaged + (1 - stays) * fading)
        fading = (1 + kept * np.expm1(-rate * config.fading_order_factor)) * (
            (1 - fade) * fading + fade
        )
    return engaged, fading


def _is_valid(frames: Mapping[str, pd.DataFrame]) -> pd.Series:
    """Return which orders are not known to be cancelled, at once or line by line."""
    items, orders = frames["order_items"], frames["orders"]
    left = (items["quantity"] - items["cancelled_quantity"]).groupby(items["order_id"]).sum()
    return orders["cancelled_at"].isna() & (orders["order_id"].map(left) > 0)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the shop has seen, as (day, position of customer) pairs ordered by day."""

    orders: tuple[Ints, Ints]
    sessions: tuple[Ints, Ints]
    opened: tuple[Ints, Ints]
    unopened: tuple[Ints, Ints]
    hazards: tuple[Ints, Ints]
    hazard: Floats
    entry_day: Ints
    prior_order_rate: Floats
    prior_frailty: Floats


def observable_churn(
    config: ShopConfig,
    frames: Mapping[str, pd.DataFrame],
    as_of: date,
    customer_ids: Sequence[str],
    horizon_days: int = 90,
    n_particles: int = 96,
) -> Floats:
    """Return the posterior churn probability of customers given the delivered tables only.

    The best that any model can do: it knows the process of behaviour.py and the distributions of
    traits, but of the customers only what stands in `frames`: creation, acquisition channel and
    account type, days of orders and cancellations, late deliveries, low ratings, tickets, browsing
    sessions, opened and unopened newsletters. A forward filter over the three stages gives the
    exact likelihood of traits; they are integrated out by importance sampling: `n_particles` points
    of a quasi-random sequence from an equal mixture of the prior and of two gamma approximations of
    the posterior, weighted by the balance heuristic (Veach and Guibas, SIGGRAPH 1995). Not used:
    what an order that is under way may still bring, opens of
    messages of the last three days, and campaigns (whose responders are rare).

    Returns:
        Probabilities, in the order of `customer_ids`.
    """
    day = day_number(config, as_of)
    cal = calendar(config, day + 1 + horizon_days)
    result = np.empty(len(customer_ids))
    for begin in range(0, len(customer_ids), _BATCH):
        batch = list(customer_ids[begin : begin + _BATCH])
        seen = _observe(config, cal, frames, batch, day)
        result[begin : begin + _BATCH] = _posterior(
            config, cal, seen, day, horizon_days, n_particles
        )
    return result


def _observe(
    config: ShopConfig,
    cal: Calendar,
    frames: Mapping[str, pd.DataFrame],
    customer_ids: Sequence[str],
    as_of: int,
) -> _Seen:
    """Return what the tables say of customers."""
    index = pd.Index(customer_ids)

    def day_of(at: pd.Series) -> Ints:
        return cal.day_of(np.asarray(at.astype("int64"), np.int64))

    def pairs(customer: pd.Series, at: pd.Series) -> tuple[Ints, Ints]:
        who = index.get_indexer(pd.Index(customer))
        days = day_of(at)
        keep = who >= 0
        rows = np.unique(np.stack([days[keep], who[keep]], axis=1), axis=0)
        return rows[:, 0], rows[:, 1]

    customers = frames["customers"].drop_duplicates("customer_id", keep="last")
    customers = customers.set_index("customer_id").loc[list(customer_ids)]
    entry = day_of(customers["created_at"])
    code = {c: i for i, c in enumerate(CHANNELS)}
    channel = np.array([code.get(c, len(CHANNELS)) for c in customers["acquisition_channel"]])
    is_business = (customers["account_type"] == "business").to_numpy(bool)
    rate = config.order_rate_mean * np.where(is_business, BUSINESS_ORDER_FACTOR, 1.0)

    orders = frames["orders"]
    placed = pairs(orders["customer_id"], orders["ordered_at"])
    kept = orders[_is_valid(frames)]
    came = kept[kept["delivered_at"].notna()]
    late = came[day_of(came["delivered_at"]) - day_of(came["ordered_at"]) > LATE_DAYS]
    low = frames["reviews"][frames["reviews"]["rating"] <= 2]
    tickets = frames["support_tickets"]
    bad = [
        (pairs(kept["customer_id"], kept["ordered_at"]), config.hazard_order),
        (pairs(late["customer_id"], late["delivered_at"]), config.hazard_late),
        (pairs(low["customer_id"], low["created_at"]), config.hazard_review),
        (pairs(tickets["customer_id"], tickets["opened_at"]), config.hazard_ticket),
    ]
    amount = pd.DataFrame(
        {
            "day": np.concatenate([p[0] for p, _ in bad]),
            "who": np.concatenate([p[1] for p, _ in bad]),
            "hazard": np.concatenate([np.full(len(p[0]), h) for p, h in bad]),
        }
    )
    amount = amount.groupby(["day", "who"])[["hazard"]].sum().reset_index()

    # a checkout is not a visit of its own: its last step comes 9 seconds before the order
    events = frames["events"]
    events = events[events["session_id"].notna() & events["customer_id"].isin(index)]
    steps = pd.MultiIndex.from_arrays([events["customer_id"], events["occurred_at"]])
    moments = pd.MultiIndex.from_arrays(
        [orders["customer_id"], orders["ordered_at"] - pd.Timedelta(seconds=9)]
    )
    checkout = events.loc[
        steps.isin(moments) & (events["event_type"] == "add_to_cart"), "session_id"
    ]
    visits = events[~events["session_id"].isin(checkout)]
    visits = visits.groupby("session_id", as_index=False).agg(
        customer_id=("customer_id", "first"), at=("occurred_at", "min")
    )
    mail = frames["deliveries"]
    mail = mail[mail["campaign_id"].str.startswith("newsletter-") & (mail["status"] == "delivered")]
    settled = mail["sent_at"] < pd.Timestamp(cal.start_us(as_of - 2), unit="us", tz="UTC")
    mail = mail[settled]
    opened = mail["opened_at"].notna()
    return _Seen(
        orders=placed,
        sessions=pairs(visits["customer_id"], visits["at"]),
        opened=pairs(mail.loc[opened, "customer_id"], mail.loc[opened, "sent_at"]),
        unopened=pairs(mail.loc[~opened, "customer_id"], mail.loc[~opened, "sent_at"]),
        hazards=(amount["day"].to_numpy(), amount["who"].to_numpy()),
        hazard=amount["hazard"].to_numpy(),
        entry_day=entry,
        prior_order_rate=rate,
        prior_frailty=frailty_factor(channel),
    )


def _particles(
    config: ShopConfig, cal: Calendar, seen: _Seen, as_of: int, n_particles: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return order rates, session rates, frailties, log(prior / proposal): (n, particles) each."""
    from scipy.special import gammaln

    n, third = len(seen.entry_day), -(-n_particles // 3)
    j = np.arange(third)
    shift = [
        uniform(derive(config.seed, Stream.PARTICLE, k), Stream.PARTICLE, np.arange(n))
        for k in range(3)
    ]
    # the additive recurrence of the plastic number's cousin in three dimensions (Roberts, 2018)
    phi = 1.2207440846057596
    points = [(s[:, None] + (j + 1) * phi ** -(k + 1)) % 1.0 for k, s in enumerate(shift)]
    points = [np.clip(p, 1e-9, 1 - 1e-9) for p in points]

    exposure = np.concatenate([[0.0], np.cumsum(cal.season[cal.past : cal.past + as_of + 1])])
    begins = np.maximum(seen.entry_day + 1, 0)
    last = begins - 1
    for days, who in (seen.orders, seen.sessions):
        np.maximum.at(last, who, days)
    count = {}
    for name, (days, who) in (("orders", seen.orders), ("sessions", seen.sessions)):
        late = days > seen.entry_day[who]  # the day of creation says nothing of rates
        count[name] = np.bincount(who[late], minlength=n).astype(float)
    until = [np.maximum(last + 1, begins), np.full(n, as_of + 1)]
    spans = [np.zeros(n)] + [exposure[u] - exposure[np.minimum(begins, u)] for u in until]

    r, q = config.order_rate_shape, config.session_rate_shape
    columns: list[tuple[Floats, Floats]] = []
    shapes = []
    for k, span in enumerate(spans):
        a = r + (count["orders"] if k else 0.0) + np.zeros(n)
        b = r / seen.prior_order_rate + span
        c = q + (count["sessions"] if k else 0.0) + np.zeros(n)
        shapes.append((a, b, c, span))
        order_rate = np.maximum(gamma(points[0], a[:, None]) * (a / b)[:, None], 1e-9)
        d = q / session_rate_given(config, order_rate) + span[:, None]
        columns.append((order_rate, gamma(points[1], c[:, None]) * c[:, None] / d))
    order_rate = np.concatenate([c[0] for c in columns], axis=1)
    session_rate = np.maximum(np.concatenate([c[1] for c in columns], axis=1), 1e-9)
    frailty = np.tile(gamma(points[2], config.frailty_shape), 3) * seen.prior_frailty[:, None]

    def log_density(x: Floats, shape: Floats, inverse_scale: Floats) -> Floats:
        return (
            shape * np.log(inverse_scale)
            + (shape - 1) * np.log(x)
            - inverse_scale * x
            - gammaln(shape)
        )

    logs = []
    for a, b, c, span in shapes:
        d = q / session_rate_given(config, order_rate) + span[:, None]
        logs.append(
            log_density(order_rate, a[:, None], b[:, None])
            + log_density(session_rate, c[:, None], d)
        )
    top = np.maximum.reduce(logs)
    proposal = top + np.log(sum(np.exp(x - top) for x in logs) / 3)
    return order_rate, session_rate, frailty, logs[0] - proposal


def _posterior(
    config: ShopConfig, cal: Calendar, seen: _Seen, as_of: int, horizon_days: int, n_particles: int
) -> Floats:
    """Filter the stages day by day for all particles, then average what is to come."""
    order_rate, session_rate, frailty, log_weight = _particles(
        config, cal, seen, as_of, n_particles
    )
    order_factor, browse_factor = (f[1:] for f in stage_factors(config))
    fade = -np.expm1(-1.0 / config.fading_days)
    old = seen.entry_day < 0
    engaged, fading = starting_stage_probabilities(
        config, order_rate, frailty, -seen.entry_day[:, None].astype(float)
    )
    zero = np.zeros_like(order_rate)
    belief = [
        np.where(old[:, None], engaged, zero),
        np.where(old[:, None], fading, zero),
        np.where(old[:, None], 1 - engaged - fading, zero),
    ]
    leaves_quietly = -np.expm1(-frailty * config.hazard_day)
    # of nothing seen, the likelihood on an average day: exp(-pace)
    pace = [
        order_rate * o + session_rate * b for o, b in zip(order_factor, browse_factor, strict=True)
    ]

    def today(pairs: tuple[Ints, Ints], day: int) -> Ints:
        low, high = np.searchsorted(pairs[0], [day, day + 1])
        return pairs[1][low:high]

    arrival = np.argsort(seen.entry_day, kind="stable")
    arrives = (seen.entry_day[arrival], arrival)
    for day in range(as_of + 1):
        season = cal.factor(day)
        for k in range(3):
            belief[k] *= np.exp(-season * pace[k])
        for pairs, rates, factors in (
            (seen.orders, order_rate, order_factor),
            (seen.sessions, session_rate, browse_factor),
        ):
            who = today(pairs, day)
            for k in range(3):
                # expm1: probability of an event over that of none, which is in already
                belief[k][who] *= np.expm1(rates[who] * (season * factors[k]))
        new = today(arrives, day)
        belief[0][new], belief[1][new], belief[2][new] = 1.0, 0.0, 0.0
        for pairs, is_open in ((seen.opened, True), (seen.unopened, False)):
            who = today(pairs, day)
            for k, rate in enumerate(config.open_rates):
                belief[k][who] *= rate if is_open else 1 - rate
        leaves = leaves_quietly.copy()
        low, high = np.searchsorted(seen.hazards[0], [day, day + 1])
        who = seen.hazards[1][low:high]
        total = config.hazard_day + seen.hazard[low:high]
        leaves[who] = -np.expm1(-frailty[who] * total[:, None])
        belief[2] += fade * belief[1]
        belief[1] *= 1 - fade
        belief[1] += leaves * belief[0]
        belief[0] *= 1 - leaves
        if day % 32 == 31 or day == as_of:
            size = belief[0] + belief[1] + belief[2]
            size = np.where(size > 0, size, 1.0)  # of those who do not exist yet
            log_weight = log_weight + np.log(size)
            for k in range(3):
                belief[k] /= size
    v_engaged, v_fading = no_order_probability(
        config, cal, order_rate, frailty, as_of + 1, horizon_days
    )
    churn = belief[0] * v_engaged + belief[1] * v_fading + belief[2]
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    return (weight * churn).sum(axis=1) / weight.sum(axis=1)

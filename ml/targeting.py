"""Whom to contact with what: the largest expected incremental profit under budget and capacity.

What belongs here: the choice among (customer, offer) pairs, what each constraint costs, the random
slice that keeps learning possible. What does not: where expected profits come from (ml/uplift), who
may be contacted at all (contact caps per customer, consent: ml/campaigns/eligibility.py). A pair
that is not listed is not considered.

A customer gets one offer or none, so this is the multiple-choice knapsack. Its linear relaxation is
solved exactly for the budget (Dyer, Mathematical Programming 29, 1984; Zemel, IPL 18, 1984): of
each customer only the offers on the concave hull of (cost, profit) can be chosen, and steps along
the hulls are taken by profit per cost. The capacity is priced: each contact pays a price, the
smallest at which no more contacts are wanted than are allowed. Any price gives an upper bound of
the profit, so the plan comes with a proof of how far from the best it can be.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml.campaigns.assignment import uniforms
from ml.frames import is_among

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

NOTHING = "none"
# Constant for ever: a customer of the slice stays in it, and is never chosen by a model.
EXPLORATION_KEY = "__exploration__"

PLAN_COLUMNS = [
    "customer_key",
    "offer",
    "expected_profit_amount",
    "cost_amount",
    "is_random",
    "propensity",
]


class TargetingError(ValueError):
    """Limits that no plan can keep; the message says which and what to change."""


@dataclass(frozen=True)
class Constraints:
    """What limits the contacts of one day or campaign.

    budget: money for contacts and incentives; capacity: contacts; None: no limit. exploration_share
    of the customers get an offer, or none, at random.
    """

    budget: float | None = None
    capacity: int | None = None
    exploration_share: float = 0.1

    def __post_init__(self) -> None:
        """Refuse limits below zero and a share outside [0, 1)."""
        if self.budget is not None and not self.budget >= 0:
            raise TargetingError(f"budget must not be negative, got {self.budget}")
        if self.capacity is not None and not self.capacity >= 0:
            raise TargetingError(f"capacity must not be negative, got {self.capacity}")
        if not 0 <= self.exploration_share < 1:
            raise TargetingError(
                f"exploration_share must lie in [0, 1), got {self.exploration_share}: at 1 nothing "
                "would be learnt for anybody's benefit"
            )


@dataclass(frozen=True)
class ConstraintValue:
    """What one constraint costs.

    shadow_price: profit lost with one unit less of it (one unit of money, one contact), and gained
    with one more; cost: profit that would be there without the constraint, as far as bounds tell.
    """

    name: str
    limit: float
    used: float
    shadow_price: float
    cost: float


@dataclass(frozen=True)
class Plan:
    """Who gets what. `contacts` has `PLAN_COLUMNS`, one row per customer, those left alone too.

    profit: expected over the customers that were chosen for; upper_bound: no choice under these
    constraints earns more; random_profit: expected in the slice.
    """

    contacts: pd.DataFrame
    profit: float
    upper_bound: float
    random_profit: float
    constraints: tuple[ConstraintValue, ...]

    def table(self) -> str:
        """Return the constraints as a Markdown table."""
        lines = [
            "| constraint | limit | used | profit lost by one unit less | profit without it |",
            "| --- | --- | --- | --- | --- |",
            *(
                f"| {c.name} | {c.limit:,.2f} | {c.used:,.2f} | {c.shadow_price:,.4f} "
                f"| {c.cost:+,.2f} |"
                for c in self.constraints
            ),
        ]
        return "\n".join(lines)


def scored_pairs(
    scores: pd.DataFrame,
    allowed: Mapping[str, Collection[str]],
    costs: Mapping[tuple[str, str], float],
) -> pd.DataFrame:
    """The pairs that `plan_contacts` chooses among, from the scores of promoted learners.

    scores: `uplift_scores` of one day: customer_key, campaign_id, arm, expected_profit_amount
    (costs are off already). allowed: customers who may be contacted, per campaign. costs: what the
    budget pays for one customer of (campaign, arm). An offer is `<campaign>:<arm>`.

    Raises:
        ValueError: an expected profit is missing, as in scores of a learner of no money.
    """
    parts = []
    for (name, offer), own in scores.groupby(["campaign_id", "arm"], sort=True):
        campaign, arm = str(name), str(offer)
        own = own[is_among(own["customer_key"], allowed[campaign])]
        parts.append(
            pd.DataFrame(
                {
                    "customer_key": own["customer_key"],
                    "offer": f"{campaign}:{arm}",
                    "profit_amount": own["expected_profit_amount"].astype("float64"),
                    "cost_amount": costs[campaign, arm],
                }
            )
        )
    return _checked(pd.concat(parts, ignore_index=True))


def is_exploring(customer_keys: Sequence[str], share: float) -> npt.NDArray[np.bool_]:
    """Which customers belong to the permanent random slice; raising the share only adds some."""
    return uniforms(EXPLORATION_KEY, customer_keys) < share


def plan_contacts(pairs: pd.DataFrame, constraints: Constraints, decision_key: str) -> Plan:
    """Choose an offer or none for each customer.

    pairs: customer_key, offer, profit_amount (expected, incremental, costs already taken off),
    cost_amount (what the budget pays, >= 0), one row per pair that is possible; `decision_key`
    names this decision (campaign and day), and salts the draws within the slice.

    Customers of the slice draw uniformly from their own offers and nothing: their propensity is
    1 / (offers + 1). Everybody else's is 1: nothing was random there, and nothing can be learnt
    from it. The slice is paid for first.

    Raises:
        TargetingError: the slice alone is beyond the budget or the capacity.
        ValueError: a pair stands twice, a number is missing or a cost negative, an offer is called
            "none".
    """
    pairs = _checked(pairs)
    keys = pairs["customer_key"].drop_duplicates().tolist()
    exploring = dict(zip(keys, is_exploring(keys, constraints.exploration_share), strict=True))
    in_slice = pairs["customer_key"].map(exploring).to_numpy(dtype=bool)
    drawn = _draw(pairs[in_slice], decision_key)
    spent, made = float(drawn["cost_amount"].sum()), int((drawn["offer"] != NOTHING).sum())
    for what, limit, used in (
        ("budget", constraints.budget, spent),
        ("capacity", constraints.capacity, made),
    ):
        if limit is not None and used > limit:
            raise TargetingError(
                f"the random slice alone takes {used:,.2f} of the {what} of {limit:,.2f}: lower "
                f"exploration_share ({constraints.exploration_share}) or raise the {what}"
            )
    budget = math.inf if constraints.budget is None else constraints.budget - spent
    capacity = math.inf if constraints.capacity is None else constraints.capacity - made

    rest = pairs[~in_slice]
    problem = _Problem(rest)
    solved = problem.solve(budget, capacity)
    chosen = rest.iloc[solved.rows].assign(is_random=False, propensity=1.0)
    left = sorted(set(rest["customer_key"]) - set(chosen["customer_key"]))
    alone = pd.DataFrame(
        {
            "customer_key": left,
            "offer": NOTHING,
            "profit_amount": 0.0,
            "cost_amount": 0.0,
            "is_random": False,
            "propensity": 1.0,
        }
    )
    contacts = (
        pd.concat([frame for frame in (chosen, alone, drawn) if len(frame)], ignore_index=True)
        if len(keys)
        else alone
    )
    contacts = contacts.rename(columns={"profit_amount": "expected_profit_amount"})
    contacts = contacts.sort_values("customer_key", ignore_index=True)[PLAN_COLUMNS]
    random_profit = float(drawn["profit_amount"].sum())
    return Plan(
        contacts,
        solved.profit,
        solved.bound,
        random_profit,
        _values(pairs, problem, solved, constraints, budget, capacity, random_profit, contacts),
    )


def _values(
    pairs: pd.DataFrame,
    problem: _Problem,
    solved: _Solution,
    constraints: Constraints,
    budget: float,
    capacity: float,
    random_profit: float,
    contacts: pd.DataFrame,
) -> tuple[ConstraintValue, ...]:
    """Return what each constraint costs; differences of bounds, which are exact for the LP."""
    found = []
    if constraints.budget is not None:
        free = problem.solve(math.inf, capacity).bound
        used = float(contacts["cost_amount"].sum())
        found.append(
            ConstraintValue(
                "budget", constraints.budget, used, solved.budget_price, free - solved.bound
            )
        )
    if constraints.capacity is not None:
        free = problem.solve(budget, math.inf).bound
        made = float((contacts["offer"] != NOTHING).sum())
        found.append(
            ConstraintValue(
                "capacity", constraints.capacity, made, solved.capacity_price, free - solved.bound
            )
        )
    if constraints.exploration_share > 0:
        everybody = _Problem(pairs).solve(
            math.inf if constraints.budget is None else constraints.budget,
            math.inf if constraints.capacity is None else constraints.capacity,
        )
        lost = everybody.bound - solved.bound - random_profit
        customers = len(contacts)
        size = float(contacts["is_random"].mean()) if customers else 0.0
        # one unit is a percentage point of the customers
        price = lost / (100 * size) if size else 0.0
        found.append(
            ConstraintValue("exploration", constraints.exploration_share, size, price, lost)
        )
    return tuple(found)


@dataclass(frozen=True)
class _Solution:
    rows: Indices  # positions of the chosen pairs
    profit: float
    bound: float
    budget_price: float
    capacity_price: float


@dataclass(frozen=True)
class _Steps:
    """Steps along the customers' hulls at one price per contact, by falling profit per cost.

    The first `taken` of them are in the solution of the relaxation, the next one in part.
    """

    customer: Indices
    option: Indices  # column of the offer to which the step leads
    is_first: npt.NDArray[np.bool_]
    cost: Array
    profit: Array
    taken: int
    bound: float
    contacts: float
    budget_price: float


class _Problem:
    """Cost and profit of each customer's offers, (customers, offers), NaN where there is none."""

    def __init__(self, pairs: pd.DataFrame) -> None:
        codes, keys = pd.factorize(pairs["customer_key"], sort=True)
        column = pairs.groupby("customer_key").cumcount().to_numpy()
        shape = (len(keys), int(column.max()) + 1 if len(pairs) else 0)
        self.row = np.full(shape, -1, dtype=np.intp)
        self.cost, self.profit = np.full(shape, np.nan), np.full(shape, np.nan)
        self.row[codes, column] = np.arange(len(pairs))
        self.cost[codes, column] = pairs["cost_amount"]
        self.profit[codes, column] = pairs["profit_amount"]

    def solve(self, budget: float, capacity: float) -> _Solution:
        """Choose at most one offer per customer; see the module for the method."""
        below = above = self._steps(0.0, budget)
        bound, prices = above.bound, (above.budget_price, 0.0)
        if above.contacts > capacity:
            low, high = 0.0, float(np.nanmax(self.profit))
            above = self._steps(high, budget)
            bound, prices = above.bound + high * capacity, (above.budget_price, high)
            # the bound is convex in the price: its slope is capacity - contacts
            for _ in range(60):
                middle = low + (high - low) / 2
                tried = self._steps(middle, budget)
                if tried.bound + middle * capacity < bound:
                    bound = tried.bound + middle * capacity
                    prices = (tried.budget_price, middle)
                if tried.contacts > capacity:
                    low, below = middle, tried
                else:
                    high, above = middle, tried
        chosen = self._whole(above, below, budget, capacity)
        profit = float(self.profit[chosen].sum())
        return _Solution(np.sort(self.row[chosen]), profit, max(bound, profit), *prices)

    def _steps(self, price: float, budget: float) -> _Steps:
        """Solve the relaxation for the budget where each contact pays `price`."""
        count = len(self.cost)
        everyone = np.arange(count)
        cost, profit = np.zeros(count), np.zeros(count)
        found: list[tuple[npt.NDArray[Any], ...]] = []
        for level in range(self.cost.shape[1]):
            gain = self.profit - price - profit[:, None]
            extra = self.cost - cost[:, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                slope = np.where((gain > 0) & (extra >= 0), gain / extra, -np.inf)
            # of equal slopes the longest step: what lies between is on the line
            steepest = slope.max(axis=1)
            tied = np.where(slope == steepest[:, None], gain, -np.inf)
            option = tied.argmax(axis=1)
            go = np.flatnonzero(steepest > 0)
            if not len(go):
                break
            at = (everyone[go], option[go])
            found.append(
                (go, option[go], np.full(len(go), level == 0), extra[at], gain[at], steepest[go])
            )
            cost[go], profit[go] = self.cost[at], self.profit[at] - price
        if not found:
            empty = np.array([], dtype=np.intp)
            none = np.array([])
            return _Steps(empty, empty, empty.astype(bool), none, none, 0, 0.0, 0.0, 0.0)
        customer, option, first, extra, gain, slope = map(np.concatenate, zip(*found, strict=True))
        order = np.argsort(-slope, kind="stable")
        customer, option, first = customer[order], option[order], first[order]
        extra, gain, slope = extra[order], gain[order], slope[order]
        spent = np.cumsum(extra)
        # money in binary: 20 times 0.05 is a little more than 1
        taken = int(np.searchsorted(spent, budget + 1e-9 * max(1.0, min(budget, 1e9)), "right"))
        bound, contacts = float(gain[:taken].sum()), float(first[:taken].sum())
        at_border = 0.0
        if taken < len(order):
            left = max(0.0, budget - (float(spent[taken - 1]) if taken else 0.0))
            at_border = float(slope[taken])
            bound += at_border * left
            contacts += float(first[taken]) * left / float(extra[taken])
        return _Steps(customer, option, first, extra, gain, taken, bound, contacts, at_border)

    def _whole(
        self, above: _Steps, below: _Steps, budget: float, capacity: float
    ) -> tuple[Indices, Indices]:
        """Round the relaxation down, then take further steps that fit, the best first.

        `above` is at a price at which the contacts fit, `below` at the next lower one, at which
        those that pay exactly the price are wanted too. Returns customers and columns.
        """
        chosen = np.full(len(self.cost), -1, dtype=np.intp)
        chosen[above.customer[: above.taken]] = above.option[: above.taken]  # the last step wins
        is_in = chosen >= 0
        who = np.flatnonzero(is_in)
        left = budget - float(self.cost[who, chosen[who]].sum()) + 1e-9
        places = capacity - len(who)
        rest = slice(above.taken, None)
        upgrades = is_in[above.customer[rest]]
        entries = ~is_in[below.customer]
        customer = np.r_[above.customer[rest][upgrades], below.customer[entries]]
        option = np.r_[above.option[rest][upgrades], below.option[entries]]
        cost, profit = self.cost[customer, option], self.profit[customer, option]
        with np.errstate(divide="ignore"):
            order = np.argsort(-profit / cost, kind="stable")
        for i in order.tolist():
            one, had = customer[i], chosen[customer[i]]
            extra = cost[i] - (self.cost[one, had] if had >= 0 else 0.0)
            gain = profit[i] - (self.profit[one, had] if had >= 0 else 0.0)
            if gain > 0 and extra <= left and (had >= 0 or places >= 1):
                places -= had < 0
                left -= extra
                chosen[one] = option[i]
        who = np.flatnonzero(chosen >= 0)
        return who, chosen[who]


def _draw(pairs: pd.DataFrame, decision_key: str) -> pd.DataFrame:
    """One of the own offers or nothing for each customer of the slice, all equally likely."""
    if pairs.empty:
        columns = ["customer_key", "offer", "profit_amount", "cost_amount"]
        return pd.DataFrame(columns=[*columns, "is_random", "propensity"]).astype(
            {"profit_amount": "float64", "cost_amount": "float64", "propensity": "float64"}
        )
    pairs = pairs.sort_values(["customer_key", "offer"], ignore_index=True)
    counts = pairs.groupby("customer_key", sort=True).size()
    u = uniforms(f"{EXPLORATION_KEY}:{decision_key}", counts.index)
    option = np.floor(u * (counts.to_numpy() + 1)).astype(int)  # the last one is nothing
    wanted = dict(zip(counts.index, option, strict=True))
    place = pairs.groupby("customer_key").cumcount()
    contacted = pairs[place == pairs["customer_key"].map(wanted)]
    left = sorted(set(counts.index) - set(contacted["customer_key"]))
    alone = pd.DataFrame(
        {"customer_key": left, "offer": NOTHING, "profit_amount": 0.0, "cost_amount": 0.0}
    )
    drawn = pd.concat([frame for frame in (contacted, alone) if len(frame)], ignore_index=True)
    return drawn.assign(is_random=True, propensity=1.0 / (drawn["customer_key"].map(counts) + 1))


def _checked(pairs: pd.DataFrame) -> pd.DataFrame:
    frame = pairs[["customer_key", "offer", "profit_amount", "cost_amount"]].copy()
    for column in ("profit_amount", "cost_amount"):
        frame[column] = frame[column].astype("float64")
        if bad := int((~np.isfinite(frame[column])).sum()):
            raise ValueError(f"{column}: {bad} of {len(frame)} values are missing or infinite")
    if (frame["cost_amount"] < 0).any():
        raise ValueError("cost_amount: a contact cannot cost less than nothing")
    if frame["offer"].eq(NOTHING).any():
        raise ValueError(f"offer: {NOTHING!r} is what a customer gets who is left alone")
    if frame.duplicated(["customer_key", "offer"]).any():
        raise ValueError("a customer and an offer stand together twice")
    return frame.sort_values(["customer_key", "offer"], ignore_index=True)

"""The plan against exact solvers, the price of each constraint, and the slice that stays random."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from ml.targeting import (
    NOTHING,
    Constraints,
    TargetingError,
    is_exploring,
    plan_contacts,
    scored_pairs,
)

KEYS = [f"{i:032x}" for i in range(20_000)]


def pairs_of(profit: np.ndarray, cost: np.ndarray) -> pd.DataFrame:
    """One row per customer (row) and offer (column)."""
    n, k = profit.shape
    return pd.DataFrame(
        {
            "customer_key": np.repeat(KEYS[:n], k),
            "offer": np.tile([f"offer {j}" for j in range(k)], n),
            "profit_amount": profit.ravel(),
            "cost_amount": cost.ravel(),
        }
    )


def exact(pairs: pd.DataFrame, budget: float, capacity: float, *, whole: bool) -> float:
    """Best profit by HiGHS: of whole contacts, or of the relaxation."""
    customer = pd.factorize(pairs["customer_key"])[0]
    rows = [pairs["cost_amount"].to_numpy(), np.ones(len(pairs))]
    rows += [(customer == c).astype(float) for c in range(customer.max() + 1)]
    limits = [budget, capacity, *np.ones(customer.max() + 1)]
    found = optimize.milp(
        -pairs["profit_amount"].to_numpy(),
        constraints=optimize.LinearConstraint(np.array(rows), -np.inf, limits),
        bounds=optimize.Bounds(0, 1),
        integrality=np.full(len(pairs), int(whole)),
        options={"mip_rel_gap": 0},
    )
    return -float(found.fun)


@st.composite
def problems(draw: st.DrawFn) -> tuple[pd.DataFrame, float, int]:
    """Up to eight customers and three offers; small whole numbers bring ties, zeros and losses."""
    n, k = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    seed = draw(st.integers(0, 10**6))
    random = np.random.default_rng(seed)
    if draw(st.booleans()):
        profit, cost = random.integers(-2, 5, (n, k)) * 1.0, random.integers(0, 4, (n, k)) * 1.0
    else:
        profit, cost = random.normal(1, 2, (n, k)), random.uniform(0, 3, (n, k))
    budget = draw(st.floats(0, 1)) * float(cost.sum())
    return pairs_of(profit, cost), budget, draw(st.integers(0, n))


@settings(deadline=None, max_examples=60)
@given(problems())
def test_the_bound_is_the_relaxation_and_the_plan_lies_below_the_best(
    problem: tuple[pd.DataFrame, float, int],
) -> None:
    pairs, budget, capacity = problem
    plan = plan_contacts(pairs, Constraints(budget, capacity, 0.0), "day")
    best = exact(pairs, budget, capacity, whole=True)
    assert plan.upper_bound == pytest.approx(
        exact(pairs, budget, capacity, whole=False), rel=1e-6, abs=1e-6
    )
    assert plan.profit <= best + 1e-6
    contacts = plan.contacts
    assert contacts["customer_key"].is_unique
    assert len(contacts) == pairs["customer_key"].nunique()
    assert contacts["cost_amount"].sum() <= budget + 1e-6
    assert (contacts["offer"] != NOTHING).sum() <= capacity
    assert contacts["expected_profit_amount"].sum() == pytest.approx(plan.profit)
    assert (contacts["expected_profit_amount"] >= 0).all()


@settings(deadline=None, max_examples=40)
@given(problems())
def test_with_one_constraint_at_most_one_contact_is_lost(
    problem: tuple[pd.DataFrame, float, int],
) -> None:
    pairs, budget, capacity = problem
    largest = max(float(pairs["profit_amount"].max()), 0.0)
    by_budget = plan_contacts(pairs, Constraints(budget, None, 0.0), "day")
    assert by_budget.upper_bound - by_budget.profit <= largest + 1e-6
    by_capacity = plan_contacts(pairs, Constraints(None, capacity, 0.0), "day")
    assert by_capacity.profit == pytest.approx(
        exact(pairs, 1e9, capacity, whole=True), rel=1e-6, abs=1e-6
    )


@settings(deadline=None, max_examples=40)
@given(problems(), st.floats(-1, 1), st.integers(-1, 1))
def test_shadow_prices_bound_what_other_limits_would_earn(
    problem: tuple[pd.DataFrame, float, int], more_budget: float, more_capacity: int
) -> None:
    """V(B', N') <= V(B, N) + price_B (B' - B) + price_N (N' - N) of the relaxation, anywhere."""
    pairs, budget, capacity = problem
    if budget + more_budget < 0 or capacity + more_capacity < 0:
        return
    plan = plan_contacts(pairs, Constraints(budget, capacity, 0.0), "day")
    prices = {value.name: value.shadow_price for value in plan.constraints}
    other = exact(pairs, budget + more_budget, capacity + more_capacity, whole=False)
    bound = plan.upper_bound + prices["budget"] * more_budget + prices["capacity"] * more_capacity
    assert other <= bound + 1e-5


def test_a_shadow_price_is_what_one_unit_less_costs() -> None:
    """Ten contacts for one each bring 10, 9, ... 1: with five paid for, the fifth brings 6."""
    pairs = pairs_of(np.arange(10.0, 0, -1)[:, None], np.ones((10, 1)))
    budget = plan_contacts(pairs, Constraints(5.0, None, 0.0), "day").constraints[0]
    # at a kink the price lies between what one more would bring (5) and one less would lose (6)
    assert 5 <= budget.shadow_price <= 6
    assert (budget.used, budget.cost) == (5.0, 15.0)
    half = plan_contacts(pairs, Constraints(4.5, None, 0.0), "day").constraints[0]
    assert half.shadow_price == 6
    slack = plan_contacts(pairs, Constraints(50.0, 50, 0.0), "day")
    assert [value.shadow_price for value in slack.constraints] == [0, 0]
    assert [value.cost for value in slack.constraints] == [0, 0]
    assert "| budget | 50.00 | 10.00 | 0.0000 | +0.00 |" in slack.table()


def test_risk_is_not_profit() -> None:
    """The riskiest customer, whom no offer moves, is left alone; so is who buys anyway."""
    pairs = pd.DataFrame(
        {
            "customer_key": ["lost", "moved", "loyal"],
            "offer": "coupon",
            "profit_amount": [-1.0, 4.0, -5.0],
            "cost_amount": [1.0, 1.0, 5.0],
        }
    )
    plan = plan_contacts(pairs, Constraints(None, None, 0.0), "day")
    chosen = plan.contacts.set_index("customer_key")["offer"]
    assert chosen.to_dict() == {"lost": NOTHING, "moved": "coupon", "loyal": NOTHING}
    assert plan.profit == plan.upper_bound == 4.0


def test_large_plans_are_close_to_their_bound() -> None:
    random = np.random.default_rng(1)
    n = 4000
    pairs = pairs_of(random.normal(0.5, 2, (n, 3)), random.gamma(2, 1, (n, 3)))
    plan = plan_contacts(pairs, Constraints(0.3 * n, n // 5, 0.05), "day")
    assert 0 <= 1 - plan.profit / plan.upper_bound < 5e-4
    used = {value.name: value.used for value in plan.constraints}
    assert used["capacity"] == n // 5
    assert 0.3 * n - 1 < used["budget"] <= 0.3 * n


def test_the_slice_is_permanent_and_random() -> None:
    inside = is_exploring(KEYS, 0.1)
    assert inside.mean() == pytest.approx(0.1, abs=0.01)
    assert (is_exploring(KEYS, 0.2) >= inside).all()  # a larger share only adds
    assert (is_exploring(KEYS[:100], 0.1) == inside[:100]).all()

    pairs = pairs_of(np.tile([5.0, -3.0, 1.0], (6000, 1)), np.ones((6000, 3)))
    plan = plan_contacts(pairs, Constraints(None, None, 0.1), "2025-01-01")
    drawn = plan.contacts[plan.contacts["is_random"]]
    assert set(drawn["customer_key"]) == {k for k in KEYS[:6000] if is_exploring([k], 0.1)[0]}
    assert (drawn["propensity"] == 0.25).all()
    counts = drawn["offer"].value_counts()
    assert len(counts) == 4  # nothing is an arm too, and so is the offer that loses money
    expected = len(drawn) / 4
    assert ((counts - expected).abs() < 4 * np.sqrt(expected)).all()
    others = plan.contacts[~plan.contacts["is_random"]]
    assert (others["offer"] == "offer 0").all()
    assert (others["propensity"] == 1).all()
    again = plan_contacts(pairs.sample(frac=1, random_state=2), Constraints(None, None, 0.1), "d2")
    assert set(again.contacts.query("is_random")["customer_key"]) == set(drawn["customer_key"])
    assert (again.contacts.query("is_random")["offer"].to_numpy() != drawn["offer"]).any()


def test_what_the_slice_costs_is_shown() -> None:
    pairs = pairs_of(np.full((5000, 1), 2.0), np.ones((5000, 1)))
    plan = plan_contacts(pairs, Constraints(None, None, 0.1), "day")
    share = plan.constraints[-1]
    # half of the slice gets nothing instead of 2
    drawn = plan.contacts[plan.contacts["is_random"]]
    assert share.name == "exploration"
    assert share.cost == pytest.approx(2.0 * (drawn["offer"] == NOTHING).sum())
    assert plan.profit + plan.random_profit + share.cost == pytest.approx(10_000)


def test_the_order_of_rows_does_not_matter() -> None:
    random = np.random.default_rng(3)
    pairs = pairs_of(random.integers(-1, 4, (300, 3)) * 1.0, random.integers(0, 3, (300, 3)) * 1.0)
    limits = Constraints(60.0, 80, 0.1)
    plan = plan_contacts(pairs, limits, "day")
    again = plan_contacts(pairs.sample(frac=1, random_state=4), limits, "day")
    pd.testing.assert_frame_equal(plan.contacts, again.contacts)


def test_nobody_to_contact() -> None:
    plan = plan_contacts(pairs_of(np.zeros((0, 1)), np.zeros((0, 1))), Constraints(10.0, 5), "day")
    assert plan.contacts.empty
    assert plan.profit == plan.upper_bound == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profit_amount": np.nan}, "profit_amount: 2 of 2"),
        ({"cost_amount": -1.0}, "cost less than nothing"),
        ({"offer": NOTHING}, "left alone"),
        ({"customer_key": "one", "offer": "same"}, "twice"),
    ],
)
def test_bad_pairs_are_named(change: dict[str, object], message: str) -> None:
    pairs = pairs_of(np.ones((2, 1)), np.ones((2, 1))).assign(**change)
    with pytest.raises(ValueError, match=message):
        plan_contacts(pairs, Constraints(), "day")


def test_bad_constraints_are_named() -> None:
    with pytest.raises(TargetingError, match="budget"):
        Constraints(-1.0)
    with pytest.raises(TargetingError, match="capacity"):
        Constraints(None, -1)
    with pytest.raises(TargetingError, match="exploration_share"):
        Constraints(exploration_share=1.0)
    pairs = pairs_of(np.ones((2000, 1)), np.ones((2000, 1)))
    with pytest.raises(TargetingError, match=r"random slice alone .* of the budget"):
        plan_contacts(pairs, Constraints(1.0, None, 0.5), "day")


def test_the_plan_follows_what_was_learnt_and_who_may_be_contacted() -> None:
    scores = pd.DataFrame(
        {
            "customer_key": KEYS[:4] * 2,
            "campaign_id": ["spring"] * 4 + ["autumn"] * 4,
            "arm": ["coupon"] * 4 + ["call"] * 4,
            "expected_profit_amount": [3.0, 2.0, -1.0, 5.0, 4.0, 1.0, -2.0, 9.0],
        }
    )
    allowed = {"spring": set(KEYS[:3]), "autumn": set(KEYS[1:3])}
    costs = {("spring", "coupon"): 2.0, ("autumn", "call"): 6.0}
    pairs = scored_pairs(scores, allowed, costs)
    assert set(pairs["customer_key"]) == set(KEYS[:3]), "who may not be contacted is in no pair"
    assert set(zip(pairs["offer"], pairs["cost_amount"], strict=True)) == {
        ("spring:coupon", 2.0),
        ("autumn:call", 6.0),
    }
    plan = plan_contacts(pairs, Constraints(exploration_share=0.0), "may")
    chosen = plan.contacts.set_index("customer_key")["offer"].to_dict()
    assert chosen == {
        KEYS[0]: "spring:coupon",
        KEYS[1]: "spring:coupon",
        KEYS[2]: NOTHING,  # everything loses
    }
    lacking = scores.assign(expected_profit_amount=None)
    with pytest.raises(ValueError, match="profit_amount: 5 of 5 values are missing"):
        scored_pairs(lacking, allowed, costs)

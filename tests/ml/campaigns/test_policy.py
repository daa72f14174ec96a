"""A campaign whose weights follow results: daily batches, from the file to what it earned."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_shop import DAY, campaign, document, keys, make_shop

from ml.bandit import POOLED, Settings
from ml.campaigns.assignment import empty_ledger, uniforms
from ml.campaigns.cohorts import build_cohort
from ml.campaigns.definition import Campaign, CampaignError
from ml.campaigns.plan import plan_of, read_from
from ml.campaigns.results import read_out
from ml.policy import next_policy, own_policy

ARMS = [
    {"name": "control", "weight": 0.4, "play": "none"},
    {"name": "reminder", "weight": 0.3, "play": "reminder"},
    {"name": "call", "weight": 0.3, "play": "personal_call"},
]
BANDIT: dict[str, Any] = {
    "arms": ARMS,
    "bandit": {"floor": 0.1, "min_count": 50},
    "end_date": DAY + timedelta(days=11),
    "audience": [],
    "global_holdout": 0.0,
    "outcome": {
        "window_days": 2,
        "return_lag_days": 0,
        "primary_metric": "retained",
        "minimum_effects": {"retained": 0.05},
    },
}
# "At risk" answer the call, the others nothing; the base rates differ by segment.
RATES = {
    "At risk": {"control": 0.1, "reminder": 0.1, "call": 0.4},
    "Lost": {"control": 0.05, "reminder": 0.05, "call": 0.05},
    "Loyal": {"control": 0.5, "reminder": 0.5, "call": 0.5},
}
SEGMENTS = sorted(RATES)
SETTINGS = Settings(floor=0.1, min_count=50)
WEIGHTS = {"control": 0.4, "reminder": 0.3, "call": 0.3}


@dataclass
class Log:
    """What a campaign of twelve daily batches leaves behind."""

    ledger: pd.DataFrame
    rewards: pd.Series
    policies: dict[Any, pd.DataFrame] = field(default_factory=dict)


def run(rates: dict[str, dict[str, float]], per_day: int = 700, seed: int = 1) -> Log:
    """Draw each day by the policy of the day before, whose windows have closed."""
    of = campaign(**BANDIT)
    shop = make_shop(per_day * 12, DAY, seed)
    segment = shop.segments.set_index("customer_key")["rfm_segment"]
    ledger, policy = empty_ledger(), own_policy(of.weights, SEGMENTS, SETTINGS)
    log = Log(ledger, pd.Series(dtype=float))
    for n in range(12):
        day = DAY + timedelta(days=n)
        known = shop.status["customer_key"].iloc[: per_day * (n + 1)]
        status = shop.status[shop.status["customer_key"].isin(known)].assign(snapshot_date=day)
        tables = {"customer_segments": shop.segments.assign(snapshot_date=day)}
        new, _ = build_cohort(of, status, tables, ledger, day, policy=policy)
        log.policies[day] = policy
        chance = [
            rates[segment[k]][a] for k, a in zip(new["customer_key"], new["arm"], strict=True)
        ]
        u = uniforms(f"reward {seed}", new["customer_key"])
        reward = pd.Series((u < np.array(chance)).astype(float), index=new["customer_key"])
        log.rewards = pd.concat([log.rewards, reward])
        ledger = pd.concat([ledger, new], ignore_index=True)
        closed = ledger[ledger["assigned_date"] <= day - timedelta(days=2)]
        rows = closed.assign(reward=log.rewards[closed["customer_key"]].to_numpy())
        policy = next_policy(rows, of.weights, SEGMENTS, SETTINGS, policy)
    log.ledger = ledger
    log.policies[DAY + timedelta(days=12)] = policy
    return log


@pytest.fixture(scope="module")
def followed() -> Log:
    return run(RATES)


def test_weights_move_to_the_better_offer_where_it_is_better(followed: Log) -> None:
    last = followed.policies[DAY + timedelta(days=12)].set_index(["segment", "arm"])
    assert last.loc[("At risk", "call"), "propensity"] > 0.75
    # what makes no difference is not favoured: nobody is surely better there
    assert last.loc["Lost", "propensity"].max() < 0.8
    first = followed.policies[DAY].set_index(["segment", "arm"])["propensity"]
    assert first[POOLED].to_dict() == WEIGHTS
    promoted = [p["is_promoted"].iloc[0] for p in followed.policies.values()]
    assert sum(promoted) >= 1
    assert not any(promoted[:3]), "before the first window closes nothing is known"
    day = list(followed.policies)[promoted.index(True)]
    assert (
        "promoted; gain per customer over the policy in force"
        in (followed.policies[day]["verdict"].iloc[0])
    )


def test_the_floor_holds_and_the_ledger_has_the_policy_of_its_day(followed: Log) -> None:
    ledger = followed.ledger
    assert ledger["propensity"].min() >= 0.1 - 1e-12
    assert len(set(ledger["weights_json"])) > 3
    for day, own in ledger.groupby("assigned_date"):
        policy = followed.policies[day].set_index(["segment", "arm"])["propensity"]
        wanted = policy[pd.MultiIndex.from_frame(own[["segment", "arm"]])].to_numpy()
        assert (own["propensity"].to_numpy() == wanted).all()
        for row in own.drop_duplicates("segment").to_dict("records"):
            assert json.loads(row["weights_json"]) == policy[row["segment"]].to_dict()


def test_nobody_who_is_assigned_moves(followed: Log) -> None:
    ledger = followed.ledger
    assert ledger["customer_key"].is_unique
    day = DAY + timedelta(days=11)
    policy = followed.policies[DAY + timedelta(days=12)]
    status, tables = make_shop(700 * 12, day).frames
    new, cohort = build_cohort(campaign(**BANDIT), status, tables, ledger, day, policy=policy)
    assert new.empty, "the day is closed"
    own = ledger[ledger["assigned_date"] == day].set_index("customer_key")["arm"]
    drawn = cohort.dropna(subset="arm").set_index("customer_key")["arm"]
    assert drawn.to_dict() == own.to_dict()
    # the same batch, drawn again from nothing, is the same
    before = ledger[ledger["assigned_date"] < day]
    again, _ = build_cohort(
        campaign(**BANDIT), status, tables, before, day, policy=followed.policies[day]
    )
    assert again.set_index("customer_key")["arm"].to_dict() == own.to_dict()


def read(log: Log, of: Campaign) -> pd.DataFrame:
    """What the campaign earned; an order is worth 10."""
    outcomes = pd.DataFrame(
        {
            "customer_key": log.ledger["customer_key"],
            "retained": log.rewards[log.ledger["customer_key"]].to_numpy(),
        }
    )
    zeros = ["order_count", "revenue_amount", "discount_amount", "margin_amount", "cost_amount"]
    outcomes = outcomes.assign(
        **dict.fromkeys(zeros, 0.0), profit_amount=10 * outcomes["retained"], net_margin_amount=0.0
    )
    ledger, outcomes, usable = read_from(log.ledger, outcomes, make_shop(10).scores.iloc[:0])
    results = read_out(plan_of(of, usable), ledger, outcomes, of.settled_date)
    return results.set_index(["arm", "metric"])


def truth(rates: dict[str, dict[str, float]], seed: int, per_day: int) -> float:
    """The effect of the call on the customers who are in the campaign."""
    segment = make_shop(per_day * 12, DAY, seed).segments["rfm_segment"]
    return float(segment.map({s: own["call"] - own["control"] for s, own in rates.items()}).mean())


def test_the_effect_is_that_of_equal_customers_and_not_of_the_favoured(followed: Log) -> None:
    """At risk get the call, Loyal less of it: plain means would say that the call does harm."""
    row = read(followed, campaign(**BANDIT)).loc[("call", "retained")]
    assert row["method"] == "ipw_welch"
    assert row["status"] in ("ok", "needs_review")
    effect = truth(RATES, 1, 700)
    assert row["effect_low"] < effect < row["effect_high"]
    arms = followed.rewards.groupby(followed.ledger.set_index("customer_key")["arm"])
    naive = arms.mean()["call"] - arms.mean()["control"]
    assert abs(naive - effect) > 3 * row["standard_error"]


def coverage(seeds: range, per_day: int = 200) -> tuple[int, int, int]:
    """Campaigns of 12 days whose interval covers the truth, by how it is read and by plain means;
    and those whose weights moved while they ran."""
    of, covered, naive, moved = campaign(**BANDIT), 0, 0, 0
    for seed in seeds:
        log = run(RATES, per_day=per_day, seed=seed)
        moved += len(set(log.ledger["weights_json"])) > 1
        row = read(log, of).loc[("call", "retained")]
        effect = truth(RATES, seed, per_day)
        covered += row["effect_low"] <= effect <= row["effect_high"]
        arms = log.rewards.groupby(log.ledger.set_index("customer_key")["arm"])
        plain = arms.mean()["call"] - arms.mean()["control"]
        naive += abs(plain - effect) <= (row["effect_high"] - row["effect_low"]) / 2
    return covered, naive, moved


@pytest.mark.slow
def test_intervals_of_a_campaign_that_follows_a_policy_cover() -> None:
    """100 campaigns of 2,400 customers; see docs/benchmarks-campaigns.md for more of them."""
    covered, naive, moved = coverage(range(100))
    low, _ = stats.binom.interval(0.999, 100, 0.95)
    assert moved > 50
    assert covered >= low
    assert naive < low, "plain means must be seen to be wrong"
    print(f"\npolicy moved in {moved}, covered {covered}, plain means {naive} of 100")


def test_equal_offers_are_seldom_promoted_and_an_unsupported_log_never() -> None:
    equal = {segment: dict.fromkeys(WEIGHTS, 0.3) for segment in SEGMENTS}
    log = run(equal, per_day=300, seed=5)
    assert sum(bool(p["is_promoted"].iloc[0]) for p in log.policies.values()) == 0
    verdicts = {p["verdict"].iloc[0] for p in log.policies.values()}
    assert any("does not surely beat" in verdict for verdict in verdicts)
    # a log of one arm in a segment cannot tell of a policy that wants another there
    of = {"control": 0.5, "call": 0.5}
    rng = np.random.default_rng(1)
    n = 4_000
    arm = rng.choice(list(of), n)
    alone = np.arange(n) % 2 == 0
    rows = pd.DataFrame(
        {
            "customer_key": keys(n),
            "segment": np.where(alone, "Lost", "Loyal"),
            "arm": np.where(alone, "control", arm),
            "propensity": np.where(alone, 1.0, 0.5),
            "weights_json": np.where(
                alone, '{"control": 1.0, "call": 0.0}', '{"control": 0.5, "call": 0.5}'
            ),
            "reward": (rng.random(n) < np.where(arm == "call", 0.6, 0.2)).astype(float),
        }
    )
    policy = next_policy(rows, of, SEGMENTS, SETTINGS, own_policy(of, SEGMENTS, SETTINGS))
    assert not policy["is_promoted"].any()
    assert "support: the policy gives 2000 of 4000 units" in policy["verdict"].iloc[0]
    assert (policy["propensity"] == 0.5).all()


def test_a_file_whose_bandit_cannot_learn_is_refused() -> None:
    for changes, words in (
        ({"end_date": None}, "nothing is learnt in time"),
        ({"end_date": DAY + timedelta(days=2)}, "nothing is learnt in time"),
        ({"bandit": {"floor": 0.4}}, "exceeds 1"),
        ({"bandit": {"floor": 0.31}}, "below the floor"),
        ({"bandit": {"floor": 0.0}}, "greater than 0"),
    ):
        with pytest.raises(CampaignError, match=words):
            campaign(**{**BANDIT, **changes})
    status, tables = make_shop(10).frames
    with pytest.raises(ValueError, match="follows a policy, and there is none"):
        build_cohort(campaign(**BANDIT), status, tables, empty_ledger(), DAY)
    assert "bandit" not in document()


def test_a_budget_pays_for_the_dearest_arm_of_everybody() -> None:
    money = {"budget_amount": 100, "contact_cost_amount": 1}
    arms = [ARMS[0], ARMS[1], {**ARMS[2], "contact_cost_amount": 5}]
    fixed = campaign(**{**BANDIT, **money, "arms": arms, "bandit": None})
    assert fixed.affordable_customers == int(100 / (0.3 * 1 + 0.3 * 5))
    assert campaign(**{**BANDIT, **money, "arms": arms}).affordable_customers == 20

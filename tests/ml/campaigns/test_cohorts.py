"""Eligibility before randomisation, the first reason for each exclusion, and reruns."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_shop import DAY, Shop, campaign, keys, make_shop

from ml.campaigns.assignment import empty_ledger
from ml.campaigns.cohorts import COHORT_COLUMNS, build_cohort
from ml.campaigns.definition import CampaignError
from ml.campaigns.eligibility import RULES, first_exclusion

# What makes each rule fire, on a customer whom no rule excludes.
FIRES: dict[str, dict[str, Any]] = {
    "no_consent": {"has_email_consent": False},
    "business_account": {"account_type": "business"},
    "complaint": {"open_ticket_count": 1},
    "low_rating": {"low_rating_count_90d": 1},
    "undelivered_order": {"undelivered_order_count": 1},
    "open_return": {"return_count_30d": 1},
    "recent_order": {"days_since_last_order": 13},
    "contact_cap": {"contact_count_7d": 2},
}


def _excluded(changes: dict[str, Any], **fields: Any) -> str | None:
    status = make_shop(1).status.assign(**changes)
    return first_exclusion(campaign(**fields), status, DAY, empty_ledger()).iloc[0]


@pytest.mark.parametrize("rule", FIRES)
def test_each_rule_fires_and_can_be_turned_off_with_a_reason(rule: str) -> None:
    assert _excluded({}) is None
    assert _excluded(FIRES[rule]) == rule
    if rule != "no_consent":
        off = {"turned_off": [{"rule": rule, "reason": "Stated for this test only"}]}
        assert _excluded(FIRES[rule], eligibility=off) is None


def test_the_first_reason_is_given_in_the_documented_order() -> None:
    applied: dict[str, Any] = {}
    for rule in reversed(list(FIRES)):
        applied |= FIRES[rule]
        assert _excluded(applied) == rule
    assert list(FIRES) == [rule for rule in RULES if rule != "in_other_campaign"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ticket_count_30d": 1}, "complaint"),
        ({"contact_count_30d": 4}, "contact_cap"),
        ({"contact_count_30d": 3, "contact_count_7d": 1}, None),
        ({"days_since_last_order": 14}, None),
        ({"days_since_last_order": None}, None),
        ({"has_email_consent": None}, "no_consent"),
        ({"account_type": None}, None),
        ({"open_ticket_count": None}, None),
    ],
)
def test_edges_and_unknowns(changes: dict[str, Any], expected: str | None) -> None:
    assert _excluded(changes) == expected


def test_consent_is_that_of_the_campaigns_channel() -> None:
    assert _excluded({"has_sms_consent": False}) is None
    assert _excluded({"has_sms_consent": False}, channel="sms") == "no_consent"


def test_the_cohort_accounts_for_every_targeted_customer(shop: Shop) -> None:
    shop.status.loc[:99, "account_type"] = "business"
    new, cohort = build_cohort(campaign(), *shop.frames, empty_ledger(), DAY)
    targeted = shop.scores[shop.scores["risk_band"] != "low"]
    assert list(cohort.columns) == COHORT_COLUMNS
    assert list(cohort["customer_key"]) == sorted(targeted["customer_key"])
    assert (cohort["is_eligible"] == cohort["arm"].notna()).all()
    assert (cohort["is_eligible"] == cohort["exclusion_reason"].isna()).all()
    enrolled = cohort[cohort["is_eligible"]].set_index("customer_key")
    assert enrolled["arm"].equals(new.set_index("customer_key")["arm"])
    assert set(cohort["exclusion_reason"].dropna()) == {"business_account", "global_holdout"}


@pytest.mark.parametrize(
    ("target", "query"),
    [
        ({}, "customer_key != ''"),
        ({"rfm_segments": ["At risk", "Lost"]}, "rfm_segment in ['At risk', 'Lost']"),
        ({"risk_bands": ["high"]}, "risk_band == 'high'"),
        ({"min_churn_probability": 0.8}, "churn_probability >= 0.8"),
        ({"lifecycles": ["dormant"]}, "customer_key == ''"),
        ({"cluster_names": ["nobody"]}, "customer_key == ''"),
    ],
)
def test_targets(target: dict[str, Any], query: str, shop: Shop) -> None:
    _, cohort = build_cohort(campaign(target=target), *shop.frames, empty_ledger(), DAY)
    everybody = shop.scores.merge(shop.segments, on="customer_key")
    assert set(cohort["customer_key"]) == set(everybody.query(query)["customer_key"])


def test_customers_without_a_score_are_reached_only_where_no_score_is_asked_for() -> None:
    shop = make_shop(100)
    scores = shop.scores.iloc[:60]
    for target, n in (({}, 100), ({"min_churn_probability": 0.0}, 60)):
        frames = (shop.status, scores, shop.segments)
        _, cohort = build_cohort(campaign(target=target), *frames, empty_ledger(), DAY)
        assert len(cohort) == n


def test_top_n_counts_the_eligible_and_breaks_ties_by_key() -> None:
    shop = make_shop(200)
    shop.scores["margin_at_risk_amount"] = pd.Series([Decimal("5.0000")] * 200)
    shop.status.loc[:49, "account_type"] = "business"
    definition = campaign(target={"top_n_by_margin_at_risk": 60}, global_holdout=0.0)
    _, cohort = build_cohort(definition, *shop.frames, empty_ledger(), DAY)
    private = sorted(shop.status.loc[50:, "customer_key"])
    assert list(cohort.loc[cohort["is_eligible"], "customer_key"]) == private[:60]
    assert (cohort["exclusion_reason"] == "beyond_top_n").sum() == 90


def test_the_holdout_is_taken_out_of_the_top_n(shop: Shop) -> None:
    definition = campaign(target={"top_n_by_margin_at_risk": 300}, global_holdout=0.2)
    _, cohort = build_cohort(definition, *shop.frames, empty_ledger(), DAY)
    held = (cohort["exclusion_reason"] == "global_holdout").sum()
    assert held > 30
    assert cohort["is_eligible"].sum() == 300 - held


def test_a_rerun_gives_the_same_cohort_and_no_new_row(shop: Shop) -> None:
    new, cohort = build_cohort(campaign(), *shop.frames, empty_ledger(), DAY)
    status, scores, segments = (frame.sample(frac=1, random_state=3) for frame in shop.frames)
    again, same = build_cohort(
        campaign(), status, scores, segments, new.sample(frac=1, random_state=4), DAY
    )
    assert again.empty
    pd.testing.assert_frame_equal(same, cohort)


def test_late_data_change_no_assignment(shop: Shop) -> None:
    new, cohort = build_cohort(campaign(), *shop.frames, empty_ledger(), DAY)
    shop.status["has_email_consent"] = np.arange(len(shop.status)) % 2 == 0
    shop.scores["churn_probability"] = 0.9
    shop.scores["risk_band"] = "high"
    again, after = build_cohort(campaign(), *shop.frames, new, DAY)
    assert again.empty
    arms = after.dropna(subset="arm").set_index("customer_key")["arm"]
    assert arms.equals(cohort.dropna(subset="arm").set_index("customer_key")["arm"])
    assert "day_closed" in set(after["exclusion_reason"])


def test_swapping_the_arms_labels_changes_no_eligibility(shop: Shop) -> None:
    shop.status.loc[::7, "return_count_30d"] = 1
    arms = [
        {"name": "control", "weight": 0.5, "play": "reminder", "offer": "We miss you"},
        {"name": "reminder", "weight": 0.5, "play": "none"},
    ]
    _, cohort = build_cohort(campaign(), *shop.frames, empty_ledger(), DAY)
    swapped = campaign(arms=arms, control_arm="reminder")
    _, other = build_cohort(swapped, *shop.frames, empty_ledger(), DAY)
    columns = ["customer_key", "is_eligible", "exclusion_reason"]
    assert cohort[columns].equals(other[columns])


def test_eligibility_does_not_predict_the_arm(shop: Shop) -> None:
    # What a covariate knows of the arm after assignment is what suppression leaked.
    new, _ = build_cohort(campaign(target={}), *shop.frames, empty_ledger(), DAY)
    merged = new.merge(shop.scores, on="customer_key")
    by_arm = merged.groupby("arm")["churn_probability"]
    difference = by_arm.mean().diff().iloc[-1]
    assert abs(difference) < 3.3 * np.sqrt((by_arm.var() / by_arm.size()).sum())


def test_campaigns_of_one_layer_share_no_customer_and_reruns_agree(shop: Shop) -> None:
    window = {"window_days": 10, "primary_metric": "retained", "minimum_effects": {"retained": 1}}
    a, b = campaign(id="a", coverage=0.5, outcome=window), campaign(id="b", outcome=window)
    new_a, cohort_a = build_cohort(a, *shop.frames, empty_ledger(), DAY, [a, b])
    new_b, cohort_b = build_cohort(b, *shop.frames, new_a, DAY, [a, b])
    assert set(new_a["customer_key"]).isdisjoint(new_b["customer_key"])
    assert (cohort_b["exclusion_reason"] == "in_other_campaign").sum() == len(new_a)
    both = pd.concat([new_a, new_b])
    for definition, before in ((a, cohort_a), (b, cohort_b)):
        again, after = build_cohort(definition, *shop.frames, both, DAY, [a, b])
        assert again.empty
        pd.testing.assert_frame_equal(after, before)


@pytest.mark.parametrize(
    ("days", "layer", "held"), [(10, "x", True), (11, "x", False), (1, "y", False)]
)
def test_a_customer_is_free_again_after_the_window(days: int, layer: str, held: bool) -> None:
    window = {"window_days": 10, "primary_metric": "retained", "minimum_effects": {"retained": 1}}
    a = campaign(id="a", outcome=window, layer={"name": "x"}, target={}, global_holdout=0.0)
    new, _ = build_cohort(a, *make_shop(50).frames, empty_ledger(), DAY, [a])
    later = DAY + timedelta(days=days)
    b = campaign(id="b", start_date=later, layer={"name": layer}, target={}, global_holdout=0.0)
    _, cohort = build_cohort(b, *make_shop(50, later).frames, new, later, [a, b])
    assert (cohort["exclusion_reason"] == "in_other_campaign").all() == held


def test_several_days_of_enrolment(shop: Shop) -> None:
    definition = campaign(end_date=DAY + timedelta(days=1), target={}, global_holdout=0.0)
    part = make_shop(1_000)
    part.status.loc[:499, "has_email_consent"] = False
    first, _ = build_cohort(definition, *part.frames, empty_ledger(), DAY)
    tomorrow = make_shop(1_000, DAY + timedelta(days=1))
    second, cohort = build_cohort(definition, *tomorrow.frames, first, DAY + timedelta(days=1))
    assert (len(first), len(second)) == (500, 500)
    assert (cohort["exclusion_reason"] == "already_assigned").sum() == 500
    # The first day again, with the second in the ledger: as it was.
    again, cohort = build_cohort(definition, *part.frames, pd.concat([first, second]), DAY)
    assert again.empty
    assert set(cohort.dropna(subset="arm")["customer_key"]) == set(first["customer_key"])
    assert set(cohort["exclusion_reason"].dropna()) == {"no_consent"}


def test_other_days_have_no_cohort(shop: Shop) -> None:
    later = make_shop(10, DAY + timedelta(days=1))
    new, cohort = build_cohort(campaign(), *later.frames, empty_ledger(), DAY + timedelta(days=1))
    assert new.empty
    assert cohort.empty
    assert list(cohort.columns) == COHORT_COLUMNS


def test_partitions_of_another_day_are_refused(shop: Shop) -> None:
    shop.scores["snapshot_date"] = date(2025, 4, 30)
    with pytest.raises(ValueError, match="scores is not the partition of 2025-05-01"):
        build_cohort(campaign(), *shop.frames, empty_ledger(), DAY)


def test_an_edited_campaign_is_refused_even_when_it_would_assign_nobody(shop: Shop) -> None:
    new, _ = build_cohort(campaign(), *shop.frames, empty_ledger(), DAY)
    with pytest.raises(CampaignError, match="new campaign with a new id"):
        build_cohort(campaign(name="Better"), *shop.frames, new, DAY)


def test_an_empty_shop_has_an_empty_cohort(shop: Shop) -> None:
    status, scores, segments = (frame.iloc[:0] for frame in shop.frames)
    new, cohort = build_cohort(campaign(), status, scores, segments, empty_ledger(), DAY)
    assert new.empty
    assert cohort.empty
    assert keys(0) == []

"""Eligibility before randomisation, the first reason for each exclusion, and reruns."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_shop import DAY, Shop, campaign, conditions, keys, make_shop

from ml.bandit import Settings
from ml.campaigns.assignment import empty_ledger, randomise
from ml.campaigns.cohorts import (
    COHORT_COLUMNS,
    build_cohort,
    eligible_units,
    passed_every_rule,
)
from ml.campaigns.definition import ALWAYS_ON, Campaign, CampaignError, Layer
from ml.campaigns.eligibility import (
    RULES,
    first_exclusion,
    has_consent,
    is_eligible,
    may_be_contacted,
    unheard_of,
)
from ml.campaigns.stages import Drawn
from ml.experiments.srm import check_stage
from ml.policy import own_policy

# What makes each rule fire, on a customer whom no rule excludes.
FIRES: dict[str, dict[str, Any]] = {
    "no_consent": {"has_email_consent": False},
    "suppressed": {"customer_key": "ff" * 16},
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
    return first_exclusion(
        campaign(**fields), status, DAY, empty_ledger(), suppressed=["ff" * 16]
    ).iloc[0]


@pytest.mark.parametrize("rule", FIRES)
def test_each_rule_fires_and_can_be_turned_off_with_a_reason(rule: str) -> None:
    assert _excluded({}) is None
    assert _excluded(FIRES[rule]) == rule
    if rule not in ALWAYS_ON:
        off = {"turned_off": [{"rule": rule, "reason": "Stated for this test only"}]}
        assert _excluded(FIRES[rule], eligibility=off) is None


@pytest.mark.parametrize("rule", FIRES)
def test_who_is_eligible_by_status_is_whom_no_rule_of_it_excludes(rule: str) -> None:
    status = make_shop(1).status
    assert is_eligible(["email"], status).tolist() == [True]
    changed = status.assign(**FIRES[rule])
    assert is_eligible(["email"], changed).tolist() == [rule == "suppressed"]  # a list, no status


def test_the_first_reason_is_given_in_the_documented_order() -> None:
    applied: dict[str, Any] = {}
    for rule in reversed(list(FIRES)):
        applied |= FIRES[rule]
        assert _excluded(applied) == rule
    assert list(FIRES) == [rule for rule in RULES if rule not in ("in_other_campaign", "wash_out")]


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
    assert _excluded({"has_sms_consent": False}, channels=["sms"]) == "no_consent"
    assert _excluded({"has_sms_consent": False}, channels=["sms", "email"]) is None


def test_consent_is_that_of_the_campaigns_purpose(shop: Shop) -> None:
    """Consent to marketing is none to a survey; nor is that of another channel, or a like name."""
    assert _excluded({"other_consents": None}, purpose="survey") == "no_consent"
    assert _excluded({"other_consents": "sms:survey"}, purpose="survey") == "no_consent"
    assert (
        _excluded({"other_consents": "email:surveys|email:sur"}, purpose="survey") == "no_consent"
    )
    assert _excluded({"other_consents": "email:service|email:survey"}, purpose="survey") is None
    assert _excluded({"has_email_consent": False, "other_consents": "email:survey"}) == "no_consent"
    only_survey = {"has_email_consent": False, "other_consents": "email:survey"}
    assert _excluded(only_survey, purpose="survey") is None
    # the days published before purposes were known have no text
    old = shop.status.assign(other_consents=None)
    assert not has_consent("email", old, "survey").any()
    assert has_consent("email", old).all()


def _is_broken(of: Campaign, passed: pd.DataFrame, ledger: pd.DataFrame) -> bool:
    drawn = Drawn.of(eligible_units(of, passed, ledger), of.weights)
    everybody = np.ones(len(drawn.arm), dtype=bool)
    return check_stage("eligible", drawn.by_phase(everybody), drawn.due()).is_broken


@pytest.mark.parametrize(
    ("purposes", "words"),
    [
        ({"a": "service", "b": "survey", "c": "marketing"}, {}),
        ({"a": "sevice"}, {"a": "marketing, service, survey; did you mean 'service'?"}),
        ({"a": "marketting"}, {"a": "marketing, service, survey; did you mean 'marketing'?"}),
        ({"a": "dancing", "b": "service"}, {"a": "are to marketing, service, survey"}),
    ],
)
def test_a_purpose_that_nobody_consents_to_is_told(
    purposes: dict[str, str], words: dict[str, str]
) -> None:
    """Of one that somebody consents to, and of a shop of nobody, nothing is said."""
    given = ["email:service|phone:survey", None, "sms:service"]
    found = unheard_of(purposes, pd.DataFrame({"other_consents": given}))
    assert list(found) == list(words)
    for name, end in words.items():
        assert f"nobody consents to the purpose {purposes[name]!r}" in found[name]
        assert found[name].endswith(end)
    assert unheard_of(purposes, pd.DataFrame({"other_consents": given[:0]})) == {}


def test_the_eligible_have_an_arm_by_their_hash_whoever_is_left_out_after(shop: Shop) -> None:
    shop.status.loc[:99, "account_type"] = "business"
    of = campaign(audience=[], coverage=0.5, global_holdout=0.2, layer={"name": "a", "stop": 0.7})
    new, cohort = build_cohort(of, *shop.frames, empty_ledger(), DAY)
    passed = passed_every_rule(cohort)
    units = eligible_units(of, passed, new)
    assert len(units) == len(passed) == 900
    assert len(new) < 400
    whole = randomise(
        of.model_copy(update={"coverage": 1.0, "global_holdout": 0.0, "layer": Layer()}),
        units["customer_key"],
        DAY,
    )
    assert list(units["arm"]) == list(whole["arm"]), "enrolled or not: the hash says"
    assert not _is_broken(of, passed, new)
    # a rule that sees the arm: half of the treated are excluded before the draw
    gone = units.loc[units["arm"].eq("reminder"), "customer_key"].iloc[::2]
    assert _is_broken(of, passed[~passed["customer_key"].isin(gone)], new)


def test_the_eligible_of_several_days_count_once_under_the_weights_of_their_draw() -> None:
    """A bandit whose weights move on the second day, on which new customers come."""
    n = 8_000
    of = campaign(
        audience=[],
        coverage=0.6,
        end_date=DAY + timedelta(days=40),
        bandit={"floor": 0.05, "min_count": 20},
    )
    moved = {"control": 0.1, "reminder": 0.9}
    policies = [own_policy(weights, (), Settings()) for weights in (of.weights, moved)]
    ledger, passed = empty_ledger(), []
    for number, policy in enumerate(policies):
        day = DAY + timedelta(days=number)
        here = make_shop(n, day)
        if not number:  # the first day knows half of them
            here.status["account_type"] = ["consumer", "business"] * (n // 2)
        new, cohort = build_cohort(of, *here.frames, ledger, day, policy=policy)
        ledger = pd.concat([ledger, new], ignore_index=True)
        passed.append(passed_every_rule(cohort))
    both = pd.concat(passed)
    units = eligible_units(of, both, ledger)
    assert len(units) == n < len(both), "who is outside the coverage passes on both days"
    assert units["assigned_date"].value_counts().to_dict() == {
        DAY: n / 2,
        DAY + timedelta(days=1): n / 2,
    }
    assert set(units["weights_json"]) == {
        '{"control": 0.5, "reminder": 0.5}',
        '{"control": 0.1, "reminder": 0.9}',
    }
    share = units["arm"].eq("control").mean()
    assert not 0.45 < share < 0.55, "by the weights of the file this would be an alarm"
    assert not _is_broken(of, both, ledger)
    is_treated = units["arm"].eq("reminder") & units["assigned_date"].gt(DAY)
    gone = units.loc[is_treated, "customer_key"].iloc[::5]
    kept = [rows[~rows["customer_key"].isin(gone)] for rows in (both, ledger)]
    assert _is_broken(of, *kept)


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
    ("audience", "query"),
    [
        ([], "customer_key != ''"),
        ([("rfm_segment", "in", ["At risk", "Lost"])], "rfm_segment in ['At risk', 'Lost']"),
        ([("risk_band", "=", "high")], "risk_band == 'high'"),
        ([("churn_probability", ">=", 0.8)], "churn_probability >= 0.8"),
        ([("lifecycle", "!=", "active")], "customer_key == ''"),
        (
            [("churn_probability", "<", 0.5), ("rfm_segment", "not in", ["Lost"])],
            "churn_probability < 0.5 and rfm_segment != 'Lost'",
        ),
    ],
)
def test_audiences(audience: list[tuple[str, str, Any]], query: str, shop: Shop) -> None:
    _, cohort = build_cohort(
        campaign(audience=conditions(*audience)), *shop.frames, empty_ledger(), DAY
    )
    everybody = shop.scores.merge(shop.segments, on="customer_key")
    assert set(cohort["customer_key"]) == set(everybody.query(query)["customer_key"])


def test_a_field_that_no_table_has_is_refused(shop: Shop) -> None:
    with pytest.raises(ValueError, match="no published table has shoe_size"):
        build_cohort(
            campaign(audience=conditions(("shoe_size", ">", 40))),
            *shop.frames,
            empty_ledger(),
            DAY,
        )


def test_customers_without_a_score_are_reached_only_where_no_score_is_asked_for() -> None:
    shop = make_shop(100)
    tables = {"churn_scores": shop.scores.iloc[:60], "customer_segments": shop.segments}
    for fields, n in (
        ({"audience": []}, 100),
        ({"audience": conditions(("churn_probability", ">=", 0.0))}, 60),
        ({"audience": [], "limit": {"field": "margin_at_risk_amount", "customers": 100}}, 60),
    ):
        _, cohort = build_cohort(campaign(**fields), shop.status, tables, empty_ledger(), DAY)
        assert len(cohort) == n


def _limited(**fields: Any) -> Campaign:
    return campaign(audience=[], global_holdout=0.0, **fields)


def test_the_limit_counts_the_eligible_and_breaks_ties_by_key() -> None:
    shop = make_shop(200)
    shop.scores["margin_at_risk_amount"] = pd.Series([Decimal("5.0000")] * 200)
    shop.status.loc[:49, "account_type"] = "business"
    definition = _limited(limit={"field": "margin_at_risk_amount", "customers": 60})
    _, cohort = build_cohort(definition, *shop.frames, empty_ledger(), DAY)
    private = sorted(shop.status.loc[50:, "customer_key"])
    assert list(cohort.loc[cohort["is_eligible"], "customer_key"]) == private[:60]
    assert (cohort["exclusion_reason"] == "beyond_limit").sum() == 90


def test_the_holdout_is_taken_out_of_the_limited(shop: Shop) -> None:
    definition = campaign(
        limit={"field": "margin_at_risk_amount", "customers": 300}, global_holdout=0.2
    )
    _, cohort = build_cohort(definition, *shop.frames, empty_ledger(), DAY)
    held = (cohort["exclusion_reason"] == "global_holdout").sum()
    assert held > 30
    assert cohort["is_eligible"].sum() == 300 - held


def test_the_budget_pays_for_so_many_on_all_days_together() -> None:
    # Half are contacted for 0.1 each: 0.05 a customer.
    definition = _limited(budget_amount=3, end_date=DAY + timedelta(days=1))
    assert definition.affordable_customers == 60
    shop = make_shop(100)
    first, cohort = build_cohort(definition, *shop.frames, empty_ledger(), DAY)
    assert (len(first), (cohort["exclusion_reason"] == "beyond_budget").sum()) == (60, 40)
    tomorrow = make_shop(100, DAY + timedelta(days=1))
    second, cohort = build_cohort(definition, *tomorrow.frames, first, DAY + timedelta(days=1))
    assert second.empty
    assert (cohort["exclusion_reason"] == "beyond_budget").sum() == 40
    # Who is left out is chosen by a draw that knows nothing of the arms.
    assert 15 < first["is_control"].sum() < 45
    richer, _ = build_cohort(
        _limited(budget_amount=4, end_date=DAY + timedelta(days=1)),
        *shop.frames,
        empty_ledger(),
        DAY,
    )
    assert set(first["customer_key"]) < set(richer["customer_key"])


def test_a_rerun_gives_the_same_cohort_and_no_new_row(shop: Shop) -> None:
    new, cohort = build_cohort(campaign(), *shop.frames, empty_ledger(), DAY)
    for name, frame in vars(shop).items():
        setattr(shop, name, frame.sample(frac=1, random_state=3))
    again, same = build_cohort(campaign(), *shop.frames, new.sample(frac=1, random_state=4), DAY)
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
    new, _ = build_cohort(campaign(audience=[]), *shop.frames, empty_ledger(), DAY)
    merged = new.merge(shop.scores, on="customer_key")
    by_arm = merged.groupby("arm")["churn_probability"]
    difference = by_arm.mean().diff().iloc[-1]
    assert abs(difference) < 3.3 * np.sqrt((by_arm.var() / by_arm.size()).sum())


def test_campaigns_of_one_layer_share_no_customer_and_reruns_agree(shop: Shop) -> None:
    window = {"window_days": 10, "primary_metric": "retained", "minimum_effects": {"retained": 1}}
    a, b = campaign(id="a", coverage=0.5, outcome=window), campaign(id="b", outcome=window)
    new_a, cohort_a = build_cohort(a, *shop.frames, empty_ledger(), DAY)
    new_b, cohort_b = build_cohort(b, *shop.frames, new_a, DAY)
    assert set(new_a["customer_key"]).isdisjoint(new_b["customer_key"])
    assert (cohort_b["exclusion_reason"] == "in_other_campaign").sum() == len(new_a)
    both = pd.concat([new_a, new_b])
    for definition, before in ((a, cohort_a), (b, cohort_b)):
        again, after = build_cohort(definition, *shop.frames, both, DAY)
        assert again.empty
        pd.testing.assert_frame_equal(after, before)


@pytest.mark.parametrize(
    ("days", "layer", "reason"),
    [
        (10, "x", "in_other_campaign"),
        (11, "x", "wash_out"),
        (13, "x", "wash_out"),
        (14, "x", None),
        (1, "y", None),
    ],
)
def test_a_customer_is_free_again_after_the_window_and_the_wash_out(
    days: int, layer: str, reason: str | None
) -> None:
    window = {"window_days": 10, "primary_metric": "retained", "minimum_effects": {"retained": 1}}
    a = campaign(id="a", outcome=window, layer={"name": "x"}, audience=[], global_holdout=0.0)
    new, _ = build_cohort(a, *make_shop(50).frames, empty_ledger(), DAY)
    later = DAY + timedelta(days=days)
    b = campaign(
        id="b",
        start_date=later,
        layer={"name": layer},
        audience=[],
        global_holdout=0.0,
        eligibility={"washout_days": 3},
    )
    _, cohort = build_cohort(b, *make_shop(50, later).frames, new, later)
    assert set(cohort["exclusion_reason"]) == {reason}


def test_the_next_campaign_does_not_fill_up_with_the_controls_of_the_last() -> None:
    shop = make_shop(400)
    a = campaign(id="a", layer={"name": "x"}, audience=[], global_holdout=0.0)
    new, _ = build_cohort(a, *shop.frames, empty_ledger(), DAY)
    once = {"max_contacts_7d": 1}
    b = campaign(id="b", layer={"name": "y"}, audience=[], global_holdout=0.0, eligibility=once)
    # On the same day: nobody has been contacted yet, but everybody is about to be, or could be.
    _, cohort = build_cohort(b, *shop.frames, new, DAY)
    assert set(cohort["exclusion_reason"]) == {"contact_cap"}
    # Two days later the shop has told of the messages; those of the treated count once.
    later = DAY + timedelta(days=2)
    shop = make_shop(400, later)
    treated = set(new.loc[~new["is_control"].astype(bool), "customer_key"])
    got = shop.status["customer_key"].isin(treated)
    shop.status["contact_count_7d"] = got.astype(int)
    shop.status["contact_count_30d"] = got.astype(int)
    shop.status["last_contact_date"] = pd.Series(DAY + timedelta(days=1)).repeat(400).to_numpy()
    shop.status.loc[~got, "last_contact_date"] = None
    for cap, reason in ((1, "contact_cap"), (2, None)):
        c = campaign(
            id="c",
            start_date=later,
            layer={"name": "y"},
            audience=[],
            global_holdout=0.0,
            eligibility={"max_contacts_7d": cap},
        )
        _, cohort = build_cohort(c, *shop.frames, new, later)
        assert set(cohort["exclusion_reason"]) == {reason}, "alike for control and treated"


def test_strata_are_frozen_at_assignment(shop: Shop) -> None:
    shop.status.loc[:9, "account_type"] = "business"
    off = {"turned_off": [{"rule": "business_account", "reason": "For wholesale, too"}]}
    definition = campaign(audience=[], eligibility=off)
    new, _ = build_cohort(definition, *shop.frames, empty_ledger(), DAY)
    score = shop.segments.set_index("customer_key")["monetary_score"]
    tier = new["customer_key"].map(score).map({1: "low", 2: "low", 3: "middle", 4: "middle"})
    assert (new["value_tier"] == tier.fillna("high")).all()
    assert new["account_type"].value_counts()["business"] <= 10
    shop.segments["monetary_score"] = 1
    again, _ = build_cohort(definition, *shop.frames, new, DAY)
    assert again.empty, "who changes the stratum stays where they are"


def test_several_days_of_enrolment(shop: Shop) -> None:
    definition = campaign(end_date=DAY + timedelta(days=1), audience=[], global_holdout=0.0)
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
    with pytest.raises(ValueError, match="churn_scores is not the partition of 2025-05-01"):
        build_cohort(campaign(), *shop.frames, empty_ledger(), DAY)


def test_an_edited_campaign_is_refused_even_when_it_would_assign_nobody(shop: Shop) -> None:
    new, _ = build_cohort(campaign(), *shop.frames, empty_ledger(), DAY)
    with pytest.raises(CampaignError, match="make this a new version"):
        build_cohort(campaign(coverage=0.9), *shop.frames, new, DAY)
    again, _ = build_cohort(campaign(name="Better"), *shop.frames, new, DAY)
    assert again.empty, "a name may be corrected"


def test_an_empty_shop_has_an_empty_cohort(shop: Shop) -> None:
    for name, frame in vars(shop).items():
        setattr(shop, name, frame.iloc[:0])
    new, cohort = build_cohort(campaign(), *shop.frames, empty_ledger(), DAY)
    assert new.empty
    assert cohort.empty
    assert keys(0) == []


def test_who_may_be_contacted_is_who_could_be_drawn() -> None:
    """The same rules and the same holdout as before a draw; the audience is no rule."""
    status = make_shop(400).status
    status.loc[:49, "has_email_consent"] = False
    status.loc[50:99, "days_since_last_order"] = 3
    of = campaign(audience=[])
    listed = status["customer_key"].iloc[100:110]
    found = may_be_contacted(of, status, DAY, empty_ledger(), listed)
    new, _ = build_cohort(of, status, {}, empty_ledger(), DAY, suppressed=listed)
    assert found == set(new["customer_key"])
    assert found.isdisjoint(status["customer_key"].iloc[:110])
    assert 0 < len(found) < 290, "the holdout is out, too"

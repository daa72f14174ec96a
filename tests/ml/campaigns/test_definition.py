"""A campaign file says what it means, or is refused with file and field."""

from __future__ import annotations

import re
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from small_shop import DAY, DOCUMENT, campaign, conditions, document, keys, make_shop

from ml.campaigns.assignment import assign, empty_ledger
from ml.campaigns.audience import Condition
from ml.campaigns.cohorts import build_cohort
from ml.campaigns.definition import (
    CampaignError,
    load_campaigns,
    parse_campaign,
    refuse_changed,
)
from ml.reasons import NO_REASON, PERSONAL

OUTCOME = DOCUMENT["outcome"]
SHARES = [DOCUMENT["arms"][0] | {"weight": 0.4}, DOCUMENT["arms"][1] | {"weight": 0.6}]
EXAMPLE = Path(__file__).parents[3] / "orchestration/defs/campaigns/example_campaign.yaml"


def test_the_example_file_is_a_campaign() -> None:
    example = parse_campaign(EXAMPLE.read_text(encoding="utf-8"), EXAMPLE.name)
    assert sum(example.weights.values()) == pytest.approx(1)
    assert example.contact_cost("control") == 0
    assert example.contact_cost("coupon") == Decimal("0.05")
    assert example.eligibility.turned_off == ()


def test_a_campaign_cannot_be_changed_in_memory() -> None:
    with pytest.raises(ValueError, match="frozen"):
        campaign().coverage = 0.1


@pytest.mark.parametrize(
    ("operator", "value"),
    [("=", PERSONAL), ("!=", PERSONAL), ("in", (NO_REASON, PERSONAL)), ("not in", (PERSONAL,))],
)
def test_nobody_is_chosen_by_what_personal_attributes_did(operator: Any, value: Any) -> None:
    asked = {"field": "reason_2", "operator": operator, "value": value}
    context = {"fields": {"reason_2": "text"}}
    with pytest.raises(ValueError, match="reason_2: nobody is chosen, or left out, because"):
        Condition.model_validate(asked, context=context)
    other = {"field": "reason_2", "operator": "=", "value": NO_REASON}
    assert Condition.model_validate(other, context=context).value == NO_REASON
    # A file that was registered before the rule is read as it is: its campaign goes on.
    assert Condition.model_validate(asked).value == value


def test_the_hash_is_of_what_the_file_says() -> None:
    text = yaml.safe_dump(document(), sort_keys=True)
    other = "# a comment\n" + yaml.safe_dump(document(), sort_keys=False)
    assert parse_campaign(text, "a").config_sha256 == parse_campaign(other, "b").config_sha256
    assert campaign(coverage=0.5).config_sha256 != campaign().config_sha256


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"id": "Has Blanks"}, "id", "small letters"),
        ({"id": "a\x1fb"}, "id", "small letters"),
        ({"chanel": "email"}, "chanel", "did you mean 'channels'?"),
        ({"channels": ["pigeon"]}, "channels.1", "email"),
        ({"channels": []}, "channels", "is empty"),
        ({"channels": ["email", "email"]}, "channels", "twice"),
        ({"version": 0}, "version", "greater than or equal"),
        ({"control_arm": "nobody"}, "control_arm", "nobody"),
        ({"control_arm": "reminder"}, "control_arm", "no contact"),
        ({"end_date": date(2025, 4, 1)}, "end_date", "before"),
        ({"coverage": 1.5}, "coverage", "less than or equal"),
        ({"purpose": "Our news"}, "purpose", "small letters"),
        ({"audience": conditions(("risk_band", "=", ["high"]))}, "audience.1", "one value"),
        ({"audience": conditions(("risk_band", "in", "high"))}, "audience.1", "a list"),
        ({"audience": conditions(("risk_band", "in", []))}, "audience.1", "empty"),
        ({"audience": conditions(("risk_band", "like", "h%"))}, "audience.1.operator", "missing"),
        ({"audience": conditions(("risk; drop", "=", "h"))}, "audience.1.field", "small letters"),
        ({"audience": conditions(("risk_band", "missing", "yes"))}, "audience.1", "true or false"),
        ({"audience": ["risk_band = 1 OR 1 = 1"]}, "audience.1", "needs fields (field, operator"),
        ({"approver": ""}, "approver", "is empty"),
        ({"channels": ["mail"]}, "channels.1", "not 'mail'"),
        ({"budget_amount": -5}, "budget_amount", "greater than or equal to 0, not -5"),
        ({"layer": {"start": 0.5, "stop": 0.5}}, "layer", "empty"),
        (
            {"eligibility": {"turned_off": [{"rule": "complaint", "reason": "no"}]}},
            "eligibility.turned_off.1.reason",
            "at least 10",
        ),
        (
            {
                "eligibility": {
                    "turned_off": [{"rule": "no_consent", "reason": "They will like it"}]
                }
            },
            "eligibility.turned_off.1.rule",
            "consent cannot be turned off",
        ),
        (
            {"eligibility": {"turned_off": [{"rule": "suppressed", "reason": "Just this once"}]}},
            "eligibility.turned_off.1.rule",
            "suppressed cannot be turned off",
        ),
        (
            {"outcome": {"window_days": 30, "primary_metric": "retained", "minimum_effects": {}}},
            "outcome.minimum_effects",
            "large enough",
        ),
        (
            {
                "outcome": OUTCOME
                | {
                    "primary_metric": "average_order_amount",
                    "metrics": ["average_order_amount"],
                    "minimum_effects": {"average_order_amount": 1.0},
                }
            },
            "outcome.primary_metric",
            "no customer has a value of it",
        ),
        ({"outcome": OUTCOME | {"goals": ["retained"]}}, "outcome.goals", "a goal already"),
        (
            {"outcome": OUTCOME | {"goals": ["order_count"]}},
            "outcome.minimum_effects",
            "must name order_count",
        ),
        ({"outcome": OUTCOME | {"goals": ["profit_amount"]}}, "outcome.goals", "not among metrics"),
        (
            {"outcome": OUTCOME | {"winsorise": {"profit_amount": 0.99}}},
            "outcome.winsorise",
            "not among metrics",
        ),
        (
            {"outcome": OUTCOME | {"winsorise": {"retained": 0.99}}},
            "outcome.winsorise",
            "never capped",
        ),
        (
            {"outcome": OUTCOME | {"winsorise": {"revenue_amount": 0.4}}},
            "outcome.winsorise.revenue_amount",
            "greater than 0.5",
        ),
        (
            {"outcome": OUTCOME | {"monitoring": "open_ended"}},
            "outcome.monitoring",
            "needs planned_customers",
        ),
        (
            {"outcome": OUTCOME | {"monitoring": "open_ended", "planned_customers": 500}},
            "outcome.monitoring",
            "everybody is assigned on one day",
        ),
        ({"outcome": OUTCOME | {"looks": 3}}, "outcome.looks", "share of planned_customers"),
        (
            {"outcome": OUTCOME | {"looks": 3, "planned_customers": 1_000}},
            "outcome.looks",
            "windows close on one day",
        ),
        (
            {"outcome": OUTCOME | {"guardrails": [{"metric": "retained", "margin": 0.1}]}},
            "outcome.guardrails",
            "not the primary one",
        ),
        (
            {"outcome": OUTCOME | {"guardrails": [{"metric": "net_margin_amount", "margin": 1}]}},
            "outcome.guardrails",
            "not among metrics",
        ),
    ],
)
def test_errors_name_file_line_and_field(changes: dict[str, Any], field: str, words: str) -> None:
    text = yaml.safe_dump(document(**changes), sort_keys=False)
    with pytest.raises(CampaignError) as caught:
        parse_campaign(text, "winback.yaml")
    found = re.match(rf"winback\.yaml:(\d+): {re.escape(field)}:", str(caught.value))
    assert found, str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1, "one problem is told once"
    # The line is that of the field, or of the innermost part of its path that stands in the file.
    lines = text.splitlines()
    line = lines[int(found.group(1)) - 1]
    name = next(part for part in reversed(field.split(".")) if not part.isdigit())
    assert line.lstrip("- ").startswith((f"{name}:", "field:")) or line.lstrip().startswith("- ")


def test_every_problem_has_a_line_of_its_own() -> None:
    text = "\n".join(
        [
            "id: a",
            "name: A",
            "objective: Why",
            "approver: Ada",
            "start_date: someday",
            "channels: [email]",
            "arms:",
            "  - {name: control, weight: 0.5, play: none}",
            "  - {name: phone, weight: 0.2, play: personal_call}",
            "  - name: reminder",
            "    weight: 5",
            "    play: reminder",
            "control_arm: control",
            "outcome: {window_days: 0, primary_metric: retained, minimum_effects: {retained: 1}}",
        ]
    )
    with pytest.raises(CampaignError) as caught:
        parse_campaign(text, "a.yaml")
    heads = [line.split(": ")[:2] for line in str(caught.value).splitlines()]
    assert heads == [
        ["a.yaml:5", "start_date"],
        ["a.yaml:11", "arms.3.weight"],
        ["a.yaml:14", "outcome.window_days"],
    ]


FIELDS: dict[str, Any] = {
    "fields": {
        "risk_band": "text",
        "churn_probability": "number",
        "is_margin_known": "boolean",
        "last_order_date": "date",
    },
    "values": {"risk_band": ("high", "medium", "low")},
}


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (("churn_probabilty", ">", 0.5), "churn_probability"),
        (("churn_probability", ">", "much"), "is a number, and is compared with text"),
        (("churn_probability", "=", True), "compared with boolean"),
        (("risk_band", ">=", "high"), "has no order"),
        (("risk_band", "in", ["high", "hihg"]), "never hihg"),
        (("last_order_date", ">", 20250101), "is a date"),
        (("is_margin_known", "<", True), "has no order"),
    ],
)
def test_conditions_are_checked_against_what_is_published(
    condition: tuple[str, str, Any], words: str
) -> None:
    text = yaml.safe_dump(document(audience=conditions(condition)))
    parse_campaign(text, "a.yaml")
    with pytest.raises(CampaignError, match=re.escape(words)):
        parse_campaign(text, "a.yaml", FIELDS)


def test_conditions_that_can_be_met_are_accepted() -> None:
    good = conditions(
        ("churn_probability", ">=", 1),
        ("risk_band", "not in", ["low"]),
        ("is_margin_known", "=", True),
        ("last_order_date", "<", DAY),
        ("last_order_date", "missing", False),
    )
    text = yaml.safe_dump(document(audience=good))
    assert len(parse_campaign(text, "a.yaml", FIELDS).audience) == 5
    limited = document(limit={"field": "risk_band", "customers": 5})
    with pytest.raises(
        CampaignError, match=r"a.yaml:\d+: limit.field: 'risk_band' is a text; a number"
    ):
        parse_campaign(yaml.safe_dump(limited), "a.yaml", FIELDS)


@pytest.mark.parametrize(
    ("operator", "value", "met"),
    [
        ("=", 2, [0, 1, 0, 0]),
        ("!=", 2, [1, 0, 1, 0]),
        ("<", 2, [1, 0, 0, 0]),
        ("<=", 2, [1, 1, 0, 0]),
        (">", 2, [0, 0, 1, 0]),
        (">=", 2, [0, 1, 1, 0]),
        ("in", [1, 3], [1, 0, 1, 0]),
        ("not in", [1, 3], [0, 1, 0, 0]),
        ("missing", True, [0, 0, 0, 1]),
        ("missing", False, [1, 1, 1, 0]),
    ],
)
def test_what_is_not_known_meets_no_condition(operator: str, value: Any, met: list[int]) -> None:
    condition = Condition.model_validate({"field": "x", "operator": operator, "value": value})
    for values in (pd.Series([1, 2, 3, None]), pd.Series([1, 2, 3, None], dtype="object")):
        assert list(condition.holds(values).astype(int)) == met
    decimals = pd.Series([Decimal(1), Decimal(2), Decimal(3), None])
    assert list(condition.holds(decimals).astype(int)) == met


def test_conditions_on_dates_booleans_and_texts() -> None:
    def holds(value: Any, operator: str, values: list[Any]) -> list[bool]:
        condition = Condition.model_validate({"field": "x", "operator": operator, "value": value})
        return list(condition.holds(pd.Series(values, dtype="object")))

    assert holds(DAY, "<", [date(2025, 4, 30), DAY, None]) == [True, False, False]
    assert holds([DAY], "in", [date(2025, 4, 30), DAY, None]) == [False, True, False]
    assert holds(True, "=", [True, False, None]) == [True, False, False]
    assert holds("a", "!=", ["a", "b", None]) == [False, True, False]


def test_a_discount_is_compared_with_the_same_contact_without_it() -> None:
    control = {"name": "control", "weight": 0.4, "play": "none"}
    coupon = {"name": "coupon", "weight": 0.6, "play": "coupon"}
    with pytest.raises(CampaignError, match="contacted arm without one"):
        campaign(arms=[control, coupon])
    with pytest.raises(CampaignError, match="contacted arm without one"):
        campaign(arms=[control, {**coupon, "play": "reminder", "discount_amount": 5}])
    reminder = {"name": "reminder", "weight": 0.3, "play": "reminder"}
    both = campaign(arms=[control, reminder, {**coupon, "weight": 0.3}])
    assert [arm.name for arm in both.arms if arm.is_discount] == ["coupon"]


def test_the_planned_cost_counts_contact_and_redeemed_offer() -> None:
    offer = {"discount_amount": 10, "redemption_rate": 0.2, "contact_cost_amount": "0.5"}
    definition = campaign(
        arms=[
            {"name": "control", "weight": 0.5, "play": "none"},
            {"name": "reminder", "weight": 0.25, "play": "reminder"},
            {"name": "coupon", "weight": 0.25, "play": "coupon", **offer},
        ],
        budget_amount=650,
    )
    costs = [definition.planned_cost(arm) for arm in definition.weights]
    assert costs == [Decimal(0), Decimal("0.1"), Decimal("2.5")]
    assert definition.affordable_customers == 1_000
    assert campaign().affordable_customers is None


@pytest.mark.parametrize("weights", [(0.5, 0.4), (0.6, 0.6), (0.5, 0.4999)])
def test_weights_that_do_not_sum_to_one_are_refused(weights: tuple[float, float]) -> None:
    arms = [
        {"name": "control", "weight": weights[0], "play": "none"},
        {"name": "reminder", "weight": weights[1], "play": "reminder"},
    ]
    with pytest.raises(CampaignError, match="weights sum to"):
        campaign(arms=arms)


def test_weights_of_thirds_in_decimals_are_one() -> None:
    names = ("control", "a", "b")
    arms = [
        {"name": name, "weight": weight, "play": "none" if name == "control" else "reminder"}
        for name, weight in zip(names, (0.34, 0.33, 0.33), strict=True)
    ]
    assert len(campaign(arms=arms).arms) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id: a\nid: b\n", "bad.yaml:2:1: not readable as YAML: the key 'id' stands twice"),
        ("id: [a\n", "bad.yaml:2:1"),
        (
            "id: a\nstart_date: 2025-13-01\n",
            "bad.yaml:2:13: not readable as YAML: '2025-13-01': ",
        ),
        ("- a\n", "bad.yaml: expected a mapping of fields, such as id and version"),
        ("", "bad.yaml: expected a mapping of fields, such as id and version"),
    ],
)
def test_unreadable_files_say_where(text: str, words: str) -> None:
    with pytest.raises(CampaignError) as caught:
        parse_campaign(text, "bad.yaml")
    assert words in str(caught.value)


def test_campaigns_are_loaded_by_id_and_agree_about_the_holdout() -> None:
    files = [(f"{i}.yaml", yaml.safe_dump(document(id=i), sort_keys=False)) for i in ("b", "a")]
    assert [loaded.id for loaded in load_campaigns(files)] == ["a", "b"]
    with pytest.raises(CampaignError, match=r"again.yaml:1: id: 'a' is also in a.yaml"):
        load_campaigns([*files, ("again.yaml", files[1][1])])
    other = ("c.yaml", yaml.safe_dump(document(id="c", global_holdout=0.1), sort_keys=False))
    with pytest.raises(CampaignError, match=r"c.yaml:\d\d: global_holdout: 0.1 differs"):
        load_campaigns([*files, other])


def test_two_versions_do_not_assign_at_once() -> None:
    later = DAY + timedelta(days=1)
    first = ("a.yaml", yaml.safe_dump(document()))
    second = ("b.yaml", yaml.safe_dump(document(version=2, start_date=later)))
    assert [c.id for c in load_campaigns([second, first])] == ["winback_1", "winback_1_v2"]
    clash = ("c.yaml", yaml.safe_dump(document(version=2)))
    with pytest.raises(CampaignError, match=r"c.yaml:\d+: version: version 2 of winback_1"):
        load_campaigns([first, clash])


def test_a_started_campaign_cannot_be_edited_and_says_what_was() -> None:
    before = campaign()
    ledger = assign(before, keys(50), DAY, empty_ledger())
    refuse_changed(before, ledger)
    refuse_changed(campaign(id="another"), ledger)
    refuse_changed(campaign(name="Better", approver="Grace", budget_amount=500), ledger)
    with pytest.raises(CampaignError, match="after customers were assigned"):
        refuse_changed(campaign(coverage=0.5), ledger)
    with pytest.raises(CampaignError, match="after customers were assigned"):
        assign(campaign(coverage=0.5), keys(60), DAY, pd.DataFrame(ledger))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coverage": 0.5}, "coverage was the default and is 0.5, which would move customers"),
        ({"layer": {"name": "crm"}}, "layer.name was the default and is crm, which would move"),
        ({"arms": SHARES}, "arms.1.weight was 0.5 and is 0.4, which would move customers"),
        ({"channels": ["sms"]}, "channels was ['email'] and is ['sms'], which would move"),
        ({"audience": []}, "audience.1.field was risk_band and is the default, which would move"),
        ({"end_date": date(2025, 6, 1)}, "end_date was the default and is 2025-06-01"),
        (
            {"outcome": OUTCOME | {"window_days": 10}},
            "outcome.window_days was 30 and is 10, which changes what was promised",
        ),
        ({"objective": "Another"}, "changes what was promised"),
    ],
)
def test_each_change_is_explained(changes: dict[str, Any], words: str) -> None:
    ledger = assign(campaign(), keys(50), DAY, empty_ledger())
    with pytest.raises(CampaignError) as caught:
        refuse_changed(campaign(**changes), ledger, campaign())
    assert words in str(caught.value)
    assert "version: 2" in str(caught.value)
    refuse_changed(campaign(**changes, version=2), ledger)


def test_a_campaign_whose_hash_another_version_made_goes_on() -> None:
    """Nothing was changed, so nobody is stopped; whatever was changed is told as ever."""
    ledger = assign(campaign(), keys(50), DAY, empty_ledger()).assign(config_sha256="ab" * 32)
    with pytest.raises(CampaignError, match="is not the one under which"):
        refuse_changed(campaign(), ledger)
    refuse_changed(campaign(), ledger, campaign())
    with pytest.raises(CampaignError, match="has changed"):
        refuse_changed(campaign(coverage=0.5), ledger, campaign())
    status, tables = make_shop(100).frames
    longer = {"end_date": DAY + timedelta(days=3)}
    old = assign(campaign(**longer), keys(20), DAY, empty_ledger()).assign(config_sha256="ab" * 32)
    day = DAY + timedelta(days=1)
    frames = [frame.assign(snapshot_date=day) for frame in (status, *tables.values())]
    new, _ = build_cohort(
        campaign(**longer),
        frames[0],
        dict(zip(tables, frames[1:], strict=True)),
        old,
        day,
        registered=campaign(**longer),
    )
    assert len(new) > 0
    assert not set(new["customer_key"]) & set(old["customer_key"])

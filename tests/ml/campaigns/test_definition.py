"""A campaign file says what it means, or is refused with file and field."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from pydantic import ValidationError
from small_shop import DAY, campaign, document, keys

from ml.campaigns.assignment import assign, empty_ledger
from ml.campaigns.definition import (
    CampaignError,
    load_campaigns,
    parse_campaign,
    refuse_changed,
)

EXAMPLE = Path(__file__).parents[3] / "orchestration/defs/campaigns/example_campaign.yaml"


def test_the_example_file_is_a_campaign() -> None:
    example = parse_campaign(EXAMPLE.read_text(encoding="utf-8"), EXAMPLE.name)
    assert sum(example.weights.values()) == pytest.approx(1)
    assert example.contact_cost("control") == 0
    assert example.contact_cost("coupon") == Decimal("0.05")
    assert example.eligibility.turned_off == ()


def test_a_campaign_cannot_be_changed_in_memory() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        campaign().id = "other"


def test_the_hash_is_of_what_the_file_says() -> None:
    text = yaml.safe_dump(document(), sort_keys=True)
    other = "# a comment\n" + yaml.safe_dump(document(), sort_keys=False)
    assert parse_campaign(text, "a").config_sha256 == parse_campaign(other, "b").config_sha256
    assert campaign(coverage=0.5).config_sha256 != campaign().config_sha256


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"id": "Has Blanks"}, "id", "pattern"),
        ({"id": "a\x1fb"}, "id", "pattern"),
        ({"chanel": "email"}, "chanel", "not permitted"),
        ({"channel": "pigeon"}, "channel", "email"),
        ({"control_arm": "nobody"}, "control_arm", "nobody"),
        ({"control_arm": "reminder"}, "control_arm", "no contact"),
        ({"end_date": date(2025, 4, 1)}, "end_date", "before"),
        ({"coverage": 1.5}, "coverage", "less than or equal"),
        ({"target": {"rfm_segments": ["Whales"]}}, "target.rfm_segments", "Whales"),
        ({"layer": {"start": 0.5, "stop": 0.5}}, "layer", "empty"),
        (
            {"eligibility": {"turned_off": [{"rule": "complaint", "reason": "no"}]}},
            "eligibility.turned_off.0.reason",
            "at least 10",
        ),
        (
            {
                "eligibility": {
                    "turned_off": [{"rule": "no_consent", "reason": "They will like it"}]
                }
            },
            "eligibility.turned_off.0.rule",
            "cannot be turned off",
        ),
        (
            {"outcome": {"window_days": 30, "primary_metric": "retained", "minimum_effects": {}}},
            "outcome",
            "large enough",
        ),
    ],
)
def test_errors_name_file_and_field(changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(CampaignError) as caught:
        campaign(**changes)
    message = str(caught.value)
    assert f"winback.yaml: {field}" in message
    assert words in message


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
        {"name": name, "weight": weight, "play": "none"}
        for name, weight in zip(names, (0.34, 0.33, 0.33), strict=True)
    ]
    assert len(campaign(arms=arms).arms) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id: a\nid: b\n", "bad.yaml:2:1: not readable as YAML: the key 'id' stands twice"),
        ("id: [a\n", "bad.yaml:2:1"),
        ("- a\n", "bad.yaml: a campaign is a mapping"),
        ("", "bad.yaml: a campaign is a mapping"),
    ],
)
def test_unreadable_files_say_where(text: str, words: str) -> None:
    with pytest.raises(CampaignError) as caught:
        parse_campaign(text, "bad.yaml")
    assert words in str(caught.value)


def test_campaigns_are_loaded_by_id_and_agree_about_the_holdout() -> None:
    files = [(f"{i}.yaml", yaml.safe_dump(document(id=i), sort_keys=False)) for i in ("b", "a")]
    assert [loaded.id for loaded in load_campaigns(files)] == ["a", "b"]
    with pytest.raises(CampaignError, match=r"again.yaml: id: 'a' is also in a.yaml"):
        load_campaigns([*files, ("again.yaml", files[1][1])])
    other = ("c.yaml", yaml.safe_dump(document(id="c", global_holdout=0.1), sort_keys=False))
    with pytest.raises(CampaignError, match=r"c.yaml: global_holdout: 0.1 differs"):
        load_campaigns([*files, other])


def test_a_started_campaign_cannot_be_edited() -> None:
    before, after = campaign(), campaign(coverage=0.5)
    ledger = assign(before, keys(50), DAY, empty_ledger())
    refuse_changed(before, ledger)
    refuse_changed(campaign(id="another"), ledger)
    with pytest.raises(CampaignError) as caught:
        refuse_changed(after, ledger)
    assert before.config_sha256 in str(caught.value)
    assert after.config_sha256 in str(caught.value)
    with pytest.raises(CampaignError, match="changed after it started"):
        assign(after, keys(60), DAY, pd.DataFrame(ledger))

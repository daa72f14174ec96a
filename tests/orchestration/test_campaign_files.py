"""The files of a home that say what campaigns do: read strictly, kept as they were."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from ml.campaigns.definition import CampaignError
from orchestration.defs.campaigns.files import (
    audience_context,
    read_campaigns,
    read_plays,
    register,
    registered,
    started_campaigns,
    suppressed_keys,
)
from orchestration.defs.scores.assets import _asked
from orchestration.resources.home import Home, Shop
from orchestration.resources.vault import Identity, Vault
from orchestration.tables import mart_tables

SHOP = Shop("Europe/Berlin", "EUR", date(2024, 1, 1), date(2025, 12, 31))
DAY = date(2025, 5, 1)
TEXT = """
id: winback
name: Win back
objective: Does a reminder bring customers back?
approver: Ada
start_date: 2025-05-01
channels: [email]
arms:
  - {name: control, weight: 0.5, play: none}
  - {name: reminder, weight: 0.5, play: reminder}
control_arm: control
audience: [{field: churn_probability, operator: ">=", value: 0.5}]
outcome: {window_days: 7, primary_metric: retained, minimum_effects: {retained: 0.05}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.create(tmp_path / "home", SHOP)
    (made.campaigns / "winback.yaml").write_text(TEXT)
    return made


def test_an_audience_may_ask_for_what_is_published(home: Home) -> None:
    fields = audience_context()["fields"]
    for name, kind in (
        ("churn_probability", "number"),
        ("rfm_segment", "text"),
        ("margin_at_risk_amount", "number"),
        ("has_push_consent", "boolean"),
        ("last_order_date", "date"),
        ("order_count_same_weeks_last_year", "number"),
    ):
        assert fields[name] == kind
    assert not {"customer_key", "gender", "birth_year"} & fields.keys()
    assert len(read_campaigns(home)) == 1
    path = home.campaigns / "winback.yaml"
    path.write_text(TEXT.replace("churn_probability", "churn_probabilty"))
    with pytest.raises(CampaignError, match=r"winback.yaml:12: audience.1: .*churn_probability"):
        read_campaigns(home)
    by_gender = '{field: gender, operator: "=", value: female}'
    path.write_text(
        TEXT.replace('{field: churn_probability, operator: ">=", value: 0.5}', by_gender)
    )
    with pytest.raises(CampaignError, match=r"winback.yaml:12: audience.1: .*gender"):
        read_campaigns(home)


def test_a_campaign_is_kept_as_it_was_and_outlives_its_file(home: Home) -> None:
    (campaign,) = read_campaigns(home)
    ledger = pd.DataFrame(
        {"campaign_id": ["winback"] * 2, "config_sha256": [campaign.config_sha256] * 2}
    )
    assert registered(home, "winback") is None
    register(home, [campaign], ledger)
    path = home.campaigns / "winback.yaml"
    path.write_text(TEXT.replace("window_days: 7", "window_days: 70"))
    register(home, read_campaigns(home), ledger)  # another configuration is not that of the ledger
    kept = registered(home, "winback")
    assert kept is not None
    assert kept.config_sha256 == campaign.config_sha256
    assert [c.outcome.window_days for c in started_campaigns(home, ledger)] == [7]
    path.unlink()
    assert [c.id for c in started_campaigns(home, ledger)] == ["winback"]
    assert started_campaigns(home, ledger.iloc[:0]) == ()


def test_the_suppression_list_finds_people_by_id_and_by_any_spelling_of_an_address(
    home: Home,
) -> None:
    vault = Vault(home.vault, b"a secret of sixteen bytes")
    keys = vault.keys_for(["C1", "C2", "C3", "C4"])
    people = [(None, None), ("Ada@Shop.TEST", None), (None, "0049 30 1234"), ("x@shop.test", "+1")]
    vault.store(
        Identity(key, f"C{n}", email=email, phone=phone)
        for n, (key, (email, phone)) in enumerate(zip(keys, people, strict=True), 1)
    )
    assert suppressed_keys(home, vault, DAY) == frozenset()
    (home.campaigns / "suppression.csv").write_text(
        "customer_id,email,phone,until\n"
        "C1,,,\n"
        ", ada@shop.test,,\n"
        ",,+49 (30) 1234,2025-05-01\n"
        "unknown,,,\n"
    )
    assert suppressed_keys(home, vault, DAY) & set(keys) == set(keys[:3])
    assert suppressed_keys(home, vault, date(2025, 5, 2)) & set(keys) == set(keys[:2])
    with pytest.raises(ValueError, match="no address 'name'"):
        vault.keys_by_address("name", ["Ada"])  # type: ignore[arg-type]


def test_the_plays_that_ship_are_in_force_until_a_home_has_its_own(home: Home) -> None:
    assert {rule.play for rule in read_plays(home).rules} == {
        "service_call",
        "personal_call",
        "coupon",
        "reminder",
    }
    own = "approver: Ada\nchannels: {reminder: [email]}\nrules: [{play: reminder}]\n"
    (home.root / "plays.yaml").write_text(own + "purposes: {reminder: service}\n")
    plays = read_plays(home)
    assert (plays.approver, plays.purpose_of("reminder")) == ("Ada", "service")
    read = _asked(mart_tables()["customer_status"], plays)
    assert {"has_email_consent", "other_consents"} <= set(read), (
        "what the purposes are looked up in"
    )

"""Campaign and play files of a home, the suppression list, and the files that leave it.

What belongs here: reading `campaigns/` and `plays.yaml`, keeping each file as it was when its first
customers were assigned, and writing exports safe against spreadsheet formulas. What a campaign
means and who may be exported is in `ml/campaigns/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.resources.home import write_atomically
from orchestration.tables import CHURN_SCORES, CUSTOMER_SEGMENTS, mart_tables

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    import pandas as pd

    from expectations.schema import Table
    from ml.campaigns.definition import Campaign
    from ml.plays import Plays
    from orchestration.resources.home import Home
    from orchestration.resources.vault import Vault

SUPPRESSION = "suppression.csv"
PLAYS = "plays.yaml"
DEFAULT_PLAYS = Path(__file__).parents[1] / "scores" / "default_plays.yaml"
REGISTERED = "registered"
_KINDS = {
    "string": "text",
    "integer": "number",
    "decimal": "number",
    "double": "number",
    "boolean": "boolean",
    "date": "date",
}


# Nobody is chosen by gender or age: they are published so that scores can be compared by them.
# `other_consents` is for a campaign's `purpose`.
_NOT_ASKED = frozenset({"customer_key", "snapshot_date", "gender", "birth_year", "other_consents"})


def audience_tables() -> tuple[Table, ...]:
    """Return the tables whose columns an audience may ask for, the first that has one wins."""
    mart = mart_tables()
    status, features = mart["customer_status"], mart["customer_features"]
    return status, CHURN_SCORES, CUSTOMER_SEGMENTS, features


def audience_context() -> dict[str, Any]:
    """Return what the conditions of an audience are checked against: fields, and their values."""
    from ml.rfm import RFM_SEGMENTS

    columns = {
        column.name: column
        for table in reversed(audience_tables())
        for column in table.columns
        if column.type in _KINDS and column.name not in _NOT_ASKED
    }
    return {
        "fields": {name: _KINDS[column.type] for name, column in columns.items()},
        "values": {
            "rfm_segment": RFM_SEGMENTS,
            "account_type": ("consumer", "business"),
            **{name: column.allowed for name, column in columns.items() if column.allowed},
        },
    }


def read_campaigns(home: Home) -> tuple[Campaign, ...]:
    """Return the campaigns of a home, by id.

    Raises:
        CampaignError: naming file, line or field.
    """
    from ml.campaigns.definition import load_campaigns

    files = sorted(home.campaigns.glob("*.yaml"))
    return load_campaigns(
        ((path.name, path.read_text(encoding="utf-8")) for path in files), audience_context()
    )


def read_plays(home: Home) -> Plays:
    """Return the plays of a home: its `plays.yaml`, or those that ship.

    Raises:
        PlayError: naming file, line and field.
    """
    from ml.at_risk import OWN_FIELDS
    from ml.plays import parse_plays

    own = home.root / PLAYS
    path = own if own.is_file() else DEFAULT_PLAYS
    context = audience_context()
    context["fields"] = {**context["fields"], **OWN_FIELDS}
    return parse_plays(path.read_text(encoding="utf-8"), path.name, context)


def registered(home: Home, campaign_id: str) -> Campaign | None:
    """Return a campaign as it was when its first customers were assigned, or None."""
    from ml.campaigns.definition import parse_campaign

    path = home.campaigns / REGISTERED / f"{campaign_id}.yaml"
    return parse_campaign(path.read_text(encoding="utf-8"), path.name) if path.is_file() else None


def register(home: Home, campaigns: Iterable[Campaign], ledger: pd.DataFrame) -> None:
    """Keep the files of the campaigns whose customers stand in the ledger, as they are now.

    The registered file explains later what has changed, and lets results go on when a newer version
    has taken the place of the file. One that is of the configuration in the ledger is not touched.
    """
    known = ledger.drop_duplicates("campaign_id").set_index("campaign_id")["config_sha256"]
    for campaign in campaigns:
        if campaign.id not in known.index:
            continue
        kept = registered(home, campaign.id)
        if kept is None or kept.config_sha256 != known[campaign.id]:
            path = home.campaigns / REGISTERED / f"{campaign.id}.yaml"
            write_atomically(path, _yaml(campaign))


def started_campaigns(home: Home, ledger: pd.DataFrame) -> tuple[Campaign, ...]:
    """Return every campaign in the ledger, as registered, by id; a file is good enough without.

    A campaign of which neither is there any more is passed over: nothing says how to read it.
    """
    files = {campaign.id: campaign for campaign in read_campaigns(home)}
    found = [
        registered(home, campaign_id) or files.get(campaign_id)
        for campaign_id in sorted(ledger["campaign_id"].unique())
    ]
    return tuple(campaign for campaign in found if campaign is not None)


def suppressed_keys(home: Home, vault: Vault, day: date) -> frozenset[str]:
    """Return the customers on the suppression list on `day`; nobody where there is no list.

    Raises:
        CampaignError: naming file and line.
    """
    from ml.campaigns.suppression import parse_suppression

    path = home.campaigns / SUPPRESSION
    if not path.is_file():
        return frozenset()
    rows = parse_suppression(path.read_text(encoding="utf-8"), path.name)
    on = [row for row in rows if row.holds_on(day)]
    keys = set(vault.keys_for(row.value for row in on if row.field == "customer_id"))
    keys |= vault.keys_by_address("email", [row.value for row in on if row.field == "email"])
    keys |= vault.keys_by_address("phone", [row.value for row in on if row.field == "phone"])
    return frozenset(keys)


def write_csv(folder: Path, name: str, frame: pd.DataFrame) -> Path:
    """Write a CSV that no spreadsheet takes for a formula; return its path."""
    from ml.campaigns.export import csv_bytes

    path = folder / name
    write_atomically(path, csv_bytes(frame))
    return path


def _yaml(campaign: Campaign) -> bytes:
    import yaml

    content = campaign.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    head = "# As it was when the first customers were assigned. Written by Holdfast; do not edit.\n"
    return (head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).encode()

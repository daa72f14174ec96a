"""Handing a cohort to the e-mail tool: a dry run, a named approver, then the files.

What belongs here: joining the identities back from the vault, at export only, and writing the
files. Who may be in them is decided in `ml/campaigns/export.py`, on the day of the export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestration.defs.campaigns.files import read_campaigns
from orchestration.resources.home import HomeError, write_atomically
from orchestration.resources.platform import Platform
from orchestration.tables import CAMPAIGN_COHORTS, mart_tables

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    import pandas as pd

    from ml.campaigns.definition import Campaign
    from orchestration.resources.home import Home


def preview(home: Home, campaign_id: str, day: date | None) -> str:
    """Return what an export would hand over, in counts, and the token that allows it."""
    from ml.campaigns.export import dry_run

    campaign, cohort, identities, status, day = _inputs(home, campaign_id, day)
    found = dry_run(campaign, cohort, identities, status, day)
    rows = ", ".join(f"{arm}: {count:,}" for arm, count in found.rows_per_arm.items())
    dropped = ", ".join(f"{reason}: {count:,}" for reason, count in found.dropped.items() if count)
    return (
        f"{campaign.name} ({campaign.id}), export of {day}: {found.rows:,} customers ({rows}); "
        f"dropped since assignment: {dropped or 'none'}.\n"
        f"To export: --approver {campaign.approver!r} --token {found.token}"
    )


def export(home: Home, campaign_id: str, day: date | None, approver: str, token: str) -> list[Path]:
    """Write the cohort as CSV and Parquet; return the paths.

    Raises:
        ExportRefusedError: another approver, or no dry run of this very selection.
    """
    from ml.campaigns.export import export_cohort

    campaign, cohort, identities, status, day = _inputs(home, campaign_id, day)
    files = export_cohort(campaign, cohort, identities, status, day, approver=approver, token=token)
    folder = home.exports / "campaigns" / campaign.id
    paths = [folder / f"{day}.csv", folder / f"{day}.parquet"]
    for path, content in zip(paths, (files.csv, files.parquet), strict=True):
        write_atomically(path, content, mode=0o600)  # names and addresses
    return paths


def _inputs(
    home: Home, campaign_id: str, day: date | None
) -> tuple[Campaign, pd.DataFrame, pd.DataFrame, pd.DataFrame, date]:
    import pandas as pd

    platform = Platform(root=str(home.root))
    campaigns = {campaign.id: campaign for campaign in read_campaigns(home)}
    if campaign_id not in campaigns:
        raise HomeError(
            f"no campaign {campaign_id!r} in {home.campaigns}; it has {list(campaigns)}"
        )
    campaign = campaigns[campaign_id]
    status_table = mart_tables()["customer_status"]
    published = platform.lake.days(status_table)
    if not published:
        raise HomeError("nothing is published yet; run the daily job first")
    day = day or published[-1]
    platform.lake.require(status_table, day)
    days = [d for d in platform.lake.days(CAMPAIGN_COHORTS) if d <= day]
    cohort = platform.lake.read_frame(CAMPAIGN_COHORTS, days)
    cohort = cohort[(cohort["campaign_id"] == campaign_id) & cohort["arm"].notna()]
    if cohort.empty:
        raise HomeError(f"campaign {campaign_id!r} has assigned nobody by {day}")
    found = platform.vault.identities(list(cohort["customer_key"]))
    fields = ("customer_key", "customer_id", "email", "phone")
    identities = pd.DataFrame(
        [[getattr(identity, name) for name in fields] for identity in found.values()],
        columns=list(fields),
    )
    return campaign, cohort, identities, platform.lake.read_frame(status_table, [day]), day

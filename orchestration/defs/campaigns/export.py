"""Handing a cohort to the e-mail tool: a dry run, a named approver, then the files.

What belongs here: joining the identities back from the vault, at export only, and writing the
files. Who may be in them is decided in `ml/campaigns/export.py`, on the last published day. Who was
handed over is in the catalog, and is not handed over again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestration.defs.campaigns.files import read_campaigns
from orchestration.resources.home import HomeError, file_lock, write_atomically
from orchestration.resources.platform import Platform
from orchestration.tables import CAMPAIGN_COHORTS, mart_tables

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    import pandas as pd

    from ml.campaigns.definition import Campaign
    from orchestration.resources.home import Home


class WindowEndedError(HomeError):
    """A campaign that is over."""


class NobodyLeftError(HomeError):
    """An export that would hand over nobody."""


@dataclass(frozen=True)
class _Selection:
    """What an export is made from."""

    campaign: Campaign
    cohort: pd.DataFrame
    identities: pd.DataFrame
    status: pd.DataFrame
    day: date
    handed_over: frozenset[str]  # keys of earlier exports


def preview(home: Home, campaign_id: str, day: date | None) -> str:
    """Return what an export would hand over, in counts, and the token that allows it."""
    from ml.campaigns.export import dry_run

    chosen = _select(Platform(root=str(home.root)), campaign_id, day)
    campaign = chosen.campaign
    found = dry_run(
        campaign,
        chosen.cohort,
        chosen.identities,
        chosen.status,
        chosen.day,
        chosen.handed_over,
    )
    rows = ", ".join(f"{arm}: {count:,}" for arm, count in found.rows_per_arm.items())
    dropped = ", ".join(f"{reason}: {count:,}" for reason, count in found.dropped.items() if count)
    return (
        f"{campaign.name} ({campaign.id}), export of {chosen.day}: {found.rows:,} customers "
        f"({rows}); dropped since assignment: {dropped or 'none'}.\n"
        f"To export: --approver {campaign.approver!r} --token {found.token}"
    )


def export(home: Home, campaign_id: str, day: date | None, approver: str, token: str) -> list[Path]:
    """Write who was not handed over yet as CSV and Parquet; return the paths.

    They are remembered before the files appear: if the process dies in between, nobody gets the
    campaign twice.

    Raises:
        HomeError: not the last published day, the campaign's window has ended, or nobody is left.
        ExportRefusedError: another approver, or no dry run of this very selection.
    """
    from ml.campaigns.export import export_cohort

    platform = Platform(root=str(home.root))
    with file_lock(home.exports / ".campaigns.lock"):  # of two exports at once, one comes second
        chosen = _select(platform, campaign_id, day)
        files = export_cohort(
            chosen.campaign,
            chosen.cohort,
            chosen.identities,
            chosen.status,
            chosen.day,
            chosen.handed_over,
            approver=approver,
            token=token,
        )
        if not files.customer_keys:
            raise NobodyLeftError(
                f"campaign {campaign_id!r} has nobody left to hand over on {chosen.day}; "
                f"{len(chosen.handed_over):,} were handed over before"
            )
        folder = home.exports / "campaigns" / chosen.campaign.id
        stem, number = f"{chosen.day}", 1
        while (folder / f"{stem}.csv").exists():  # an earlier export of that day stays
            number += 1
            stem = f"{chosen.day}_{number}"
        platform.catalog.note_export(
            chosen.campaign.id, files.customer_keys, chosen.day, files.approver
        )
        paths = [folder / f"{stem}.csv", folder / f"{stem}.parquet"]
        for path, content in zip(paths, (files.csv, files.parquet), strict=True):
            write_atomically(path, content, mode=0o600)  # names and addresses
    return paths


def _select(platform: Platform, campaign_id: str, day: date | None) -> _Selection:
    import pandas as pd

    home = platform.home
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
    last = published[-1]
    if day is not None and day != last:
        raise HomeError(
            f"consent is judged on the last published day, {last}, not on {day}; export with "
            f"--day {last} or without --day"
        )
    if last > campaign.window_end_date:
        raise WindowEndedError(
            f"the outcome window of campaign {campaign_id!r} ended on {campaign.window_end_date}: "
            "whoever is contacted now no longer counts; start a new campaign"
        )
    platform.lake.require(status_table, last)
    days = [d for d in platform.lake.days(CAMPAIGN_COHORTS) if campaign.assigns_on(d)]
    for cohort_day in days:
        platform.lake.require(CAMPAIGN_COHORTS, cohort_day)
    cohort = platform.lake.read_frame(CAMPAIGN_COHORTS, days)
    cohort = cohort[(cohort["campaign_id"] == campaign_id) & cohort["arm"].notna()]
    if cohort.empty:
        raise HomeError(f"campaign {campaign_id!r} has assigned nobody by {last}")
    found = platform.vault.identities(list(cohort["customer_key"]))
    fields = ("customer_key", "customer_id", "email", "phone")
    identities = pd.DataFrame(
        [[getattr(identity, name) for name in fields] for identity in found.values()],
        columns=list(fields),
    )
    status = platform.lake.read_frame(status_table, [last])
    handed_over = frozenset(platform.catalog.exported(campaign_id))
    return _Selection(campaign, cohort, identities, status, last, handed_over)

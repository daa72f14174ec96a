"""Handing a cohort to the tools: a dry run, a named approver, files, and a receipt.

What belongs here: joining the identities back from the vault, at export only; freezing what was
approved; delivering it, and going on with a delivery that was interrupted. Who may be in it is
decided in `ml/campaigns/export.py`, on the last published day; how it travels in
`orchestration/resources/activation.py`. Who was handed over is in the catalog, and is not handed
over again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestration.defs.campaigns.files import (
    read_campaigns,
    read_plays,
    registered,
    suppressed_keys,
)
from orchestration.resources.activation import (
    FileTarget,
    HttpTarget,
    Parcel,
    Progress,
    Target,
)
from orchestration.resources.home import HomeError, file_lock, write_atomically
from orchestration.resources.platform import Platform
from orchestration.tables import (
    AT_RISK_LIST,
    CAMPAIGN_ASSIGNMENTS,
    CAMPAIGN_COHORTS,
    mart_tables,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date
    from pathlib import Path

    import pandas as pd

    from expectations.schema import Table
    from ml.campaigns.definition import Campaign
    from ml.campaigns.export import Export, Handover
    from orchestration.resources.home import Home

LIST = "at_risk_"  # and a play: the at-risk list of the last published day
RECEIPT = "receipt.json"
FROZEN = "cohort.parquet"


class WindowEndedError(HomeError):
    """A campaign that is over."""


class NobodyLeftError(HomeError):
    """An export that would hand over nobody."""


@dataclass(frozen=True)
class _Selection:
    """What an export is made from."""

    campaign: Handover
    arguments: dict[str, Any]  # of ml.campaigns.export
    day: date
    handed_over: frozenset[str]  # keys of earlier exports


def preview(home: Home, campaign_id: str, day: date | None) -> str:
    """Return what an export would hand over, in counts, and the token that allows it."""
    from ml.campaigns.export import dry_run

    chosen = _select(Platform(root=str(home.root)), campaign_id, day)
    campaign = chosen.campaign
    found = dry_run(**chosen.arguments)

    def told(counts: dict[str, int]) -> str:
        return ", ".join(f"{name}: {count:,}" for name, count in counts.items() if count)

    return (
        f"{campaign.name} ({campaign.id}), export of {chosen.day}: {found.rows:,} customers "
        f"({told(found.rows_per_arm) or 'nobody'}; by {told(found.rows_per_channel) or 'no way'}); "
        f"dropped since assignment: {told(found.dropped) or 'none'}.\n"
        f"To export: --approver {campaign.approver!r} --token {found.token}"
    )


def export(
    home: Home,
    campaign_id: str,
    day: date | None,
    approver: str,
    token: str,
    url: str | None = None,
) -> list[Path]:
    """Freeze and deliver who was not handed over yet; return the files and the receipt.

    Files are written always, and posted to `url` where one is given. Customers are remembered
    before the first file appears: if the process dies in between, nobody gets the campaign twice.
    The same token again goes on with its delivery where that was interrupted; consent and
    suppression are checked again before anything more is sent.

    Raises:
        HomeError: not the last published day, the campaign's window has ended, or nobody is left.
        ExportRefusedError: another approver, or no dry run of this very selection.
        DeliveryError: the tool did not take it whole.
    """
    from ml.campaigns.export import export_cohort

    platform = Platform(root=str(home.root))
    posting = [_http(platform, url)] if url else []  # a bad address is refused before anything else
    with file_lock(home.exports / ".campaigns.lock"):  # of two exports at once, one comes second
        root = home.exports / "campaigns" / campaign_id
        if posting and (begun := _frozen_under(root, token)) is not None:
            return _go_on(platform, begun, posting, approver)
        chosen = _select(platform, campaign_id, day)
        approved = export_cohort(**chosen.arguments, approver=approver, token=token)
        if not len(approved.cohort):
            raise NobodyLeftError(
                f"campaign {campaign_id!r} has nobody left to hand over on {chosen.day}; "
                f"{len(chosen.handed_over):,} were handed over before"
            )
        folder, number = root / f"{chosen.day}", 1
        while folder.exists():  # an earlier export of that day stays
            number += 1
            folder = root / f"{chosen.day}_{number}"
        platform.catalog.note_export(
            chosen.campaign.id, approved.cohort["customer_key"], chosen.day, approved.approver
        )
        _freeze(folder, chosen.campaign, approved)
        return _deliver(folder, approved.frames, [FileTarget(folder), *posting])


def _freeze(folder: Path, campaign: Handover, approved: Export) -> None:
    """Write down who is in the export, and the receipt that deliveries are entered in."""
    from ml.campaigns.export import parquet_bytes

    counts = approved.dry_run
    write_atomically(folder / FROZEN, parquet_bytes(approved.cohort), mode=0o600)
    receipt = {
        "export_id": counts.token,
        "campaign_id": campaign.id,
        "config_sha256": campaign.fingerprint,
        "purpose": campaign.purpose,
        "exported_on": counts.export_date.isoformat(),
        "approver": approved.approver,
        "rows": counts.rows,
        "rows_per_arm": counts.rows_per_arm,
        "rows_per_channel": counts.rows_per_channel,
        "dropped": counts.dropped,
        "deliveries": [],
    }
    _write_receipt(folder, receipt)


def _deliver(
    folder: Path,
    frames: dict[str, pd.DataFrame],
    targets: Sequence[Target],
    withheld: Mapping[str, frozenset[int]] | None = None,
) -> list[Path]:
    """Send each channel to each target, entering in the receipt what arrived.

    Returns the files of the export, the receipt last.
    """
    receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
    entries: list[dict[str, Any]] = receipt["deliveries"]
    not_sent = withheld or {}
    for target in targets:
        for channel, rows in frames.items():
            at = {"target": target.name, "channel": channel}
            entry = next((e for e in entries if e.items() >= at.items()), None)
            if entry is None:
                entry = {**at, "is_complete": False, "withheld": 0, "acknowledged": {}, "parts": []}
                entries.append(entry)
                _write_receipt(folder, receipt)  # it was begun, whatever comes of it
            if entry["is_complete"]:
                continue
            progress = Progress({int(n): part for n, part in entry["acknowledged"].items()})
            progress.save = partial(_enter, folder, receipt, entry, progress)
            gone = not_sent.get(channel, frozenset())
            parcel = Parcel(receipt["export_id"], receipt["campaign_id"], channel, rows, gone)
            entry["parts"] = target.send(parcel, progress)
            entry["withheld"] = len(gone)
            entry["is_complete"] = True
            _write_receipt(folder, receipt)
    files = [folder / part["file"] for e in entries for part in e["parts"] if "file" in part]
    return [*files, folder / RECEIPT]


def _enter(
    folder: Path, receipt: dict[str, Any], entry: dict[str, Any], progress: Progress
) -> None:
    entry["acknowledged"] = {str(n): part for n, part in progress.acknowledged.items()}
    _write_receipt(folder, receipt)


def _go_on(
    platform: Platform, folder: Path, targets: Sequence[Target], approver: str
) -> list[Path]:
    """Deliver a frozen export, less who may not be contacted any more by the last published day."""
    import pandas as pd

    from ml.campaigns.definition import MARKETING
    from ml.campaigns.eligibility import has_consent
    from ml.campaigns.export import ExportRefusedError

    receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
    approved_by = receipt["approver"]
    if approver.strip().casefold() != approved_by.casefold():
        raise ExportRefusedError(
            f"{folder.name} was approved by {approved_by}, not by {approver!r}"
        )
    campaigns = {c.id: c for c in read_campaigns(platform.home)}
    current = campaigns.get(receipt["campaign_id"])
    if current is not None and current.config_sha256 != receipt["config_sha256"]:
        raise ExportRefusedError(
            f"the file of campaign {current.id} has changed since {folder.name} was approved: "
            "restore it; nothing more of the export is sent under another file"
        )
    cohort = pd.read_parquet(folder / FROZEN)
    status_table, last = _last_status(platform)
    status = platform.lake.read_frame(status_table, [last])
    suppressed = suppressed_keys(platform.home, platform.vault, last)
    purpose = receipt.get("purpose", MARKETING)  # receipts of older versions have none
    frames, withheld = {}, {}
    for channel, own in cohort.groupby("channel", sort=False):
        name = str(channel)
        frames[name] = pd.read_parquet(folder / f"{name}.parquet")
        given = status.loc[has_consent(name, status, purpose), "customer_key"]
        allowed = own["customer_key"].isin(given)
        allowed &= ~own["customer_key"].isin(list(suppressed))
        withheld[name] = frozenset((~allowed).to_numpy().nonzero()[0].tolist())
    return _deliver(folder, frames, targets, withheld)


def _frozen_under(root: Path, token: str) -> Path | None:
    """Return the folder of the export that was approved by this token, or None."""
    for path in sorted(root.glob(f"*/{RECEIPT}")):
        if token and json.loads(path.read_text(encoding="utf-8"))["export_id"] == token:
            return path.parent
    return None


def _write_receipt(folder: Path, receipt: dict[str, Any]) -> None:
    text = json.dumps(receipt, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / RECEIPT, text.encode(), mode=0o600)


def _http(platform: Platform, url: str) -> HttpTarget:
    secret = platform.settings.activation_secret
    return HttpTarget(url, secret.get_secret_value().encode() if secret else b"")


def _last_status(platform: Platform) -> tuple[Table, date]:
    table = mart_tables()["customer_status"]
    published = platform.lake.days(table)
    if not published:
        raise HomeError("nothing is published yet; run the daily job first")
    platform.lake.require(table, published[-1])
    return table, published[-1]


def _select(platform: Platform, campaign_id: str, day: date | None) -> _Selection:
    import pandas as pd

    home = platform.home
    # An unknown name is told first.
    named = None if campaign_id.startswith(LIST) else _campaign(home, campaign_id)
    status_table, last = _last_status(platform)
    if day is not None and day != last:
        raise HomeError(
            f"consent is judged on the last published day, {last}, not on {day}; export with "
            f"--day {last} or without --day"
        )
    if named is None:
        campaign, cohort = _listed(platform, campaign_id.removeprefix(LIST), last)
    else:
        campaign, cohort = _assigned(platform, named, last)
    found = platform.vault.identities(list(cohort["customer_key"]))
    fields = ("customer_key", "customer_id", "email", "phone")
    identities = pd.DataFrame(
        [[getattr(identity, name) for name in fields] for identity in found.values()],
        columns=list(fields),
    )
    handed_over = frozenset(platform.catalog.exported(campaign.id))
    arguments = {
        "campaign": campaign,
        "cohort": cohort,
        "identities": identities,
        "status": platform.lake.read_frame(status_table, [last]),
        "export_date": last,
        "handed_over": handed_over,
        "suppressed": suppressed_keys(home, platform.vault, last),
    }
    return _Selection(campaign, arguments, last, handed_over)


def _campaign(home: Home, campaign_id: str) -> Campaign:
    campaigns = {campaign.id: campaign for campaign in read_campaigns(home)}
    if campaign_id not in campaigns:
        raise HomeError(
            f"no campaign {campaign_id!r} in {home.campaigns}; it has {list(campaigns)}"
        )
    return campaigns[campaign_id]


def _assigned(platform: Platform, campaign: Campaign, last: date) -> tuple[Handover, pd.DataFrame]:
    """Return what a campaign hands over, and whom it has assigned.

    Raises:
        CampaignError: the file is not the one under which they were: what would leave the house is
            not what was drawn.
    """
    from ml.campaigns.definition import refuse_changed
    from ml.campaigns.export import Handover

    campaign_id = campaign.id
    ledger = platform.lake.read_frame(
        CAMPAIGN_ASSIGNMENTS, columns=["campaign_id", "assigned_date", "config_sha256"]
    )
    refuse_changed(campaign, ledger, registered(platform.home, campaign_id))
    if last > campaign.window_end_date:
        raise WindowEndedError(
            f"the outcome window of campaign {campaign_id!r} ended on {campaign.window_end_date}: "
            "whoever is contacted now no longer counts; start a new campaign"
        )
    days = [d for d in platform.lake.days(CAMPAIGN_COHORTS) if campaign.assigns_on(d)]
    for cohort_day in days:
        platform.lake.require(CAMPAIGN_COHORTS, cohort_day)
    cohort = platform.lake.read_frame(CAMPAIGN_COHORTS, days)
    cohort = cohort[(cohort["campaign_id"] == campaign_id) & cohort["arm"].notna()]
    if cohort.empty:
        raise HomeError(f"campaign {campaign_id!r} has assigned nobody by {last}")
    return Handover.of(campaign), cohort


def _listed(platform: Platform, play: str, last: date) -> tuple[Handover, pd.DataFrame]:
    """Return one play of the at-risk list of the last day, and whom it is for."""
    from ml.plays import handover_of

    plays = read_plays(platform.home)
    wanted = next((name for name in plays.channels if name == play), None)
    if wanted is None:
        raise HomeError(f"no play {play!r}; there are {', '.join(plays.channels)}")
    shares = {campaign.global_holdout for campaign in read_campaigns(platform.home)}
    handover = handover_of(plays, wanted, last, max(shares, default=0.0))
    platform.lake.require(AT_RISK_LIST, last)
    listed = platform.lake.read_frame(AT_RISK_LIST, [last])
    listed = listed[listed["suggested_play"] == play]
    if listed.empty:
        raise NobodyLeftError(f"the list of {last} has nobody with the play {play!r}")
    return handover, listed[["customer_key"]].assign(campaign_id=handover.id, arm=play)

"""What is told of one campaign to whoever asks on the command line: before it starts, and after.

What belongs here: words upon what is published; nothing is written. What does not: figures and
verdicts (`ml/campaigns/`), the dry run of an export (`export.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestration.defs.campaigns.files import read_campaigns, suppressed_keys
from orchestration.defs.campaigns.launch import launch_of
from orchestration.defs.campaigns.reading import customers_on, ledger_now
from orchestration.defs.daily import Run
from orchestration.resources.home import HomeError
from orchestration.resources.platform import Platform
from orchestration.tables import CAMPAIGN_RESULTS, CHURN_SCORES

if TYPE_CHECKING:
    from datetime import date

    from orchestration.resources.home import Home


def plan(home: Home, campaign_id: str, day: date | None) -> str:
    """Return what a campaign would do if it started on the last published day, or on `day`.

    Counts and power, no names; nothing is written.
    """
    from ml.campaigns.cohorts import build_cohort
    from ml.campaigns.eligibility import unheard_of

    platform = Platform(root=str(home.root))
    campaign = next((c for c in read_campaigns(home) if c.id == campaign_id), None)
    if campaign is None:
        raise HomeError(f"no campaign {campaign_id!r} in {home.campaigns}")
    days = platform.lake.days(CHURN_SCORES)
    if not days:
        raise HomeError("nothing is scored yet; run the daily job first")
    at = day or days[-1]
    run = Run(platform, [at], "", lambda text: None)
    ledger = ledger_now(run)
    others = ledger[ledger["campaign_id"] != campaign_id]
    _, status, tables = customers_on(run, at, campaign.fields)
    drawn, cohort = build_cohort(
        campaign.begun_on(at),
        status,
        tables,
        others,
        at,
        suppressed=suppressed_keys(home, platform.vault, at),
    )
    arms = drawn["arm"].value_counts().reindex(list(campaign.weights), fill_value=0)
    why = cohort["exclusion_reason"].value_counts()
    cost = sum(float(campaign.planned_cost(str(arm))) * int(n) for arm, n in arms.items())
    lines = [
        f"{campaign.name} ({campaign.id}), if it started on {at}: {len(cohort):,} customers aimed "
        f"at, {len(drawn):,} assigned",
        "  " + ", ".join(f"{arm} {n:,}" for arm, n in arms.items()) + f"; planned cost {cost:,.2f}",
    ]
    if len(why):
        lines.append("  left out: " + ", ".join(f"{name} {n:,}" for name, n in why.items()))
    lines += [
        f"  WARNING: {words}"
        for words in unheard_of({campaign.id: campaign.purpose}, status).values()
    ]
    if len(drawn):
        launch = launch_of(run, campaign, len(drawn), at, ledger)
        if len(launch.table):
            lines += ["", launch.markdown(), ""]
        verdict = {"ok": "It starts", "underpowered": "Underpowered", "unknown": "Power unknown"}
        word = "REFUSED" if launch.is_refused else verdict[launch.power]
        lines.append(f"{word}: {launch.reason}")
    return "\n".join(lines)


def results(home: Home, campaign_id: str, day: date | None) -> str:
    """Return what a campaign, or a quarter of the holdout, earned: its last reading up to `day`.

    Raises:
        HomeError: nothing is read of it.
    """
    from ml.campaigns.report import markdown

    lake = Platform(root=str(home.root)).lake
    days = [at for at in lake.days(CAMPAIGN_RESULTS) if day is None or at <= day]
    read = lake.read_frame(CAMPAIGN_RESULTS, days, money_as_float=True)
    own = read[read["campaign_id"] == campaign_id]
    if read.empty:
        raise HomeError(f"no campaign has results {f'up to {day}' if day else 'yet'}")
    if own.empty:
        known = ", ".join(sorted(set(read["campaign_id"])))
        raise HomeError(
            f"{campaign_id!r} has no results up to {day or days[-1]}; these have: {known}"
        )
    newest = own["snapshot_date"].max()
    told = markdown(own[own["snapshot_date"] == newest])
    return f"{campaign_id}, as known at the end of {newest}\n\n{told}"

"""Whom to contact, planned from what the campaigns taught: counts for people, a file for the next.

What belongs here: who may get which offer on the last published day, what it would bring and cost.
What does not: the choice (`ml/targeting.py`), the draw and the export of a campaign.

`uplift_scores` cover the population; eligibility is judged here, on the day of the plan, by the
rules of the campaign that made the offer (docs/decisions/0019).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestration.defs.campaigns.files import (
    audience_tables,
    started_campaigns,
    suppressed_keys,
    write_csv,
)
from orchestration.resources.home import HomeError
from orchestration.resources.platform import Platform
from orchestration.tables import CAMPAIGN_ASSIGNMENTS, UPLIFT_SCORES

if TYPE_CHECKING:
    from pathlib import Path

    from ml.targeting import Constraints
    from orchestration.resources.home import Home


def plan(home: Home, constraints: Constraints) -> tuple[str, Path | None]:
    """Return the plan of the last published day in words, and its file; None where none is due.

    Only offers with a promoted learner are in it: where nothing beats contacting nobody or
    everybody there is nothing to plan.

    Raises:
        HomeError: nothing is published, or a campaign that is scored is not there any more.
        NotPublishedError, MixedGenerationError: status and scores of the day are not to be used.
        TargetingError: the limits leave no room for the random slice.
    """
    from ml.campaigns.eligibility import may_be_contacted
    from ml.targeting import plan_contacts, scored_pairs

    platform = Platform(root=str(home.root))
    lake, status_table = platform.lake, audience_tables()[0]
    days = lake.days(UPLIFT_SCORES)
    if not days:
        raise HomeError("nothing is published yet; run the daily job first")
    day = days[-1]
    lake.require_together([UPLIFT_SCORES, status_table], day)
    scores = lake.read_frame(UPLIFT_SCORES, [day], money_as_float=True)
    if scores.empty:
        return f"{day}: no learner is promoted; the metadata of lake/uplift_scores says why", None
    status = lake.read_frame(status_table, [day])
    ledger = lake.read_frame(CAMPAIGN_ASSIGNMENTS)
    suppressed = suppressed_keys(home, platform.vault, day)
    campaigns = {c.id: c for c in started_campaigns(home, ledger)}
    offering = sorted(set(scores["campaign_id"]))
    if lost := [name for name in offering if name not in campaigns]:
        raise HomeError(
            f"{', '.join(lost)}: scored on {day}, and neither in {home.campaigns} nor registered "
            "there; put the file back as it was"
        )
    wanted = [campaigns[name] for name in offering]
    allowed = partial(
        may_be_contacted, status=status, day=day, ledger=ledger, suppressed=suppressed
    )
    pairs = scored_pairs(
        scores,
        {campaign.id: allowed(campaign) for campaign in wanted},
        {(c.id, arm): float(c.planned_cost(arm)) for c in wanted for arm in c.weights},
    )
    made = plan_contacts(pairs, constraints, f"contacts:{day}")
    chosen = made.contacts["offer"].value_counts().sort_index()
    lines = [
        f"{day}: {len(made.contacts):,} customers may be contacted",
        "  " + ", ".join(f"{offer} {count:,}" for offer, count in chosen.items()),
        f"  expected incremental profit {made.profit:,.2f}, at most {made.upper_bound:,.2f} under "
        f"these limits; of the random slice {made.random_profit:,.2f}",
        "",
        made.table(),
    ]
    folder = home.exports / "contacts"
    return "\n".join(lines), write_csv(folder, f"{day}.csv", made.contacts)

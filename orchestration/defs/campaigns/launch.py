"""Power before launch: the history that a campaign is judged by.

What belongs here: finding an earlier window in the lake. What does not: the verdict
(`ml/campaigns/launch.py`), the draw (`assets.py`), the plan for whoever asks (`answers.py`).
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from orchestration.defs.campaigns.files import audience_tables, suppressed_keys
from orchestration.defs.campaigns.reading import (
    FACTS,
    customers_on,
    forecasts_on,
    knew_the_future,
    outcomes_of,
    require_customers,
)
from orchestration.defs.daily import Run
from orchestration.resources.lake import MixedGenerationError, NotPublishedError
from orchestration.tables import mart_tables

if TYPE_CHECKING:
    import pandas as pd

    from ml.campaigns.definition import Campaign
    from ml.campaigns.launch import Launch, Past

# An earlier window may end at most so long before the launch: customers of other seasons differ.
LOOKBACK_DAYS = 60


def launch_of(
    run: Run, campaign: Campaign, customers: int, day: date, ledger: pd.DataFrame
) -> Launch:
    """Return the verdict on a campaign that would assign so many customers at the end of `day`."""
    from ml.campaigns.launch import judge

    return judge(campaign, customers, _past(run, campaign, day, ledger), day)


def _past(run: Run, campaign: Campaign, day: date, ledger: pd.DataFrame) -> Past | str:
    """Return the latest earlier window that is published whole, or why there is none.

    Of a campaign of several waves two days are drawn, for the newcomers that the second one brings.
    """
    import pandas as pd

    from ml.campaigns.cohorts import build_cohort
    from ml.campaigns.launch import Past, history_days
    from ml.campaigns.plan import PREDICTIONS

    length, platform = history_days(campaign), run.platform
    wanted = day - timedelta(days=length)
    has_waves = campaign.last_assignment_date > campaign.start_date
    begin, refused = _earlier_day(run, campaign, wanted, length)
    if begin is None:
        return (
            f"there is no history: a day of the daily job on or before {wanted}"
            f"{', the day after it' if has_waves else ''}, and orders and "
            f"deliveries of the {length} days after it; `python -m orchestration run --from "
            f"{wanted} --to {day}` publishes them{refused}"
        )
    end = begin + timedelta(days=1) if has_waves else None
    then = campaign.begun_on(begin).model_copy(update={"end_date": end})
    others = ledger[ledger["campaign_id"] != campaign.id]

    def draw(at: date, before: list[pd.DataFrame]) -> pd.DataFrame:
        _, status, tables = customers_on(run, at, campaign.fields)
        known = pd.concat([others[others["assigned_date"] <= at], *before], ignore_index=True)
        suppressed = suppressed_keys(platform.home, platform.vault, at)
        return build_cohort(then, status, tables, known, at, suppressed=suppressed)[0]

    drawn = draw(begin, [])
    if len(drawn) < 2:
        return f"there is no history: on {begin} the campaign would have assigned {len(drawn)}"
    return Past(
        drawn,
        outcomes_of(run, campaign, drawn, begin + timedelta(days=length)),
        forecasts_on(run, [begin], PREDICTIONS),
        0 if end is None else len(draw(end, [drawn])),
        is_hindsight=_asks_for_scores(campaign) and knew_the_future(run, begin),
    )


def _asks_for_scores(campaign: Campaign) -> bool:
    """Return whether audience or limit ask for what only churn_scores have."""
    status, scores, *_ = audience_tables()
    return bool(campaign.fields & set(scores.column_names) - set(status.column_names))


def _earlier_day(
    run: Run, campaign: Campaign, latest: date, length: int
) -> tuple[date | None, str]:
    """Return the last day up to `latest` of the daily job after which `length` days are whole.

    Of a campaign of several waves it is one of two days of the daily job in a row.
    A day that may not be used, for an audit that failed or a load that replaced what it was made
    of, is passed over; the second is what the first of them said, in case there is no other.
    """
    lake, refused = run.platform.lake, ""
    known = [set(lake.days(table)) for table in audience_tables()[:3]]
    tables = [mart_tables()[name] for name in FACTS]
    facts = set.intersection(*(set(lake.days(table)) for table in tables))
    for back in range(LOOKBACK_DAYS):
        begin = latest - timedelta(days=back)
        after = [begin + timedelta(days=n) for n in range(1, length + 1)]
        drawn = [begin, *(after[:1] if campaign.last_assignment_date > campaign.start_date else [])]
        if not (all(days.issuperset(drawn) for days in known) and facts.issuperset(after)):
            continue
        try:
            for day in drawn:
                require_customers(run, day, campaign.fields)
            for table in tables:
                for day in after:
                    lake.require(table, day)
        except (NotPublishedError, MixedGenerationError) as error:
            refused = refused or f". {error}"
            continue
        return begin, ""
    return None, refused

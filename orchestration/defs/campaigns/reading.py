"""What several assets of campaigns read: ledger, customers of a day, forecasts, outcomes, facts.

What belongs here: reads of published tables, each day once a run. What does not: what is made of
them (`assets.py`, `launch.py`, `answers.py`, `defs/uplift/`).
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

from orchestration.defs.campaigns.files import audience_tables, started_campaigns
from orchestration.tables import (
    CAMPAIGN_ASSIGNMENTS,
    CHURN_SCORES,
    CUSTOMER_VALUE,
    mart_tables,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pandas as pd

    from expectations.schema import Table
    from ml.campaigns.definition import Campaign
    from orchestration.defs.daily import Run
    from orchestration.resources.catalog import Publication

FACTS = ("orders", "deliveries")


def ledger_now(run: Run) -> pd.DataFrame:
    """Return all rows of the ledger, as they are now: for the draw, which adds to it."""
    return run.platform.lake.read_frame(CAMPAIGN_ASSIGNMENTS)


def whole_ledger(run: Run) -> pd.DataFrame:
    """Return all rows of the ledger, read once a run: by assets that do not add to it."""
    ledger: pd.DataFrame = run.once("ledger", partial(ledger_now, run))
    return ledger


def ledger_of(run: Run, day: date) -> pd.DataFrame:
    """Return the ledger's rows up to `day`."""
    ledger = whole_ledger(run)
    return ledger[ledger["assigned_date"] <= day]


def started(run: Run, day: date) -> list[Campaign]:
    """Return the campaigns in the ledger by the end of `day`, as they were registered.

    What is measured and learnt follows these, not the files: a file may have changed since the
    draw, or a newer version may have taken its place.
    """

    def find() -> tuple[Campaign, ...]:
        return started_campaigns(run.platform.home, whole_ledger(run))

    campaigns: tuple[Campaign, ...] = run.once("started", find)
    drawn = set(ledger_of(run, day)["campaign_id"])
    return [campaign for campaign in campaigns if campaign.id in drawn]


def customers_on(
    run: Run, day: date, fields: Collection[str]
) -> tuple[dict[str, Publication], pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return publications, status and the other tables of `day`, as far as `fields` are in them."""
    lake = run.platform.lake
    status_table, *tables = audience_tables()
    found = require_customers(run, day, fields)
    status = lake.read_frame(status_table, [day])
    others = {
        table.name: lake.read_frame(table, [day], ["customer_key", *wanted])
        for table, wanted in zip(tables, _wanted(fields), strict=True)
        if wanted
    }
    return found, status, others


def require_customers(run: Run, day: date, fields: Collection[str]) -> dict[str, Publication]:
    """Return the publications of `day` that `customers_on` reads for `fields`.

    Raises:
        NotPublishedError, MixedGenerationError: see `Lake.require_together`.
    """
    lake, (*always, features) = run.platform.lake, audience_tables()
    found = lake.require_together(always, day)
    if _wanted(fields)[-1]:  # of the features none is read unless an audience asks for it
        found |= lake.require_together([features], day)
    return found


def _wanted(fields: Collection[str]) -> list[list[str]]:
    """Return what is read of each audience table but the first; the first that has a field wins."""
    from ml.campaigns.strata import SOURCES

    status, *tables = audience_tables()
    known, wanted = set(status.column_names), []
    for table in tables:
        wanted.append([n for n in table.column_names if n in {*fields, *SOURCES} - known])
        known.update(wanted[-1])
    return wanted


def forecasts_on(run: Run, days: Sequence[date], columns: Collection[str]) -> pd.DataFrame:
    """Return what was foretold on `days`: snapshot_date, customer_key and `columns`.

    Each column is that of churn_scores or customer_value, whichever has it. What a model said whose
    labels matured after the day (`is_rescore`) knew what the customers would do, and what a
    campaign then did to them: it is no forecast, and is not in the answer.
    """
    import pandas as pd

    key, lake = ["snapshot_date", "customer_key"], run.platform.lake
    found = pd.DataFrame(columns=key)
    for table in (CHURN_SCORES, CUSTOMER_VALUE):
        names = [*key, *sorted(set(columns) & set(table.column_names))]
        made = lake.read_frame(table, days, [*names, "is_rescore"], money_as_float=True)
        made = made.loc[~made["is_rescore"].astype(bool), names]
        if len(made) and len(found):
            found = found.merge(made, on=key, how="outer")
        elif len(made):
            found = made
    return found.reindex(columns=[*key, *sorted(columns)]).reset_index(drop=True)


def knew_the_future(run: Run, day: date) -> bool:
    """Return whether a score of `day` was made by a model that had seen later labels."""
    scores = run.platform.lake.read_frame(CHURN_SCORES, [day], ["is_rescore"])
    return bool(scores["is_rescore"].astype(bool).any())


def outcomes_of(run: Run, campaign: Campaign, due: pd.DataFrame, day: date) -> pd.DataFrame:
    """Return what became of customers of one campaign, as known at the end of `day`.

    due: rows of its ledger. Columns: see `ml.campaigns.outcomes.unit_outcomes`.

    Raises:
        NotPublishedError: a day of the window is not published; its orders would be missing.
    """
    from ml.campaigns.deliveries import as_messages
    from ml.campaigns.outcomes import returns_of, unit_outcomes

    first = min(due["assigned_date"]) + timedelta(days=1)
    days = [first + timedelta(days=n) for n in range((day - first).days + 1)]
    orders, deliveries = (days_of(run, mart_tables()[name], days) for name in FACTS)
    latest = orders.sort_values(["order_id", "snapshot_date"], kind="stable")
    return unit_outcomes(
        due,
        latest.drop_duplicates("order_id", keep="last"),
        day,
        window_days=campaign.outcome.window_days,
        settle_days=campaign.outcome.return_lag_days,
        contact_costs={arm: float(campaign.contact_cost(arm)) for arm in campaign.weights},
        returns=returns_of(orders),
        deliveries=as_messages(deliveries),
        margin_rate=run.platform.settings.margin_rate,
    )


def days_of(run: Run, table: Table, days: Sequence[date]) -> pd.DataFrame:
    """Return the rows of some days, money as float; each day is read once a run.

    Raises:
        NotPublishedError: one of them is not published.
    """
    import pandas as pd

    lake = run.platform.lake

    def read(day: date) -> pd.DataFrame:
        lake.require(table, day)
        return lake.read_frame(table, [day], money_as_float=True)

    frames = [run.once(f"{table.name}/{day}", partial(read, day)) for day in days]
    return pd.concat(frames, ignore_index=True) if frames else lake.read_frame(table, [])

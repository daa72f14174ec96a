"""`lake/campaign_*`: assignments (the ledger), cohorts, deliveries, outcomes, results."""

from __future__ import annotations

from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from orchestration.defs.campaigns.files import (
    audience_tables,
    read_campaigns,
    register,
    registered,
    started_campaigns,
    suppressed_keys,
)
from orchestration.defs.daily import MARKETING, SCIENCE, Made, Run, daily_asset, lake_key
from orchestration.tables import (
    CAMPAIGN_ASSIGNMENTS,
    CAMPAIGN_COHORTS,
    CAMPAIGN_DELIVERIES,
    CAMPAIGN_OUTCOMES,
    CAMPAIGN_RESULTS,
    CHURN_SCORES,
    CUSTOMER_SEGMENTS,
    LABEL_TREATMENTS,
    mart_tables,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from expectations.schema import Table
    from ml.campaigns.definition import Campaign
    from orchestration.resources.catalog import Publication

FACTS = ("orders", "deliveries")


def campaign_assets(partitions: dg.DailyPartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the campaigns' assets, in the order assign, list, send, measure, read."""
    inputs = [lake_key(table.name) for table in audience_tables()]

    @daily_asset(
        CAMPAIGN_ASSIGNMENTS,
        partitions,
        deps=inputs,
        group="campaigns",
        owner=MARKETING,
        description=(
            "The ledger: who was drawn into which arm, when and with which probability. Rows are "
            "only ever added; a closed day that runs again assigns nobody."
        ),
        kinds={"deltalake"},
        days_at_once=1,  # nobody is drawn twice
    )
    def campaign_assignments(run: Run, day: date) -> Made:
        import pandas as pd

        # Read afresh on each day that enrols: the days of one run add to it.
        found, new, _ = _enrol(run, day, partial(_ledger, run))
        before = run.platform.lake.read_frame(CAMPAIGN_ASSIGNMENTS, [day])
        rows = pd.concat([before, new], ignore_index=True)

        def hand_over() -> dict[str, int]:
            register(run.platform.home, _campaigns(run), rows)
            return {}

        return Made(
            rows,
            hand_over=hand_over if len(rows) else None,
            generation=found["customer_status"].generation,
            metadata={
                "assigned": len(rows),
                **{
                    str(name): int(count)
                    for name, count in (rows["campaign_id"] + " " + rows["arm"])
                    .value_counts()
                    .sort_index()
                    .items()
                },
            },
        )

    @daily_asset(
        CAMPAIGN_COHORTS,
        partitions,
        deps=[*inputs, lake_key("campaign_assignments")],
        group="campaigns",
        owner=MARKETING,
        description="Whom each campaign aimed at: the arm, or the first reason for exclusion.",
        kinds={"deltalake"},
    )
    def campaign_cohorts(run: Run, day: date) -> Made:
        ledger = run.platform.lake.require(CAMPAIGN_ASSIGNMENTS, day)
        found, _, cohort = _enrol(run, day, partial(_whole_ledger, run))
        reasons = cohort["exclusion_reason"].value_counts().sort_index()
        return Made(
            cohort,
            generation=found["customer_status"].generation,
            inputs={
                f"{name}/{day}": p.content_hash
                for name, p in {**found, CAMPAIGN_ASSIGNMENTS.name: ledger}.items()
            },
            metadata={
                "targeted": len(cohort),
                "assigned": int(cohort["arm"].notna().sum()),
                **{f"excluded_{reason}": int(count) for reason, count in reasons.items()},
            },
        )

    @daily_asset(
        CAMPAIGN_DELIVERIES,
        partitions,
        deps=[lake_key("campaign_assignments"), lake_key("deliveries")],
        group="campaigns",
        owner=MARKETING,
        description="What became known of campaigns' messages: sent, bounced, opened, clicked.",
        kinds={"deltalake"},
    )
    def campaign_deliveries(run: Run, day: date) -> Made:
        from ml.campaigns.deliveries import assigned_deliveries

        lake, table = run.platform.lake, mart_tables()["deliveries"]
        found = lake.require(table, day)
        ledger = _ledger_of(run, day)
        messages = assigned_deliveries(lake.read_frame(table, [day]), ledger)
        return Made(
            messages.assign(snapshot_date=day),
            generation=found.generation,
            inputs={f"{table.name}/{day}": found.content_hash},
            metadata={
                "messages": len(messages),
                "bounced": int(messages["is_bounced"].sum()),
                "to_controls": int(messages["is_control"].eq(True).sum()),
                "to_nobody_assigned": int(messages["arm"].isna().sum()),
            },
        )

    @daily_asset(
        CAMPAIGN_OUTCOMES,
        partitions,
        deps=[lake_key("campaign_assignments"), lake_key("orders"), lake_key("deliveries")],
        group="campaigns",
        owner=SCIENCE,
        description=(
            "What became of each assigned customer, on the day on which the window closed, and "
            "again when most of what comes back has."
        ),
        kinds={"deltalake"},
        code_version="2",
    )
    def campaign_outcomes(run: Run, day: date) -> Made:
        import pandas as pd

        from ml.campaigns.outcomes import due_on

        tables = mart_tables()
        generation = run.platform.lake.require(tables["orders"], day).generation
        rows, hashes = [], {}
        for campaign, own in _experiments(run, day):
            due = due_on(own, day, campaign.outcome.return_lag_days)
            if len(due):
                rows.append(outcomes_of(run, campaign, due, day).assign(snapshot_date=day))
                hashes[f"{CAMPAIGN_ASSIGNMENTS.name}:{campaign.id}"] = campaign.config_sha256
        frame = (
            pd.concat(rows, ignore_index=True)
            if rows
            else pd.DataFrame(columns=list(CAMPAIGN_OUTCOMES.column_names))
        )
        counts = frame["campaign_id"].value_counts().sort_index()
        return Made(
            frame,
            generation=generation,
            inputs=hashes,
            metadata={f"closed_or_settled {name}": int(count) for name, count in counts.items()},
        )

    @daily_asset(
        CAMPAIGN_RESULTS,
        partitions,
        deps=[
            lake_key("campaign_assignments"),
            lake_key("campaign_outcomes"),
            lake_key("churn_scores"),
        ],
        group="campaigns",
        owner=SCIENCE,
        description="What each campaign earned, by intention to treat, and whether to believe it.",
        kinds={"deltalake"},
    )
    def campaign_results(run: Run, day: date) -> Made:
        import pandas as pd

        standing = run.platform.lake.require(CAMPAIGN_OUTCOMES, day)
        rows = [
            _readings(run, campaign, own, day).assign(snapshot_date=day)
            for campaign, own in _experiments(run, day)
            if min(own["assigned_date"]) < day <= campaign.settled_date
        ]
        frame = (
            pd.concat(rows, ignore_index=True)
            if rows
            else pd.DataFrame(columns=list(CAMPAIGN_RESULTS.column_names))
        )
        return Made(
            frame,
            generation=standing.generation,
            inputs={f"{CAMPAIGN_OUTCOMES.name}/{day}": standing.content_hash},
            metadata={
                f"{row['campaign_id']} {row['arm']} {row['metric']}": (
                    f"{row['effect']:+.4f} [{row['effect_low']:+.4f}, {row['effect_high']:+.4f}] "
                    f"{row['status']}"
                )
                for row in frame.to_dict("records")
                if not pd.isna(row["effect"])
            },
        )

    @daily_asset(
        LABEL_TREATMENTS,
        partitions,
        deps=[lake_key("churn_labels"), lake_key("campaign_assignments")],
        group="campaigns",
        owner=SCIENCE,
        description=(
            "Which labels a campaign reached: arm and propensity. Beside the labels, not in them: "
            "labels train the model whose scores draw the arms, and the graph has no cycle."
        ),
        kinds={"deltalake"},
    )
    def label_treatments(run: Run, day: date) -> Made:
        from ml.campaigns.treatment import label_treatments as make

        lake, labels = run.platform.lake, mart_tables()["churn_labels"]
        found = lake.require(labels, day)
        keys = ["customer_key", "snapshot_date", "matured_date"]
        treated = make(lake.read_frame(labels, [day], keys), _ledger_of(run, day))
        return Made(
            treated,
            generation=found.generation,
            inputs={f"churn_labels/{day}": found.content_hash},
            metadata={"treated_labels": len(treated)},
        )

    return [
        campaign_assignments,
        campaign_cohorts,
        campaign_deliveries,
        campaign_outcomes,
        campaign_results,
        label_treatments,
    ]


def _ledger(run: Run) -> pd.DataFrame:
    """Return all rows of the ledger, as they are now."""
    return run.platform.lake.read_frame(CAMPAIGN_ASSIGNMENTS)


def _whole_ledger(run: Run) -> pd.DataFrame:
    """Return all rows of the ledger, read once a run: by assets that do not add to it."""
    return run.once("ledger", partial(_ledger, run))


def _enrol(
    run: Run, day: date, read_ledger: Callable[[], pd.DataFrame]
) -> tuple[dict[str, Publication], pd.DataFrame, pd.DataFrame]:
    """Return the inputs of `day`, the new ledger rows and the cohorts of all campaigns."""
    import pandas as pd

    from ml.campaigns.assignment import empty_ledger
    from ml.campaigns.cohorts import build_cohort, empty_cohort
    from ml.campaigns.definition import refuse_changed
    from ml.campaigns.strata import SOURCES

    lake, tables = run.platform.lake, audience_tables()
    found = lake.require_together(list(tables[:3]), day)
    active = [campaign for campaign in _campaigns(run) if campaign.assigns_on(day)]
    if not active:
        return found, empty_ledger(), empty_cohort()
    ledger = read_ledger()
    closed = lake.publication(CAMPAIGN_ASSIGNMENTS, day) is not None
    asked = frozenset().union(*(campaign.fields for campaign in active))
    status = lake.read_frame(tables[0], [day])
    others, known = {}, set(status.columns)
    for table in tables[1:]:
        wanted = [n for n in table.column_names if n in {*asked, *SOURCES} and n not in known]
        if wanted:  # of the features none is read unless an audience asks for it
            found |= lake.require_together([table], day)
            others[table.name] = lake.read_frame(table, [day], ["customer_key", *wanted])
            known.update(wanted)
    suppressed = suppressed_keys(run.platform.home, run.platform.vault, day)
    new, cohorts = [empty_ledger()], [empty_cohort()]
    for campaign in active:
        refuse_changed(campaign, ledger, registered(run.platform.home, campaign.id))
        assigned, cohort = build_cohort(
            campaign, status, others, ledger, day, suppressed=suppressed, closed=closed
        )
        new.append(assigned)
        cohorts.append(cohort)
        ledger = pd.concat([ledger, assigned], ignore_index=True)
    return found, pd.concat(new, ignore_index=True), pd.concat(cohorts, ignore_index=True)


def _campaigns(run: Run) -> tuple[Campaign, ...]:
    """Return the campaign files, read once a run."""
    return run.once("campaigns", lambda: read_campaigns(run.platform.home))


def _ledger_of(run: Run, day: date) -> pd.DataFrame:
    """Return the ledger's rows up to `day`."""
    ledger = _whole_ledger(run)
    return ledger[ledger["assigned_date"] <= day]


def _started(run: Run) -> tuple[Campaign, ...]:
    """Return the campaigns in the ledger, as they were registered."""

    def find() -> tuple[Campaign, ...]:
        return started_campaigns(run.platform.home, _whole_ledger(run))

    return run.once("started", find)


def _experiments(run: Run, day: date) -> list[tuple[Campaign, pd.DataFrame]]:
    """Return what is measured on `day`: each campaign with its rows of the ledger.

    On the days on which a quarter closes and settles the global holdout is among them, where the
    eve of the quarter was published and the orders of every day since.
    """
    ledger = _ledger_of(run, day)
    found = [(campaign, ledger[ledger["campaign_id"] == campaign.id]) for campaign in _started(run)]
    return [(campaign, own) for campaign, own in found if len(own)] + _holdouts(run, day)


def _holdouts(run: Run, day: date) -> list[tuple[Campaign, pd.DataFrame]]:
    from ml.campaigns.holdout import holdout_campaign, holdout_ledger, quarter_of
    from ml.campaigns.strata import SOURCES
    from ml.frames import join_customers

    shares = {campaign.global_holdout for campaign in _campaigns(run)} - {0.0}
    found: list[tuple[Campaign, pd.DataFrame]] = []
    for share in shares:  # one, the same in all files
        first, _ = quarter_of(day)
        for within in (day, first - timedelta(days=1)):
            quarter = holdout_campaign(within, share)
            if day not in (quarter.window_end_date, quarter.settled_date):
                continue
            lake, tables = run.platform.lake, audience_tables()
            eve = quarter.start_date
            days = {eve + timedelta(days=n) for n in range(1, (day - eve).days + 1)}
            facts = [set(lake.days(mart_tables()[name])) for name in FACTS]
            standing = [lake.publication(table, eve) for table in (tables[0], CUSTOMER_SEGMENTS)]
            if not all(standing) or not all(days <= published for published in facts):
                run.log(f"{quarter.id}: not every day since {eve} is published; it is not read")
                continue
            status = lake.read_frame(tables[0], [eve], ["customer_key", SOURCES[0]])
            score = lake.read_frame(CUSTOMER_SEGMENTS, [eve], ["customer_key", SOURCES[1]])
            found.append((quarter, holdout_ledger(quarter, join_customers(status, score))))
    return found


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
    orders, deliveries = (_days_of(run, mart_tables()[name], days) for name in FACTS)
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


def _readings(run: Run, campaign: Campaign, ledger: pd.DataFrame, day: date) -> pd.DataFrame:
    """Return what one campaign earned as known at the end of `day`.

    Raises:
        NotPublishedError: a day on which windows closed or settled is not published.
    """
    from ml.campaigns.plan import COVARIATES, plan_of, read_from
    from ml.campaigns.results import past_effects, read_out

    lake, lag = run.platform.lake, timedelta(days=campaign.outcome.return_lag_days)
    ends = {end for end in set(ledger["window_end_date"]) if end <= day}
    # What is settled stands there whole; before that, what was known when the window closed.
    due = sorted({end + lag if end + lag <= day else end for end in ends})
    outcomes = _days_of(run, CAMPAIGN_OUTCOMES, due)
    outcomes = outcomes[outcomes["campaign_id"] == campaign.id]
    outcomes = outcomes.sort_values(["customer_key", "snapshot_date"], kind="stable")
    outcomes = outcomes.drop_duplicates("customer_key", keep="last").reset_index(drop=True)

    names = ["snapshot_date", "customer_key", *sorted(set(COVARIATES.values()))]
    days = sorted(set(ledger["assigned_date"])) if len(outcomes) else []
    scores = lake.read_frame(CHURN_SCORES, days, names, money_as_float=True)
    ledger, outcomes, usable = read_from(ledger, outcomes, scores)
    before = [d for d in lake.days(CAMPAIGN_RESULTS) if d < campaign.start_date]
    past = lake.read_frame(CAMPAIGN_RESULTS, before) if len(outcomes) and before else None
    return read_out(
        plan_of(campaign, usable),
        ledger,
        outcomes,
        day,
        past=None if past is None else past_effects([_last_readings(past)]),
    )


def _last_readings(results: pd.DataFrame) -> pd.DataFrame:
    """Return the newest reading of each campaign, arm, metric and look."""
    key = ["campaign_id", "arm", "metric", "look"]
    return results.sort_values([*key, "snapshot_date"], kind="stable").drop_duplicates(
        key, keep="last"
    )


def _days_of(run: Run, table: Table, days: Sequence[date]) -> pd.DataFrame:
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

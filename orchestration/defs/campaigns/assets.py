"""`lake/campaign_assignments` (the ledger), `lake/campaign_cohorts`, `lake/campaign_outcomes`."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from orchestration.defs.campaigns.files import (
    audience_tables,
    read_campaigns,
    register,
    registered,
    suppressed_keys,
)
from orchestration.defs.daily import MARKETING, SCIENCE, Made, Run, daily_asset, lake_key
from orchestration.tables import (
    CAMPAIGN_ASSIGNMENTS,
    CAMPAIGN_COHORTS,
    CAMPAIGN_OUTCOMES,
    LABEL_TREATMENTS,
    mart_tables,
)

if TYPE_CHECKING:
    import pandas as pd

    from ml.campaigns.definition import Campaign
    from orchestration.resources.catalog import Publication


def campaign_assets(partitions: dg.DailyPartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the campaigns' assets, in the order assign, list, measure."""
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

        found, new, _ = _enrol(run, day)
        ledger = _ledger(run)
        rows = pd.concat([ledger[ledger["assigned_date"] == day], new], ignore_index=True)

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
        found, _, cohort = _enrol(run, day)
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
        CAMPAIGN_OUTCOMES,
        partitions,
        deps=[lake_key("campaign_assignments"), lake_key("orders")],
        group="campaigns",
        owner=SCIENCE,
        description="What each finished campaign earned, by intention to treat, with intervals.",
        kinds={"deltalake"},
    )
    def campaign_outcomes(run: Run, day: date) -> Made:
        import pandas as pd

        from ml.campaigns.outcomes import measure

        ledger = _ledger(run)
        ledger = ledger[ledger["assigned_date"] <= day]
        rows, hashes = [], {}
        for campaign in _campaigns(run):
            own = ledger[ledger["campaign_id"] == campaign.id]
            if own.empty or min(own["assigned_date"]) >= day:
                continue
            until = min(day, campaign.window_end_date)
            is_over = day >= campaign.window_end_date
            orders = _orders(run, min(own["assigned_date"]), until) if is_over else _no_orders()
            measured = measure(campaign, own, orders, as_of=until)
            rows.append(measured.assign(snapshot_date=day))
            hashes[f"{CAMPAIGN_ASSIGNMENTS.name}:{campaign.id}"] = campaign.config_sha256
        frame = (
            pd.concat(rows, ignore_index=True)
            if rows
            else pd.DataFrame(columns=list(CAMPAIGN_OUTCOMES.column_names))
        )
        orders_table = mart_tables()["orders"]
        return Made(
            frame,
            generation=run.platform.lake.require(orders_table, day).generation,
            inputs=hashes,
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
        treated = make(lake.read_frame(labels, [day], keys), _ledger(run))
        return Made(
            treated,
            generation=found.generation,
            inputs={f"churn_labels/{day}": found.content_hash},
            metadata={"treated_labels": len(treated)},
        )

    return [campaign_assignments, campaign_cohorts, campaign_outcomes, label_treatments]


def _ledger(run: Run) -> pd.DataFrame:
    """Return all rows of the ledger; read afresh, since the days of one run add to it."""
    return run.platform.lake.read_frame(CAMPAIGN_ASSIGNMENTS)


def _enrol(run: Run, day: date) -> tuple[dict[str, Publication], pd.DataFrame, pd.DataFrame]:
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
    ledger = _ledger(run)
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


def _orders(run: Run, first: date, last: date) -> pd.DataFrame:
    """Return the state of every order placed after `first`, as known at the end of `last`.

    Raises:
        NotPublishedError: a day between is not published; its orders would be missing.
    """
    table = mart_tables()["orders"]
    lake = run.platform.lake
    days = [first + timedelta(days=n) for n in range(1, (last - first).days + 1)]
    for day in days:
        lake.require(table, day)
    orders = lake.read_frame(table, days)
    orders = orders.sort_values(["order_id", "snapshot_date"], kind="stable")
    orders = orders.drop_duplicates("order_id", keep="last")
    unknown = orders["margin_amount"].isna() | ~orders["is_margin_known"].astype(bool)
    rate = run.platform.settings.margin_rate
    orders.loc[unknown, "margin_amount"] = (
        orders.loc[unknown, "revenue_amount"].astype("float64") * rate
    )
    return orders.reset_index(drop=True)


def _no_orders() -> pd.DataFrame:
    import pandas as pd

    names = ["customer_key", "ordered_date", "revenue_amount", "margin_amount"]
    return pd.DataFrame(columns=[*names, "is_wholly_cancelled"])

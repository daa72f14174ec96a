"""`lake/campaign_*`: assignments (the ledger), cohorts, deliveries, outcomes, results."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from orchestration.defs.campaigns.files import (
    audience_tables,
    read_campaigns,
    register,
    registered,
    suppressed_keys,
)
from orchestration.defs.campaigns.launch import launch_of
from orchestration.defs.campaigns.policy import policy_of_draw
from orchestration.defs.campaigns.reading import (
    FACTS,
    customers_on,
    days_of,
    forecasts_on,
    ledger_now,
    ledger_of,
    outcomes_of,
    started,
    whole_ledger,
)
from orchestration.defs.daily import MARKETING, SCIENCE, Made, Run, daily_asset, lake_key
from orchestration.tables import (
    CAMPAIGN_ASSIGNMENTS,
    CAMPAIGN_COHORTS,
    CAMPAIGN_DELIVERIES,
    CAMPAIGN_OUTCOMES,
    CAMPAIGN_RESULTS,
    CUSTOMER_SEGMENTS,
    LABEL_TREATMENTS,
    mart_tables,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from ml.campaigns.definition import Campaign
    from ml.campaigns.launch import Launch
    from orchestration.resources.catalog import Publication


def campaign_assets(partitions: dg.DailyPartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the campaigns' assets, in the order assign, list, send, measure, read."""
    facts = [lake_key(name) for name in FACTS]  # of an earlier window, for the power of a launch
    forecasts = lake_key("customer_value")  # of that window, and of the day of assignment
    inputs = [*(lake_key(table.name) for table in audience_tables()), *facts, forecasts]

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
        drawn = _enrol(run, day, partial(ledger_now, run))
        for name, words in drawn.unheard.items():
            run.warn(f"campaign {name}: purpose: {words}")
        before = run.platform.lake.read_frame(CAMPAIGN_ASSIGNMENTS, [day])
        rows = pd.concat([before, drawn.rows], ignore_index=True)

        def hand_over() -> dict[str, int]:
            register(run.platform.home, _campaigns(run), rows)
            return {}

        return Made(
            rows,
            hand_over=hand_over if len(rows) else None,
            generation=drawn.found["customer_status"].generation,
            metadata={
                "assigned": len(rows),
                **drawn.launched(),
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
        drawn = _enrol(run, day, partial(whole_ledger, run))
        found, cohort = drawn.found, drawn.cohort
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
        code_version="2",
    )
    def campaign_deliveries(run: Run, day: date) -> Made:
        return deliveries_of(run, day)

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
        code_version="3",
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
            lake_key("campaign_cohorts"),
            lake_key("campaign_outcomes"),
            lake_key("churn_scores"),
            forecasts,
        ],
        group="campaigns",
        owner=SCIENCE,
        description="What each campaign earned, by intention to treat, and whether to believe it.",
        kinds={"deltalake"},
        code_version="4",
    )
    def campaign_results(run: Run, day: date) -> Made:
        import pandas as pd

        from ml.campaigns.report import markdown

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
                str(name): dg.MetadataValue.md(markdown(own))
                for name, own in frame.groupby("campaign_id")
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
        treated = make(lake.read_frame(labels, [day], keys), ledger_of(run, day))
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


def deliveries_of(run: Run, day: date) -> Made:
    """Return what became known on `day` of campaigns' messages; of a day of facts only, too."""
    from ml.campaigns.deliveries import assigned_deliveries

    lake, table = run.platform.lake, mart_tables()["deliveries"]
    found = lake.require(table, day)
    ledger = ledger_of(run, day)
    messages = assigned_deliveries(lake.read_frame(table, [day]), ledger)
    return Made(
        messages.assign(snapshot_date=day),
        generation=found.generation,
        inputs={f"{table.name}/{day}": found.content_hash},
        metadata={
            "messages": len(messages),
            "bounced": int(messages["is_bounced"].sum()),
            "to_controls": int(messages["is_control"].eq(True).sum()),
            "of_another_arm": int(messages["is_other_arm"].eq(True).sum()),
            "to_nobody_assigned": int(messages["arm"].isna().sum()),
        },
    )


@dataclass(frozen=True)
class _Enrolment:
    """What a day draws: its inputs, new rows of the ledger, all cohorts, verdicts on launches.

    missed: campaigns that might start by what is known now, on a day that was closed without them.
    unheard: of campaigns whose purpose nobody consents to, what may have been meant.
    """

    found: dict[str, Publication]
    rows: pd.DataFrame
    cohort: pd.DataFrame
    launches: dict[str, Launch]
    missed: tuple[str, ...] = ()
    unheard: Mapping[str, str] = field(default_factory=dict)

    def launched(self) -> dict[str, Any]:
        """Return what Dagster shows of the campaigns that start on the day, or are refused."""
        shown: dict[str, Any] = {}
        for name, launch in self.launches.items():
            verdict = "refused" if launch.is_refused else launch.power
            shown[f"{name} launch"] = f"{verdict}: {launch.reason}"
            shown[f"{name} power"] = dg.MetadataValue.md(launch.markdown())
        for name, words in self.unheard.items():
            shown[f"WARNING {name} purpose"] = words
        for name in self.missed:
            shown[f"{name} launch"] = (
                "closed: the day was drawn before, and nobody of this campaign then: it was "
                "refused, or its file came later. It starts on a `start_date` to come"
            )
        return shown


def _enrol(run: Run, day: date, read_ledger: Callable[[], pd.DataFrame]) -> _Enrolment:
    """Return what `day` draws. A campaign of which nobody is assigned yet is judged first."""
    import pandas as pd

    from ml.campaigns.assignment import empty_ledger
    from ml.campaigns.cohorts import build_cohort, empty_cohort, refuse
    from ml.campaigns.eligibility import unheard_of

    lake, tables = run.platform.lake, audience_tables()
    active = [campaign for campaign in _campaigns(run) if campaign.assigns_on(day)]
    if not active:
        found = lake.require_together(list(tables[:3]), day)
        return _Enrolment(found, empty_ledger(), empty_cohort(), {})
    ledger = read_ledger()
    closed = lake.publication(CAMPAIGN_ASSIGNMENTS, day) is not None
    asked = frozenset().union(*(campaign.fields for campaign in active))
    found, status, others = customers_on(run, day, asked)
    suppressed = suppressed_keys(run.platform.home, run.platform.vault, day)
    new, cohorts, launches = [empty_ledger()], [empty_cohort()], {}
    missed: list[str] = []
    for campaign in active:
        policy = None
        if campaign.bandit is not None:
            policy = policy_of_draw(run, campaign, day)
        assigned, cohort = build_cohort(
            campaign,
            status,
            others,
            ledger,
            day,
            suppressed=suppressed,
            closed=closed,
            policy=policy,
            registered=registered(run.platform.home, campaign.id),
        )
        own = ledger["campaign_id"].eq(campaign.id) & (ledger["assigned_date"] <= day)
        drawn = len(assigned) or int(cohort["exclusion_reason"].eq("day_closed").sum())
        if own.any():
            power = ledger.loc[own, "launch_power"].iloc[0]
        elif drawn:
            launch = launch_of(run, campaign, drawn, day, ledger)
            power = launch.power
            if launch.is_refused:
                assigned, cohort = empty_ledger(), refuse(cohort)
            if closed and not launch.is_refused:
                missed.append(campaign.id)  # a new verdict starts nothing: the cohort says closed
            else:
                launches[campaign.id] = launch
        else:
            power = None
        new.append(assigned.assign(launch_power=power))
        cohorts.append(cohort)
        ledger = pd.concat([ledger, new[-1]], ignore_index=True)
    rows, cohort = (pd.concat(frames, ignore_index=True) for frames in (new, cohorts))
    unheard = unheard_of({campaign.id: campaign.purpose for campaign in active}, status)
    return _Enrolment(found, rows, cohort, launches, tuple(missed), unheard)


def _campaigns(run: Run) -> tuple[Campaign, ...]:
    """Return the campaign files, read once a run."""
    return run.once("campaigns", lambda: read_campaigns(run.platform.home))


def _experiments(run: Run, day: date) -> list[tuple[Campaign, pd.DataFrame]]:
    """Return what is measured on `day`: each campaign with its rows of the ledger.

    On the days on which a quarter closes and settles the global holdout is among them, where the
    eve of the quarter was published and the orders of every day since.
    """
    ledger = ledger_of(run, day)
    found = [
        (campaign, ledger[ledger["campaign_id"] == campaign.id]) for campaign in started(run, day)
    ]
    return found + _holdouts(run, day)


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


def _readings(run: Run, campaign: Campaign, ledger: pd.DataFrame, day: date) -> pd.DataFrame:
    """Return what one campaign earned as known at the end of `day`.

    Raises:
        NotPublishedError: a day on which windows closed or settled is not published.
    """
    from ml.campaigns.plan import PREDICTIONS, plan_of, read_from
    from ml.campaigns.results import past_effects, read_out

    lake, lag = run.platform.lake, timedelta(days=campaign.outcome.return_lag_days)
    ends = {end for end in set(ledger["window_end_date"]) if end <= day}
    # What is settled stands there whole; before that, what was known when the window closed.
    due = sorted({end + lag if end + lag <= day else end for end in ends})
    outcomes = days_of(run, CAMPAIGN_OUTCOMES, due)
    outcomes = outcomes[outcomes["campaign_id"] == campaign.id]
    outcomes = outcomes.sort_values(["customer_key", "snapshot_date"], kind="stable")
    outcomes = outcomes.drop_duplicates("customer_key", keep="last").reset_index(drop=True)

    days = sorted(set(ledger["assigned_date"])) if len(outcomes) else []
    scores = forecasts_on(run, days, PREDICTIONS)
    ledger, outcomes, usable = read_from(ledger, outcomes, scores)
    before = [d for d in lake.days(CAMPAIGN_RESULTS) if d < campaign.start_date]
    past = lake.read_frame(CAMPAIGN_RESULTS, before) if len(outcomes) and before else None
    return read_out(
        plan_of(campaign, usable, launch_power=ledger["launch_power"].iloc[0]),
        ledger,
        outcomes,
        day,
        eligible=_eligible(run, campaign, ledger, day) if len(outcomes) else None,
        past=None if past is None else past_effects([_last_readings(past)]),
        others=ledger_of(run, day),
    )


def _eligible(run: Run, campaign: Campaign, ledger: pd.DataFrame, day: date) -> pd.DataFrame | None:
    """Return who was eligible by `day`, of the days of enrolment whose cohorts are published.

    What follows from the same cohorts is made once in a row.
    """
    import pandas as pd

    from ml.campaigns.cohorts import eligible_units

    published = run.platform.lake.days(CAMPAIGN_COHORTS)
    days = tuple(d for d in published if campaign.assigns_on(d) and d <= day)
    made: dict[tuple[date, ...], pd.DataFrame | None] = run.once(f"eligible {campaign.id}", dict)
    if days not in made:
        made.clear()
        first = _first_passes(run, campaign, day)
        passed = pd.DataFrame({"customer_key": list(first), "snapshot_date": list(first.values())})
        passed = passed[passed["snapshot_date"] <= day]
        made[days] = eligible_units(campaign, passed, ledger) if len(passed) else None
    return made[days]


def _first_passes(run: Run, campaign: Campaign, day: date) -> dict[str, date]:
    """Return who passed every rule of a campaign and on which day first, of all days read so far.

    Each cohort is read once a run, for all campaigns under way, and let go before the next one is
    read. Whom holdout or coverage leave out pass again on every day; only the first one is kept.
    """
    import pyarrow.compute as pc

    from ml.campaigns.cohorts import passed_every_rule
    from orchestration.resources.lake import to_pandas

    lake = run.platform.lake
    columns = ["campaign_id", "customer_key", "is_eligible", "exclusion_reason"]
    first: dict[str, dict[str, date]] = run.once("first passes", dict)
    done: set[tuple[str, date]] = run.once("cohorts read", set)
    open_now = {c.id: c for c in (*started(run, day), campaign) if day <= c.settled_date}
    for d in sorted(d for d in lake.days(CAMPAIGN_COHORTS) if d <= day):
        due = [c for c in open_now.values() if c.assigns_on(d) and (c.id, d) not in done]
        if not due:
            continue
        cohort = lake.read(CAMPAIGN_COHORTS, [d], columns)
        for other in due:
            own = to_pandas(cohort.filter(pc.field("campaign_id") == other.id))
            passes = first.setdefault(other.id, {})
            for customer_key in passed_every_rule(own)["customer_key"]:
                passes.setdefault(customer_key, d)
            done.add((other.id, d))
    return first.get(campaign.id, {})


def _last_readings(results: pd.DataFrame) -> pd.DataFrame:
    """Return the newest reading of each campaign, arm, metric and look."""
    key = ["campaign_id", "arm", "metric", "look"]
    return results.sort_values([*key, "snapshot_date"], kind="stable").drop_duplicates(
        key, keep="last"
    )

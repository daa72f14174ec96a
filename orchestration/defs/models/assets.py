"""`models/churn`, `models/customer_segments`, `models/customer_value`: trained and registered.

What belongs here: reading what had matured, calling `ml`, logging to MLflow, the champion; and what
others ask for, too: what a run in MLflow says of its Dagster run (`run_tags`, for models of uplift)
and what a contact costs and keeps (`profit_model`, for the benchmark of models). These assets are
not partitioned: a training is as of a day, and says which.
"""

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from orchestration.defs.daily import SCIENCE, lake_key
from orchestration.resources.platform import Platform
from orchestration.tables import mart_tables

if TYPE_CHECKING:
    import pandas as pd

    from expectations.schema import Table
    from ml.metrics import ProfitModel

# Trained every Monday; two missed Mondays are a fault.
FRESH_MODEL = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(days=15), warn_window=timedelta(days=8)
)

# What every model asset is declared with.
TRAINED: dict[str, Any] = {
    "group_name": "models",
    "owners": [SCIENCE],
    "kinds": {"scikitlearn", "mlflow"},
    "code_version": "1",
    "freshness_policy": FRESH_MODEL,
}

CHURN_MODEL = "churn"
SEGMENT_MODEL = "customer_segments"
VALUE_MODEL = "customer_value"


def model_key(name: str) -> dg.AssetKey:
    """Return the asset key of a registered model."""
    return dg.AssetKey(["models", name])


def run_tags(platform: Platform, run_id: str) -> dict[str, str]:
    """Return what a run in MLflow says of the Dagster run that made it, with a link."""
    url = f"{platform.settings.dagster_url}/runs/{run_id}"
    return {"dagster_run_id": run_id, "dagster_run_url": url}


def origin_tags(
    context: dg.AssetExecutionContext, platform: Platform, as_of: date, table: "Table"
) -> dict[str, str]:
    """Return what a run in MLflow says of where it comes from; `table` is what it learnt from."""
    from orchestration.resources.content import code_version

    return {
        **run_tags(platform, context.run_id),
        "partition": as_of.isoformat(),
        "code_version": code_version(),
        "feature_version": str(table.version),
    }


class TrainingConfig(dg.Config):
    """As of which day to train; empty: the last day whose labels are published.

    origins: out-of-time test snapshots; 0: as many as the settings say.
    """

    as_of: str = ""
    origins: int = 0


def as_of_day(config: TrainingConfig, published: list[date], what: str) -> date:
    """Return the day a training is as of.

    Raises:
        dg.Failure: nothing is published by then.
    """
    wanted = date.fromisoformat(config.as_of) if config.as_of else None
    usable = [day for day in published if wanted is None or day <= wanted]
    if not usable:
        raise dg.Failure(
            f"no {what} published{f' by {wanted}' if wanted else ''}; run the history job, or the "
            "daily job, for earlier days first",
            allow_retries=False,
        )
    return wanted or usable[-1]


def training_frame(platform: Platform, as_of: date) -> "pd.DataFrame":
    """Return features up to `as_of` joined with the labels that had matured by its end.

    Labels are missing of the last snapshots, whose features tell who has bought since the earlier
    ones. Snapshots are thinned to the training step before anything is read, so a year of daily
    partitions costs what a year of fortnightly ones does.
    """
    tables, lake = mart_tables(), platform.lake
    horizon = platform.home.shop.horizon_days
    labels, features = tables["churn_labels"], tables["customer_features"]
    from ml.validation import thin, usual_step

    have = set(lake.days(features))
    snapshots = thin(
        [
            day - timedelta(days=horizon)
            for day in lake.days(labels)
            if day <= as_of and day - timedelta(days=horizon) in have
        ],
        platform.settings.training_step_days,
    )
    matured = [day + timedelta(days=horizon) for day in snapshots]
    step = usual_step(snapshots, platform.settings.training_step_days)
    snapshots += [
        day
        for day in sorted(have)
        if snapshots and snapshots[-1] < day <= as_of and (day - snapshots[-1]).days % step == 0
    ]
    for day in matured:
        lake.require(labels, day)
    for day in snapshots:
        lake.require(features, day)
    left = lake.read_frame(features, snapshots, money_as_float=True)
    right = lake.read_frame(labels, matured, money_as_float=True).drop(columns=["horizon_days"])
    frame = left.merge(
        right, how="left", on=["snapshot_date", "customer_key"], validate="one_to_one"
    )
    # Features of a customer whose label is missing though the day has them: no training row.
    labelled = {day - timedelta(days=horizon) for day in matured}
    frame = frame[frame["is_churned"].notna() | ~frame["snapshot_date"].isin(labelled)]
    dates = [day + timedelta(days=horizon) for day in frame["snapshot_date"]]
    return frame.assign(matured_date=dates, **contactable(platform, as_of, frame))


def contactable(platform: Platform, as_of: date, frame: "pd.DataFrame") -> "dict[str, pd.Series]":
    """Return is_reachable, whether each row's customer consents to any channel by `as_of`, and
    is_eligible, whether no other default rule of campaigns excludes them either; missing where no
    status is published. No features: fairness is told by them.
    """
    from ml.campaigns.eligibility import is_eligible, reachable_by

    table, lake = mart_tables()["customer_status"], platform.lake
    days = [day for day in lake.days(table) if day <= as_of]
    if not days:
        return dict.fromkeys(("is_reachable", "is_eligible"), frame["customer_key"].map({}))
    status = lake.read_frame(table, days[-1:])
    channels = [
        name.removeprefix("has_").removesuffix("_consent")
        for name in table.column_names
        if name.endswith("_consent")
    ]
    found = {
        "is_reachable": reachable_by(channels, status).notna(),
        "is_eligible": is_eligible(channels, status),
    }
    return {
        name: frame["customer_key"].map(dict(zip(status["customer_key"], values, strict=True)))
        for name, values in found.items()
    }


def profit_model(platform: Platform, as_of: date, frame: "pd.DataFrame") -> "ProfitModel":
    """Return what a contact costs this shop, and whom it keeps as its campaigns measured by then.

    The value of a customer is the mean expected margin at the last snapshot of `frame`. Results of
    campaigns are no input in the graph: they come of scores, which come of this model. Those of the
    past are read, and change no score: profit chooses a threshold and is reported.
    """
    from ml.acceptance import measured_acceptance
    from ml.metrics import ProfitModel
    from ml.value import expected_margin
    from orchestration.defs.campaigns.files import registered
    from orchestration.tables import CAMPAIGN_RESULTS

    settings, lake = platform.settings, platform.lake
    horizon = platform.home.shop.horizon_days
    told: dict[str, Any] = {}
    if settings.accept_rate is not None:
        told = {"accept_rate": settings.accept_rate, "acceptance": "set by the shop"}
    else:
        days = [day for day in lake.days(CAMPAIGN_RESULTS) if day <= as_of]
        results = lake.read_frame(CAMPAIGN_RESULTS, days)
        # In a shorter window, whom a contact only hurried looks like one whom it kept.
        tells = {
            name
            for name in results["campaign_id"].unique()
            if (campaign := registered(platform.home, name))
            and campaign.outcome.window_days >= horizon
        }
        found = measured_acceptance(results[results["campaign_id"].isin(tells)])
        if found is not None:
            told = {"accept_rate": found.rate, "acceptance": str(found)}
    if len(frame):
        last = frame[frame["snapshot_date"] == frame["snapshot_date"].max()]
        margin = expected_margin(last, horizon, settings.margin_rate)
        told["customer_value"] = float(margin["expected_margin_amount"].astype("float64").mean())
    return ProfitModel(
        incentive_amount=settings.incentive_amount, contact_amount=settings.contact_amount, **told
    )


def model_assets() -> list[dg.AssetsDefinition]:
    """Return the models."""

    @dg.asset(
        key=model_key(CHURN_MODEL),
        deps=[
            lake_key("customer_features"),
            lake_key("churn_labels"),
            lake_key("customer_status"),
        ],
        **TRAINED,
        description=(
            "Candidates compared out of time, the best that passes the gates refitted on all that "
            "is known and registered; champion if it beats the champion on the same rows, or is "
            "the champion's own recipe on newer labels and no worse. "
            "While nothing can be compared and nobody serves, the recency rule does. Past days of "
            "campaign_results, whose edge would close a circle, say what share a contact keeps."
        ),
    )
    def churn_model(
        context: dg.AssetExecutionContext, platform: Platform, config: TrainingConfig
    ) -> dg.MaterializeResult:
        from ml.features import INPUTS, protected_features
        from ml.settings import TrainingSettings
        from ml.training import TrainingSkipped, train

        lake, settings = platform.lake, platform.settings
        as_of = as_of_day(config, lake.days(mart_tables()["churn_labels"]), "labels")
        frame = training_frame(platform, as_of)
        models = platform.models
        try:
            result = train(
                frame,
                as_of,
                platform.home.shop.horizon_days,
                settings.seed,
                champion=models.champion(CHURN_MODEL),
                features=(*INPUTS, *protected_features(frame, settings.protected_features)),
                settings=TrainingSettings(
                    n_origins=config.origins or settings.training_origins,
                    max_rows=settings.training_max_rows,
                    snapshot_spacing_days=settings.training_step_days,
                    attempt=models.attempt(CHURN_MODEL, as_of),
                    margin_rate=settings.margin_rate,
                    profit=profit_model(platform, as_of, frame),
                ),
                on_progress=context.log.info,
            )
        except TrainingSkipped as reason:
            context.log.warning(f"no training: {reason}; the champion stays")
            return dg.MaterializeResult(metadata={"skipped": str(reason), "as_of": str(as_of)})
        logged = models.register(
            CHURN_MODEL,
            result,
            origin_tags(context, platform, as_of, mart_tables()["customer_features"]),
        )
        return dg.MaterializeResult(
            metadata={
                **models.describe(result, logged),
                "mlflow": dg.MetadataValue.url(models.link(logged, settings.mlflow_url)),
            }
        )

    @dg.asset(
        key=model_key(SEGMENT_MODEL),
        deps=[lake_key("customer_status")],
        **TRAINED,
        description=(
            "RFM cut-points and K-means on customer_status; refits keep the ids and names of the "
            "segments they continue."
        ),
    )
    def customer_segments_model(
        context: dg.AssetExecutionContext, platform: Platform, config: TrainingConfig
    ) -> dg.MaterializeResult:
        from ml.clustering import fit_segments
        from ml.rfm import cut_points

        status_table = mart_tables()["customer_status"]
        as_of = as_of_day(config, platform.lake.days(status_table), "customer_status")
        day = max(d for d in platform.lake.days(status_table) if d <= as_of)
        platform.lake.require(status_table, day)
        status = platform.lake.read_frame(status_table, [day], money_as_float=True)
        previous = platform.models.segments()
        fitted = fit_segments(
            status, platform.settings.seed, previous.clusters if previous else None
        )
        logged = platform.models.register_segments(
            SEGMENT_MODEL,
            fitted,
            cut_points(status),
            day,
            origin_tags(context, platform, day, status_table),
        )
        return dg.MaterializeResult(
            metadata={
                "as_of": day.isoformat(),
                "model_version": logged.version,
                "segments": dg.MetadataValue.md(
                    "| segment | share |\n| --- | --- |\n"
                    + "\n".join(
                        f"| {c['name']} | {c['share']:.1%} |" for c in fitted.metadata["clusters"]
                    )
                ),
                "mlflow": dg.MetadataValue.url(
                    platform.models.link(logged, platform.settings.mlflow_url)
                ),
            }
        )

    @dg.asset(
        key=model_key(VALUE_MODEL),
        deps=[lake_key("customer_status")],
        **TRAINED,
        description=(
            "Purchases within 7 and 30 days, orders and revenue of 30, 90 and 365: recipes "
            "compared out of time on customer_status of earlier days, the best registered; "
            "champion if it beats the champion on the same rows, or is the champion's recipe on "
            "newer outcomes and no worse."
        ),
    )
    def customer_value_model(
        context: dg.AssetExecutionContext, platform: Platform, config: TrainingConfig
    ) -> dg.MaterializeResult:
        from ml.model_card import measure_lines
        from ml.training import TrainingSkipped
        from ml.value_training import ValueSettings, train_value

        table = mart_tables()["customer_status"]
        as_of = as_of_day(config, platform.lake.days(table), "customer_status")
        models, settings = platform.models, platform.settings
        try:
            result = train_value(
                value_frame(platform, as_of),
                as_of,
                settings.seed,
                champion=models.value_champion(),
                settings=ValueSettings(attempt=models.attempt(VALUE_MODEL, as_of)),
                on_progress=context.log.info,
            )
        except TrainingSkipped as reason:
            context.log.warning(f"no training: {reason}")
            return dg.MaterializeResult(metadata={"skipped": str(reason), "as_of": str(as_of)})
        logged = models.register_value(
            result,
            origin_tags(context, platform, as_of, table),
        )
        return dg.MaterializeResult(
            metadata={
                "as_of": as_of.isoformat(),
                "recipe": result.recipe,
                "decision": "promoted" if result.promote else "kept the champion",
                "purchase_recipes": dict(result.purchase_recipes),
                "reason": result.reason,
                "compared_out_of_time": result.is_compared,
                "training_rows": result.training_row_count,
                "model_version": logged.version,
                "measured": dg.MetadataValue.md("\n".join(measure_lines(result))),
                "mlflow": dg.MetadataValue.url(models.link(logged, settings.mlflow_url)),
            }
        )

    return [churn_model, customer_segments_model, customer_value_model]


def value_frame(platform: Platform, as_of: date) -> "pd.DataFrame":
    """Return `customer_status` of the days that a training of value as of `as_of` reads."""
    from ml.customer_value import STATUS_COLUMNS
    from ml.value_training import choose_days

    table, lake = mart_tables()["customer_status"], platform.lake
    days = choose_days(lake.days(table), as_of)
    for day in days:
        lake.require(table, day)
    return lake.read_frame(table, days, list(STATUS_COLUMNS), money_as_float=True)

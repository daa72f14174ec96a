"""`lake/churn_scores`, `lake/customer_value`, `lake/at_risk_list`: risk, worth, and the list."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from orchestration.defs.daily import MARKETING, SCIENCE, Made, Run, daily_asset, lake_key
from orchestration.defs.models.assets import CHURN_MODEL, VALUE_MODEL, model_key
from orchestration.tables import (
    AT_RISK_LIST,
    CHURN_SCORES,
    CUSTOMER_SEGMENTS,
    CUSTOMER_VALUE,
    mart_tables,
)

if TYPE_CHECKING:
    from expectations.schema import Table
    from ml.plays import Plays


def score_assets(partitions: dg.DailyPartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the scores and the at-risk list."""

    @daily_asset(
        CHURN_SCORES,
        partitions,
        deps=[lake_key("customer_features"), lake_key("customer_status"), model_key(CHURN_MODEL)],
        group="scores",
        owner=SCIENCE,
        description=(
            "Probability of churning, rank, reasons in words, when the next order is expected, and "
            "the margin at risk."
        ),
        kinds={"scikitlearn", "deltalake"},
        code_version="2",
    )
    def churn_scores(run: Run, day: date) -> Made:
        from ml.features import FEATURES, PROTECTED, feature_matrix, protected_in
        from ml.frames import join_customers
        from ml.reasons import is_passed_over, reasons
        from ml.scoring import score
        from ml.value import expected_margin, margin_at_risk

        platform, tables = run.platform, mart_tables()
        sources = [tables["customer_features"], tables["customer_status"]]
        found = platform.lake.require_together(sources, day)
        standing = platform.lake.publication(CHURN_SCORES, day)
        pinned = None if run.is_rescoring or standing is None else standing.model_version
        models = platform.models
        ref = models.resolve(CHURN_MODEL, pinned) if pinned else models.serving(CHURN_MODEL)
        model = run.once(f"model {ref.version}", lambda: platform.models.load(ref))
        link = run.once(
            f"link {ref.version}",
            lambda: platform.models.link(ref, platform.settings.mlflow_url),
        )
        switched_on = [PROTECTED[attribute] for attribute in protected_in(ref.inputs)]
        features = platform.lake.read_frame(
            sources[0],
            [day],
            ["customer_key", "snapshot_date", *FEATURES, *switched_on],
            money_as_float=True,
        )
        status = platform.lake.read_frame(sources[1], [day], ["customer_key", "is_margin_known"])
        inputs = features[["customer_key"]].join(feature_matrix(features, ref.inputs))
        scores = score(model, inputs)
        margin = expected_margin(
            join_customers(features, status),
            platform.home.shop.horizon_days,
            platform.settings.margin_rate,
        )
        scores = join_customers(scores, margin)
        scores = scores.assign(
            margin_at_risk_amount=margin_at_risk(
                scores["churn_probability"], scores["expected_margin_amount"]
            ),
            snapshot_date=day,
            model_name=ref.name,
            model_version=str(ref.version),
            model_last_matured_date=ref.last_matured_date,
            is_rescore=ref.last_matured_date > day,
        )
        if len(scores):
            # Some of those with most at stake must not be contacted, and are not on the list.
            passed_over = is_passed_over(scores, 2 * platform.settings.at_risk_capacity)
            passed_over = passed_over.set_axis(scores["customer_key"])
            probability = scores.set_index("customer_key")["churn_probability"]
            told = reasons(model, inputs, inputs, passed_over, probability, ref.inputs)
            scores = join_customers(scores, told)
        else:
            scores = scores.assign(reason_1=None, reason_2=None, reason_3=None)
        return Made(
            scores,
            generation=found["customer_features"].generation,
            inputs={f"{name}/{day}": p.content_hash for name, p in found.items()},
            model_version=str(ref.version),
            are_rows_due=len(features) > 0,
            metadata={
                "customers_scored": len(scores),
                "expected_churners": round(float(scores["churn_probability"].sum()), 1),
                "mean_churn_probability": round(float(scores["churn_probability"].mean()), 4)
                if len(scores)
                else 0.0,
                "high_risk_customers": int((scores["risk_band"] == "high").sum()),
                "margin_at_risk_amount": float(scores["margin_at_risk_amount"].sum()),
                "is_rescore": ref.last_matured_date > day,
                "model": f"{ref.name} version {ref.version}",
                "mlflow": dg.MetadataValue.url(link),
            },
        )

    @daily_asset(
        AT_RISK_LIST,
        partitions,
        deps=[
            lake_key("churn_scores"),
            lake_key("customer_status"),
            lake_key("customer_segments"),
            lake_key("customer_features"),
        ],
        group="scores",
        owner=MARKETING,
        description="Whom to talk to today, by margin at risk, with a reason and a suggested play.",
        kinds={"deltalake", "csv"},
        days_at_once=1,  # a list knows the one before it
    )
    def at_risk_list(run: Run, day: date) -> Made:
        return list_of(run, day)

    @daily_asset(
        CUSTOMER_VALUE,
        partitions,
        deps=[lake_key("customer_status"), model_key(VALUE_MODEL)],
        group="scores",
        owner=SCIENCE,
        description=(
            "Probability of a purchase within 7 and 30 days, also of the main category; orders, "
            "revenue and margin of 30, 90 and 365 days with 80 % intervals."
        ),
        kinds={"scikitlearn", "deltalake"},
    )
    def customer_value(run: Run, day: date) -> Made:
        return value_of(run, day)

    return [churn_scores, customer_value, at_risk_list]


def list_of(run: Run, day: date) -> Made:
    """Return the at-risk list of a day; every play of the file is counted, also those of nobody."""
    from ml.at_risk import STATUS_COLUMNS
    from ml.at_risk import at_risk_list as make
    from ml.campaigns.eligibility import unheard_of
    from orchestration.defs.campaigns.files import PLAYS, read_plays, write_csv

    plays = run.once("plays", lambda: read_plays(run.platform.home))
    lake, tables = run.platform.lake, mart_tables()
    status_table, features_table = tables["customer_status"], tables["customer_features"]
    sources = [CHURN_SCORES, status_table, CUSTOMER_SEGMENTS, features_table]
    found = lake.require_together(sources, day)
    earlier = [d for d in lake.days(AT_RISK_LIST) if d < day]
    status = lake.read_frame(
        status_table,
        [day],
        _asked(status_table, plays, "customer_key", "snapshot_date", *STATUS_COLUMNS),
        money_as_float=True,
    )
    listed = make(
        lake.read_frame(CHURN_SCORES, [day], money_as_float=True),
        status,
        lake.read_frame(
            CUSTOMER_SEGMENTS,
            [day],
            ["customer_key", "snapshot_date", *_asked(CUSTOMER_SEGMENTS, plays, "rfm_segment")],
        ),
        lake.read_frame(AT_RISK_LIST, earlier[-1:]) if earlier else None,
        plays,
        capacity=run.platform.settings.at_risk_capacity,
        features=lake.read_frame(
            features_table, [day], ["customer_key", *_asked(features_table, plays)]
        ),
    )
    counts = listed["suggested_play"].value_counts()
    unheard = unheard_of(plays.purposes, status)
    for play, words in unheard.items():
        run.warn(f"{PLAYS}: purposes.{play}: {words}")

    def hand_over() -> dict[str, dg.MetadataValue]:
        path = write_csv(run.platform.home.exports / "at_risk", f"{day}.csv", listed)
        return {"csv": dg.MetadataValue.path(str(path))}

    return Made(
        listed,
        hand_over=hand_over,
        generation=found["customer_status"].generation,
        inputs={f"{name}/{day}": p.content_hash for name, p in found.items()},
        metadata={
            "customers_listed": len(listed),
            "new_on_list": int(listed["is_new"].sum()) if len(listed) else 0,
            "margin_at_risk_amount": float(listed["margin_at_risk_amount"].sum())
            if len(listed)
            else 0.0,
            **{f"play_{play}": int(counts.get(play, 0)) for play in plays.channels},
            **{f"WARNING purposes.{play}": words for play, words in unheard.items()},
        },
    )


def value_of(run: Run, day: date) -> Made:
    """Return value and purchase probabilities of everybody known on a day.

    Without any model the day is empty and says so: a shop too young for one has its other tables.
    """
    from ml.customer_value import SERVED_COLUMNS
    from orchestration.resources.content import arrow_schema

    platform, table = run.platform, mart_tables()["customer_status"]
    found = platform.lake.require(table, day)
    standing = platform.lake.publication(CUSTOMER_VALUE, day)
    pinned = None if run.is_rescoring or standing is None else standing.model_version
    served = run.once(f"value {pinned}", lambda: platform.models.value(pinned))
    status = platform.lake.read_frame(table, [day], list(SERVED_COLUMNS), money_as_float=True)
    inputs = {f"customer_status/{day}": found.content_hash}
    if served is None:
        return Made(
            arrow_schema(CUSTOMER_VALUE).empty_table(),
            generation=found.generation,
            inputs=inputs,
            metadata={"refused": "no model of value serves; models/customer_value says why"},
        )
    ref, model = served
    frame = model.predict(status, platform.settings.margin_rate)
    told = status.sort_values("customer_key", ignore_index=True)
    frame = frame.assign(
        snapshot_date=day,
        lifecycle=told["lifecycle"],
        main_category=told["main_category"],
        value_recipe=model.recipe,
        is_extrapolated_365d=365 not in model.tested_windows,
        model_name=ref.name,
        model_version=str(ref.version),
        model_last_matured_date=ref.last_matured_date,
        is_rescore=ref.last_matured_date > day,
    )
    return Made(
        frame,
        generation=found.generation,
        inputs=inputs,
        model_version=str(ref.version),
        are_rows_due=len(status) > 0,
        metadata={
            "customers": len(frame),
            "purchases_expected_30d": round(float(frame["purchase_probability_30d"].sum()), 1),
            **{
                f"expected_revenue_amount_{days}d": round(
                    float(frame[f"expected_revenue_amount_{days}d"].sum()), 2
                )
                for days in (30, 90, 365)
            },
            "is_rescore": ref.last_matured_date > day,
            "model": f"{ref.name} version {ref.version}",
        },
    )


def _asked(table: Table, plays: Plays, *always: str) -> list[str]:
    """Return the columns of `table` that the rules ask for, consents, and those needed always."""
    asked = {*plays.fields, *always}
    return [n for n in table.column_names if n in asked or n.endswith(("_consent", "_consents"))]

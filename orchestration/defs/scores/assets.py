"""`lake/churn_scores` and `lake/at_risk_list`: who is about to leave, and whom to talk to today."""

from __future__ import annotations

from datetime import date

import dagster as dg

from orchestration.defs.daily import MARKETING, SCIENCE, Made, Run, daily_asset, lake_key
from orchestration.defs.models.assets import CHURN_MODEL, model_key
from orchestration.tables import AT_RISK_LIST, CHURN_SCORES, CUSTOMER_SEGMENTS, mart_tables


def score_assets(partitions: dg.DailyPartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the scores and the at-risk list."""

    @daily_asset(
        CHURN_SCORES,
        partitions,
        deps=[lake_key("customer_features"), lake_key("customer_status"), model_key(CHURN_MODEL)],
        group="scores",
        owner=SCIENCE,
        description="Probability of churning, rank, reasons in words, and the margin at risk.",
        kinds={"scikitlearn", "deltalake"},
    )
    def churn_scores(run: Run, day: date) -> Made:
        import pandas as pd

        from ml.frames import join_customers
        from ml.reasons import reasons
        from ml.scoring import score
        from ml.value import expected_margin, margin_at_risk

        platform, tables = run.platform, mart_tables()
        sources = [tables["customer_features"], tables["customer_status"]]
        found = platform.lake.require_together(sources, day)
        standing = platform.lake.publication(CHURN_SCORES, day)
        pinned = None if run.is_rescoring or standing is None else standing.model_version
        ref = platform.models.resolve(CHURN_MODEL, pinned)
        model = run.once(f"model {ref.version}", lambda: platform.models.load(ref))
        link = run.once(
            f"link {ref.version}",
            lambda: platform.models.link(ref, platform.settings.mlflow_url),
        )
        features = platform.lake.read_frame(sources[0], [day], money_as_float=True)
        status = platform.lake.read_frame(sources[1], [day], ["customer_key", "is_margin_known"])
        scores = score(model, features)
        if len(scores):
            scores = join_customers(scores, reasons(model, features, features))
        else:
            scores = scores.assign(reason_1=None, reason_2=None, reason_3=None)
        margin = expected_margin(
            join_customers(features, status),
            platform.home.shop.horizon_days,
            platform.settings.margin_rate,
        )
        scores = join_customers(scores, margin)
        scores = scores.assign(
            margin_at_risk_amount=pd.Series(
                margin_at_risk(scores["churn_probability"], scores["expected_margin_amount"]),
                index=scores.index,
                dtype=object,
            ),
            snapshot_date=day,
            model_name=ref.name,
            model_version=str(ref.version),
            model_last_matured_date=ref.last_matured_date,
            is_rescore=ref.last_matured_date > day,
        )
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
        from ml.at_risk import at_risk_list as make
        from orchestration.defs.campaigns.files import write_csv

        lake, tables = run.platform.lake, mart_tables()
        status_table, features_table = tables["customer_status"], tables["customer_features"]
        sources = [CHURN_SCORES, status_table, CUSTOMER_SEGMENTS, features_table]
        found = lake.require_together(sources, day)
        earlier = [d for d in lake.days(AT_RISK_LIST) if d < day]
        listed = make(
            lake.read_frame(CHURN_SCORES, [day], money_as_float=True),
            lake.read_frame(status_table, [day], money_as_float=True),
            lake.read_frame(
                CUSTOMER_SEGMENTS, [day], ["customer_key", "rfm_segment", "snapshot_date"]
            ),
            lake.read_frame(AT_RISK_LIST, earlier[-1:]) if earlier else None,
            capacity=run.platform.settings.at_risk_capacity,
            features=lake.read_frame(
                features_table, [day], ["customer_key", "discounted_order_rate_365d"]
            ),
        )

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
                **{
                    f"play_{play}": int(count)
                    for play, count in listed["suggested_play"].value_counts().items()
                },
            },
        )

    return [churn_scores, at_risk_list]

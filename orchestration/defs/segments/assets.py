"""`lake/customer_segments`: every customer's lifecycle, RFM segment and K-means segment."""

from __future__ import annotations

from datetime import date

import dagster as dg

from orchestration.defs.daily import MARKETING, Made, Run, daily_asset, lake_key
from orchestration.defs.models.assets import SEGMENT_MODEL, model_key
from orchestration.tables import CUSTOMER_SEGMENTS, mart_tables


def segment_assets(partitions: dg.DailyPartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the segments."""

    @daily_asset(
        CUSTOMER_SEGMENTS,
        partitions,
        deps=[lake_key("customer_status"), model_key(SEGMENT_MODEL)],
        group="segments",
        owner=MARKETING,
        description="Lifecycle, the eleven RFM segments and the K-means segment of every customer.",
        kinds={"scikitlearn", "deltalake"},
    )
    def customer_segments(run: Run, day: date) -> Made:
        from ml.clustering import assign
        from ml.frames import join_customers
        from ml.rfm import apply

        platform, table = run.platform, mart_tables()["customer_status"]
        found = platform.lake.require(table, day)
        standing = platform.lake.publication(CUSTOMER_SEGMENTS, day)
        pinned = None if run.is_rescoring or standing is None else standing.model_version
        model = run.once(f"segments {pinned}", lambda: platform.models.segments(pinned))
        if model is None:
            raise dg.Failure(
                "no segment model is registered; materialise models/customer_segments",
                allow_retries=False,
            )
        status = platform.lake.read_frame(table, [day], money_as_float=True)
        frame = join_customers(apply(model.cut_points, status), assign(model.clusters, status))
        frame["cluster_model_version"] = frame["cluster_id"].map(
            lambda value: None if value is None or value != value else model.version,
            na_action="ignore",
        )
        frame["rfm_code"] = frame["rfm_code"].astype("Int64")
        frame["snapshot_date"] = day
        shares = frame["rfm_segment"].value_counts(normalize=True).sort_index()
        return Made(
            frame,
            generation=found.generation,
            inputs={f"customer_status/{day}": found.content_hash},
            model_version=model.version,
            are_rows_due=len(status) > 0,
            metadata={
                **{
                    f"lifecycle_{name}": int(count)
                    for name, count in frame["lifecycle"].value_counts().sort_index().items()
                },
                **{f"share_{name}": round(float(share), 4) for name, share in shares.items()},
                "clusters": dg.MetadataValue.md(
                    "| segment | customers |\n| --- | --- |\n"
                    + "\n".join(
                        f"| {name} | {count:,} |"
                        for name, count in frame["cluster_name"].value_counts().items()
                    )
                ),
            },
        )

    return [customer_segments]

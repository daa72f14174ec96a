"""The whole platform on one screen.

`build_defs(...)` assembles a fresh `Definitions`; tests, the command line and production share it
and override what they need. Stages stand below in the order in which data flows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

from orchestration.defs.campaigns.assets import campaign_assets
from orchestration.defs.checks import platform_checks
from orchestration.defs.daily import daily_partitions
from orchestration.defs.jobs import jobs, schedules, sensors
from orchestration.defs.mart.assets import mart_assets
from orchestration.defs.models.assets import model_assets
from orchestration.defs.scores.assets import score_assets
from orchestration.defs.segments.assets import segment_assets
from orchestration.defs.sources.assets import landing_assets, raw_assets
from orchestration.defs.sources.contract import load_contract
from orchestration.defs.uplift.assets import uplift_assets
from orchestration.resources.dbt import read_manifest
from orchestration.resources.home import Home, Shop
from orchestration.resources.platform import Platform
from orchestration.settings import Settings, silence_libraries


def build_defs(
    settings: Settings | None = None,
    *,
    shop: Shop | None = None,
    manifest: Mapping[str, Any] | None = None,
    resources: Mapping[str, Any] | None = None,
    loggers: Mapping[str, dg.LoggerDefinition] | None = None,
) -> dg.Definitions:
    """Assemble the platform.

    Args:
        settings: default: read from the environment.
        shop: default: the home's; where there is no home yet, a shop that began in 2024, so that
            the graph can be looked at and validated before any data is there.
        manifest: dbt's manifest; default: the prepared one.
        resources: replace the resources, by key.
        loggers: replace Dagster's console logger.
    """
    silence_libraries()
    # Known and accepted: docs/decisions/0012 lists the beta and preview features in use.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    settings = settings or Settings()
    shop = shop or _shop(settings)
    contract = load_contract()
    days = daily_partitions(shop, settings.today)

    return dg.Definitions(
        assets=[
            *landing_assets(contract),
            raw_assets(contract, days),
            *mart_assets(manifest or read_manifest(), days),
            *model_assets(),
            *score_assets(days),
            *segment_assets(days),
            *campaign_assets(days),
            *uplift_assets(days),
        ],
        asset_checks=platform_checks(),
        jobs=jobs(days, loggers),
        schedules=schedules(days) if settings.has_schedules else [],
        sensors=sensors() if settings.has_schedules else [],
        resources={"platform": Platform(root=str(settings.home.resolve())), **(resources or {})},
        loggers=loggers,
        executor=dg.in_process_executor,
    )


def _shop(settings: Settings) -> Shop:
    from datetime import date

    if Home.exists(settings.home):
        return Home.open(settings.home).shop
    return Shop("UTC", "EUR", date(2024, 1, 1))


@dg.definitions
def defs() -> dg.Definitions:
    """What `workspace.yaml` loads."""
    return build_defs()

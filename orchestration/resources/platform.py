"""The one resource of the DAG: a home, opened, with everything in it that touches a disk.

What belongs here: building the collaborators of an asset from the settings and the home, each on
first use. What does not: any logic of its own.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from orchestration.resources.home import Home
from orchestration.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import date

    from expectations.audit import AuditResult, Batch
    from expectations.docs import DocsSite
    from orchestration.resources.catalog import Catalog
    from orchestration.resources.dbt import Dbt
    from orchestration.resources.lake import Lake
    from orchestration.resources.models import Models
    from orchestration.resources.publishing import Publisher
    from orchestration.resources.vault import Vault
    from orchestration.resources.warehouse import Warehouse


class Platform(dg.ConfigurableResource):
    """One home and the settings it runs under."""

    root: str

    @cached_property
    def settings(self) -> Settings:
        """The settings, read from the environment when first asked for."""
        return Settings(home=Path(self.root))

    @cached_property
    def home(self) -> Home:
        """The opened home."""
        return Home.open(Path(self.root))

    def last_day(self) -> date:
        """Return the last day of the shop that is over: no later day can be known."""
        from datetime import datetime, timedelta
        from zoneinfo import ZoneInfo

        shop = self.home.shop
        now = datetime.now(ZoneInfo(shop.shop_timezone)).date()
        over = self.settings.today or now - timedelta(days=1)
        return over if shop.last_day is None else min(over, shop.last_day)

    @cached_property
    def catalog(self) -> Catalog:
        """Audits and publications."""
        from orchestration.resources.catalog import Catalog

        return Catalog(self.home.catalog)

    @cached_property
    def lake(self) -> Lake:
        """Published tables."""
        from orchestration.resources.lake import Lake

        return Lake(self.home.lake, self.catalog)

    @cached_property
    def warehouse(self) -> Warehouse:
        """DuckDB; open it only under the pool."""
        from orchestration.resources.warehouse import Warehouse

        return Warehouse(self.home.warehouse, self.settings.dbt_threads)

    @cached_property
    def vault(self) -> Vault:
        """Identifiers."""
        from orchestration.resources.vault import Vault

        override = self.settings.secret.get_secret_value() if self.settings.secret else None
        return Vault(self.home.vault, self.home.secret(override))

    @cached_property
    def dbt(self) -> Dbt:
        """dbt on the warehouse; run it only under the pool."""
        from orchestration.resources.dbt import Dbt

        return Dbt(self.home, self.settings.dbt_threads)

    @cached_property
    def models(self) -> Models:
        """Registered models."""
        from orchestration.resources.models import Models

        return Models(self.home, self.settings.protected_features)

    @cached_property
    def docs(self) -> DocsSite:
        """The browsable verdicts of Great Expectations."""
        from expectations.docs import DocsSite

        return DocsSite(self.home.data_docs)

    @cached_property
    def publisher(self) -> Publisher:
        """The one way into the lake."""
        from expectations.audit import audit_range
        from expectations.suites import suite_for
        from orchestration.resources.publishing import Publisher

        shop = self.home.shop
        parameters = {
            "active_window_days": shop.active_window_days,
            "horizon_days": shop.horizon_days,
        }

        def judge(batches: Sequence[Batch], shown: Collection[date]) -> list[AuditResult]:
            return audit_range(batches, docs=self.docs, shown=shown, parameters=parameters)

        return Publisher(
            self.home.staging,
            self.lake,
            auditor=judge,
            suite_version=lambda table: suite_for(table, parameters).version,
            finish=self.docs.build,
        )

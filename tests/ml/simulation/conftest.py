"""Small shops, lived through once for all tests of the simulation."""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd
import pytest
from simulated import FIRST, LAST, campaign

from ml.simulation import ShopConfig, simulate


@pytest.fixture(scope="session")
def config() -> ShopConfig:
    return ShopConfig(n_customers=1_000, n_products=80, acquisition_days=366)


@pytest.fixture(scope="session")
def frames(config: ShopConfig) -> dict[str, pd.DataFrame]:
    return simulate(config, FIRST, LAST)


@pytest.fixture(scope="session")
def treatments(config: ShopConfig, frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A reminder in August, a coupon in September: some customers get both."""
    first = campaign(config, frames, date(2024, 8, 12))
    return pd.concat(
        [first, campaign(config, frames, date(2024, 8, 12) + timedelta(days=20), is_coupon=True)],
        ignore_index=True,
    )

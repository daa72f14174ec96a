"""What a contact costs and keeps: as the shop says, as its campaigns measured, or as assumed."""

from __future__ import annotations

from datetime import date
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from small_tables import filled, put

from ml.metrics import ProfitModel
from orchestration.defs.campaigns import files
from orchestration.defs.models.assets import profit_model
from orchestration.resources.platform import Platform
from orchestration.tables import CAMPAIGN_RESULTS

if TYPE_CHECKING:
    from orchestration.resources.home import Home

READ = date(2025, 3, 1)


@pytest.fixture
def frame() -> pd.DataFrame:
    """Two snapshots; of the last, one regular and one who bought once."""
    return pd.DataFrame(
        {
            "snapshot_date": [date(2025, 1, 1), date(2025, 2, 1), date(2025, 2, 1)],
            "customer_key": ["a", "a", "b"],
            "order_count_365d": [10, 12, 1],
            "days_since_first_order": [365, 396, 30],
            "revenue_amount_365d": [1e6, 1200.0, 50.0],
            "margin_amount_365d": [1e6, 480.0, 20.0],
        }
    )


def test_acceptance_is_measured_by_campaigns_that_had_ended(
    home: Home, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = Platform(root=str(home.root))
    before = profit_model(platform, READ, frame)
    assert before.accept_rate == ProfitModel().accept_rate
    assert before.acceptance.startswith("assumed")
    assert 30 < before.customer_value < 500  # the mean margin at the last snapshot, not of telecoms
    results = filled(
        CAMPAIGN_RESULTS,
        1,
        snapshot_date=READ,
        campaign_id="spring",
        arm="coupon",
        metric="retained",
        role="goal",
        is_final=True,
        status="ok",
        effect=0.1,
        standard_error=0.02,
        mean_control=0.5,
        customer_count_arm=400,
    )
    put(platform.lake, CAMPAIGN_RESULTS, READ, results)
    assert profit_model(platform, READ, frame) == before  # nothing says how long its window was
    windows = {"spring": platform.home.shop.horizon_days - 1}
    monkeypatch.setattr(
        files,
        "registered",
        lambda home, name: SimpleNamespace(outcome=SimpleNamespace(window_days=windows[name])),
    )
    assert profit_model(platform, READ, frame) == before  # it may only have hurried people
    windows["spring"] += 1
    assert profit_model(platform, date(2025, 2, 28), frame) == before  # not known yet
    after = profit_model(platform, READ, frame)
    assert after.accept_rate == pytest.approx((0.2 * 625 + 0.3 * 100) / 725)
    assert "spring measured 0.200 +- 0.040 on 400 customers" in after.acceptance
    monkeypatch.setenv("HOLDFAST_ACCEPT_RATE", "0.05")
    monkeypatch.setenv("HOLDFAST_CONTACT_AMOUNT", "0.5")
    monkeypatch.setenv("HOLDFAST_INCENTIVE_AMOUNT", "3")
    told = profit_model(Platform(root=str(home.root)), READ, frame)
    assert (told.accept_rate, told.acceptance) == (0.05, "set by the shop")
    assert (told.contact_amount, told.incentive_amount) == (0.5, 3.0)


def test_without_customers_the_value_is_assumed(home: Home, frame: pd.DataFrame) -> None:
    platform = Platform(root=str(home.root))
    assert profit_model(platform, READ, frame.iloc[:0]).customer_value == 200.0

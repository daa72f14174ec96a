"""Pictures are PNG, are drawn from the numbers, and are the same bytes each time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ml.plots import (
    calibration_by_day_plot,
    decile_plot,
    evaluation_plots,
    importance_plot,
)
from ml.value_metrics import deciles


def test_plots_are_png_and_reproducible() -> None:
    random = np.random.default_rng(0)
    p = np.round(random.random(400), 2)
    y = (random.random(400) < p).astype(int)
    first = evaluation_plots(y, {"good": p, "constant": np.full(400, 0.5)})
    again = evaluation_plots(y, {"good": p, "constant": np.full(400, 0.5)})
    assert set(first) == {"roc.png", "precision_recall.png", "calibration.png", "lift.png"}
    assert first == again
    assert all(png.startswith(b"\x89PNG") and len(png) > 5_000 for png in first.values())
    other = evaluation_plots(y, {"good": 1 - p, "constant": np.full(400, 0.5)})
    assert all(first[name] != other[name] for name in first)


def test_importances_are_drawn() -> None:
    table = pd.DataFrame({"feature": [f"f{i}" for i in range(30)], "importance": range(30, 0, -1)})
    sure, unsure = (
        table.assign(low=table["importance"] - width, high=table["importance"] + width)
        for width in (0.0, 5.0)
    )
    assert importance_plot(sure).startswith(b"\x89PNG")
    assert importance_plot(sure) != importance_plot(unsure)  # the interval is seen


def test_each_test_snapshot_has_a_calibration_curve() -> None:
    random = np.random.default_rng(2)
    p = random.random(400)
    rows = pd.DataFrame({"snapshot_date": [1, 2] * 200, "good": p})
    rows["is_churned"] = (random.random(400) < p).astype(int)
    swapped = rows.assign(snapshot_date=3 - rows["snapshot_date"])
    assert calibration_by_day_plot(rows, "good").startswith(b"\x89PNG")
    assert calibration_by_day_plot(rows, "good") != calibration_by_day_plot(swapped, "good")


def test_deciles_are_drawn_from_the_numbers() -> None:
    money = np.random.default_rng(1).gamma(1, 20, 400)
    table = deciles(money, money)
    assert decile_plot(table, 90).startswith(b"\x89PNG")
    assert decile_plot(table, 90) == decile_plot(table, 90)
    assert decile_plot(table, 90) != decile_plot(table.assign(actual_mean=1.0), 90)

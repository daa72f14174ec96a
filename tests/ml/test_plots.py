"""Pictures are PNG, are drawn from the numbers, and are the same bytes each time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ml.plots import decile_plot, evaluation_plots, importance_plot
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
    assert importance_plot(table).startswith(b"\x89PNG")


def test_deciles_are_drawn_from_the_numbers() -> None:
    money = np.random.default_rng(1).gamma(1, 20, 400)
    table = deciles(money, money)
    assert decile_plot(table, 90).startswith(b"\x89PNG")
    assert decile_plot(table, 90) == decile_plot(table, 90)
    assert decile_plot(table, 90) != decile_plot(table.assign(actual_mean=1.0), 90)

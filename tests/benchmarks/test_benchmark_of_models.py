"""The benchmark command on shops that do not allow what is asked: it says so, and does the rest.

Belongs here: refusals, and the tables that it prints. Does not belong here: fits and formulas; they
are those of a training (tests/ml).
"""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from ml.features import INPUTS
from orchestration.resources.home import Home, Shop

ROOT = Path(__file__).resolve().parents[2]
HORIZON = 90
FIRST, LAST = date(2023, 1, 1), date(2023, 12, 31)


@pytest.fixture(scope="module")
def models() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks/models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(*days: date) -> Namespace:
    return Namespace(test_days=list(days), horizon=HORIZON, window=180, max_rows=1000)


def shop(last: date = LAST) -> Shop:
    return Shop("UTC", "EUR", FIRST, last, 180, HORIZON, source="contract")


def test_days_that_no_data_can_judge_are_left_out(
    models: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    step = timedelta(days=1)
    earliest, latest = FIRST + timedelta(days=HORIZON), LAST - timedelta(days=HORIZON)
    args = asked(earliest, earliest + step, latest, latest + step)
    models.leave_out(args, shop())
    assert args.test_days == [earliest + step, latest]
    told = capsys.readouterr().out
    assert told.startswith(f"{earliest}, {latest + step}: left out. Orders are known from {FIRST}")
    models.leave_out(args, shop())
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match=r"^no test day is left$"):
        models.leave_out(asked(LAST), shop())
    with pytest.raises(SystemExit, match="ask for a shorter --horizon"):
        models.leave_out(asked(date(2023, 4, 10)), shop(date(2023, 5, 1)))


def test_what_the_data_do_not_allow_is_told_without_a_traceback(
    models: ModuleType, tmp_path: Path
) -> None:
    args = asked(date(2023, 6, 1))
    args.source, args.data, args.home = "contract", tmp_path, tmp_path / "home"
    args.timezone, args.currency = "UTC", "EUR"
    with pytest.raises(SystemExit, match=r"no files in orders/"), models.opened(args):
        raise AssertionError("there is nothing to open")


def test_a_test_day_with_too_little_before_it_is_left_out(
    models: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten customers: a training refuses, and so does its benchmark."""
    home = Home.create(tmp_path / "home", shop())
    early, days = date(2023, 6, 1), [date(2023, 3, 9) + timedelta(days=14 * k) for k in range(12)]
    rows = pd.DataFrame(
        [(day, f"{i:032x}") for day in days for i in range(10)],
        columns=["snapshot_date", "customer_key"],
    )
    rows = rows.assign(**dict.fromkeys((set(INPUTS) - {"day_of_year"}), 1.0))
    rows["matured_date"] = [day + timedelta(days=HORIZON) for day in rows["snapshot_date"]]
    rows["is_churned"] = np.arange(len(rows)) % 2
    rows["was_contacted"] = False
    unknown = date(2023, 2, 15)
    with pytest.raises(SystemExit, match="no test day is left to measure on"):
        models.predict(rows, INPUTS, asked(unknown, early, days[-1]), home)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{unknown} is left out: it has no customers")
    assert told[1].startswith(f"{early} is left out: history is too short")
    assert told[2].startswith(f"{days[-1]} is left out, as in a training: {days[-1]}: ")
    assert told[2].endswith("earlier rows, at least 500 are needed")


def test_every_candidate_stands_in_every_table(
    models: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    from ml.metrics import ProfitModel

    random = np.random.default_rng(5)
    days = [date(2023, 6, 1), date(2023, 7, 1)]
    p = random.random(400)
    rows = pd.DataFrame(
        {
            "snapshot_date": np.repeat(days, 200),
            "customer_key": [f"{i % 200:032x}" for i in range(400)],
            "is_churned": (random.random(400) < p).astype(int),
            models.MARGIN: 30.0,
            "good": p,
            "logistic_rfm": random.random(400),
        }
    )
    names = ["good", "logistic_rfm"]
    at = {(name, day): {"capacity": 0.9, "roc": 0.5} for name in names for day in days}
    models.report(rows, names, at, 50, ProfitModel(accept_rate=0.5))
    told = capsys.readouterr().out
    caught = int(((p >= 0.9) & (rows["is_churned"] == 1)).sum())
    by_capacity = told.split("At the threshold by capacity")[1].split("At the threshold by roc")[0]
    assert f"| good | {caught:,} | " in by_capacity
    assert told.count("| good |") == 7  # metrics, others, bias, two thresholds, profit, difference
    assert told.count("| logistic_rfm |") == 6  # no difference from itself
    assert "keeping 50.0% of those who would leave (assumed" in told

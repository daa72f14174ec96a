"""Hillstrom's e-mail test as uplift learners see it: one arm against none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

WOMEN, MEN, NONE = "Womens E-Mail", "Mens E-Mail", "No E-Mail"
MARGIN, CONTACT = 0.4, 0.1
PROPENSITY = 0.5  # of either mail against none: three arms of a third


@dataclass(frozen=True)
class Trial:
    """Units of one arm and the control. There are no customer ids: each row is a unit."""

    X: pd.DataFrame
    frame: pd.DataFrame
    treatment: np.ndarray
    units: pd.Series

    def outcome(self, name: str = "visit") -> np.ndarray:
        return self.frame[name].to_numpy(dtype="float64")

    @property
    def churn_risk(self) -> np.ndarray:
        """The shop's churn ranking: the longer silent, the riskier."""
        return self.frame["recency"].to_numpy(dtype="float64")

    def rows(self, chosen: np.ndarray) -> Trial:
        return Trial(
            self.X[chosen].reset_index(drop=True),
            self.frame[chosen].reset_index(drop=True),
            self.treatment[chosen],
            self.units[chosen].reset_index(drop=True),
        )


def read(folder: Path, arm: str) -> Trial:
    """Read `<folder>/hillstrom.parquet`: the units of `arm` and of the control."""
    frame = pd.read_parquet(folder / "hillstrom.parquet")
    units = pd.Series([f"row {i}" for i in range(len(frame))])
    mine = frame["segment"].isin([arm, NONE]).to_numpy()
    frame = frame[mine].reset_index(drop=True)
    numbers = frame[["recency", "mens", "womens", "newbie"]].astype("float64")
    numbers["history"] = np.log1p(frame["history"])
    kinds = pd.get_dummies(frame[["zip_code", "channel"]], dtype="float64")
    return Trial(
        pd.concat([numbers, kinds], axis=1),
        frame,
        frame["segment"].eq(arm).to_numpy(dtype="int64"),
        units[mine].reset_index(drop=True),
    )


def profit(trial: Trial) -> np.ndarray:
    """What each unit brought: margin assumed 40 % of spend, a mail costs 0.10."""
    return MARGIN * trial.outcome("spend") - CONTACT * trial.treatment

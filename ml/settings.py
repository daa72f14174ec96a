"""What a shop may set of a training of churn.

Belongs here: the settings that fits, comparison and records share. Does not belong here: what is
tried of each recipe (ml.candidates), who sets what (orchestration).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ml.metrics import ProfitModel


@dataclass(frozen=True)
class TrainingSettings:
    """Everything about a training that a shop may set."""

    n_origins: int = 3
    max_rows: int = 60_000
    snapshot_spacing_days: int = 14
    # test snapshots are at least this far apart, and together span two disjoint horizons
    origin_spacing_days: int = 30
    # labels must span this many days at least: a shorter history is compared with nothing
    later_days: int = 28
    # Calibration is over the last year, lest a season be taken for a fault of the model: on seven
    # test days of Online Retail II the average's Brier score was .1865 so, .1882 on 28 days.
    calibration_window_days: int = 365
    # below these a fit is noise: Segment asks for 100 of each class, Klaviyo for 500 buyers
    min_rows: int = 500
    min_class_rows: int = 50
    n_resamples: int = 1000
    capacity_share: float = 0.1
    profit: ProfitModel = field(default_factory=ProfitModel)
    # which challenger of the quarter this one is, and so which error it may spend
    attempt: int = 1
    margin_rate: float = 0.4  # of revenue, where a customer's margin is unknown

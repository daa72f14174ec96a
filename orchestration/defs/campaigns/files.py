"""Campaign files of a home, and the files that leave it.

What belongs here: reading `campaigns/*.yaml`, and writing exports safe against spreadsheet
formulas. What a campaign means and who may be exported is in `ml/campaigns/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestration.resources.home import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from ml.campaigns.definition import Campaign
    from orchestration.resources.home import Home


def read_campaigns(home: Home) -> tuple[Campaign, ...]:
    """Return the campaigns of a home, by id.

    Raises:
        CampaignError: naming file, line or field.
    """
    from ml.campaigns.definition import load_campaigns

    files = sorted(home.campaigns.glob("*.yaml"))
    return load_campaigns((path.name, path.read_text(encoding="utf-8")) for path in files)


def write_csv(folder: Path, name: str, frame: pd.DataFrame) -> Path:
    """Write a CSV that no spreadsheet takes for a formula; return its path."""
    from ml.campaigns.export import csv_bytes

    path = folder / name
    write_atomically(path, csv_bytes(frame))
    return path

"""The demo runs two campaigns to their end, and says what they earned: is it true?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tiny_shop import ENVIRONMENT

from orchestration.cli import main
from orchestration.demo import CAMPAIGNS, KNOWN_SECRET, TRUE_METRICS, _truths
from orchestration.resources.platform import Platform
from orchestration.tables import CAMPAIGN_RESULTS

if TYPE_CHECKING:
    from pathlib import Path

# Beyond it one of 12 readings would lie in one of 80 such demos, if errors are what they say.
SURE = 3.3


@pytest.mark.slow
def test_what_the_demo_measures_is_what_the_simulated_shop_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo as a user runs it: every metric of every arm lies about the truth as its error says.

    The default size, since chance is not excluded: of 4,000 customers, 7.1 % of one arm of 210
    would have come back without any message, and 14.9 % of its control, by the draw alone.
    """
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    for name in ENVIRONMENT:  # as a user runs it, and not as the tiny shop is
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOLDFAST_SECRET", KNOWN_SECRET)
    assert main(["demo"]) == 0
    text = (tmp_path / "home" / "summary.txt").read_text()
    assert text in capsys.readouterr().out
    platform = Platform(root=str(tmp_path / "home"))
    results = platform.lake.read_frame(CAMPAIGN_RESULTS)
    assert results["campaign_id"].nunique() == len(CAMPAIGNS)
    last = results.sort_values("snapshot_date").drop_duplicates(
        ["campaign_id", "arm", "metric"], keep="last"
    )
    assert last["is_final"].all(), "all have run to their end"
    assert last["effect"].notna().all()
    profit = last[last["metric"] == "profit_amount"]
    assert profit["shrunken_effect"].notna().all()

    truths = _truths(platform.home, last)
    known = last.set_index(["campaign_id", "arm", "metric"]).loc[list(truths)]
    assert len(known) == 3 * len(TRUE_METRICS), "a reminder and a coupon, and another reminder"
    true = known.index.map(truths).to_numpy(dtype="float64")
    off = ((known["effect"] - true) / known["standard_error"]).abs()
    assert off.max() < SURE, off.to_dict()
    held = known["effect_low"].le(true) & known["effect_high"].ge(true)
    told = re.findall(r"intervals that hold the simulated truth: (\d+) of (\d+)", text)
    assert [sum(map(int, counts)) for counts in zip(*told, strict=True)] == [held.sum(), len(known)]
    primary = held[held.index.get_level_values("metric") == "retained"]
    assert primary.sum() >= len(primary) - 1

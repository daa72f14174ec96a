"""`dbt-docs`: one page that describes the mart, made without a network and telling nobody."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING

from orchestration.cli import main
from orchestration.resources.home import Home, Shop

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_docs_of_a_new_home_are_one_page_that_tells_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home.create(tmp_path / "home", Shop("Europe/Berlin", "EUR", date(2024, 1, 1)))
    monkeypatch.setenv("HOLDFAST_HOME", str(home.root))

    assert main(["dbt-docs"]) == 0

    page = home.dbt_target / "static_index.html"
    assert capsys.readouterr().out.strip() == page.as_uri()
    assert "What a model may know: one row per customer" in page.read_text(encoding="utf-8")
    manifest = json.loads((home.dbt_target / "manifest.json").read_text(encoding="utf-8"))
    # The page reports its visitors to dbt's maker unless this says no.
    assert manifest["metadata"]["send_anonymous_usage_stats"] is False
    features = manifest["nodes"]["model.holdfast.customer_features"]
    assert "2024-01-01" in features["compiled_code"]

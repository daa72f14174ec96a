"""The generated documents are those that the code makes now, and the generator refuses gaps."""

from __future__ import annotations

from pathlib import Path

import pytest

import ml.features
from docs import generate


@pytest.mark.parametrize("path", generate.GENERATED, ids=lambda path: path.name)
def test_committed_documents_are_the_generated_ones(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generate.GENERATED[path](), (
        "run `python -m docs.generate`"
    )


def test_a_feature_without_a_reason_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ml.features, "FEATURES", (*ml.features.FEATURES, "phase_of_moon_30d"))
    with pytest.raises(KeyError, match="add a reason for 'phase_of_moon'"):
        generate.feature_catalogue()


def test_a_feature_whose_days_nobody_knows_is_refused() -> None:
    with pytest.raises(KeyError, match="phase_of_moon: add its window"):
        generate.window("phase_of_moon")


def test_windows_are_read_from_the_names() -> None:
    assert generate.window("order_count_30d") == "last 30 days"
    assert generate.window("order_count_lifetime") == "all history"
    assert generate.measure("order_count_30d") == "order_count"
    assert generate.measure("gap_p90_days") == "gap_p90"


def test_needed_columns_stand_out() -> None:
    text = generate.source_contract()
    assert "| [orders](#orders) | yes | **order_id**, **customer_id**, **ordered_at**," in text
    assert "| [events](#events) | no |" in text
    assert "| email | string | E-mail address. *Identifier.* |" in text

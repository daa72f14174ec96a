"""`demo --fresh` throws away the home of a demo, and no other."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest

from orchestration.demo import KNOWN_SECRET, _begin_with_known_secret, _throw_away, demo
from orchestration.resources.home import Home, HomeError, Shop

if TYPE_CHECKING:
    from pathlib import Path

LAST = date(2025, 6, 30)


def _home(root: Path, source: str, last_day: date | None) -> Home:
    shop = Shop("Europe/Berlin", "EUR", date(2024, 1, 1), last_day, source=source)
    return Home.create(root, shop)


@pytest.mark.parametrize(("source", "last_day"), [("contract", LAST), ("contract", None)])
def test_a_shop_survives_a_fresh_demo_of_the_simulated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, last_day: date | None
) -> None:
    home = _home(tmp_path / "shop", source, last_day)
    monkeypatch.setenv("HOLDFAST_HOME", str(home.root))
    with pytest.raises(HomeError, match="was not made by a demo of simulated"):
        demo("simulated", None, 10, fresh=True)
    assert Home.open(home.root) == home


def test_a_live_shop_survives_a_fresh_demo_of_its_own_source(tmp_path: Path) -> None:
    home = _home(tmp_path / "shop", "contract", None)
    with pytest.raises(HomeError, match="not thrown away"):
        _throw_away(home, "contract")
    assert Home.exists(home.root)


def test_the_home_of_an_earlier_demo_goes(tmp_path: Path) -> None:
    home = _home(tmp_path / "shop", "simulated", LAST)
    _throw_away(home, "simulated")
    assert not home.root.exists()


def test_a_demo_begins_with_the_known_key_unless_one_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_SECRET", "given-by-the-environment")
    home = _home(tmp_path / "shop", "simulated", LAST)
    _begin_with_known_secret(home)
    assert not (home.root / "secret.key").exists()
    monkeypatch.delenv("HOLDFAST_SECRET")
    _begin_with_known_secret(home)
    assert home.secret() == KNOWN_SECRET.encode()

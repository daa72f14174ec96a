"""A home in a temporary folder, and what touches a disk in it."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from small_tables import publisher_of

from orchestration.resources.catalog import Catalog
from orchestration.resources.home import Home, Shop
from orchestration.resources.lake import Lake

if TYPE_CHECKING:
    from pathlib import Path

    from orchestration.resources.publishing import Publisher


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A shop in Berlin with ten days in March 2024."""
    shop = Shop("Europe/Berlin", "EUR", date(2024, 3, 1), date(2024, 3, 10))
    return Home.create(tmp_path / "home", shop)


@pytest.fixture
def lake(home: Home) -> Lake:
    return Lake(home.lake, Catalog(home.catalog))


@pytest.fixture
def publisher(home: Home, lake: Lake) -> Publisher:
    return publisher_of(home.staging, lake)

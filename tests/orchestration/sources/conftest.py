"""A shop that has delivered the three required tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from delivering import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path / "shop")
    shop.deliver_required()
    yield shop
    shop.connection.close()

"""Fixtures of the campaign tests; what they are made of lies in small_shop.py."""

from __future__ import annotations

import pytest
from small_shop import Shop, make_shop


@pytest.fixture
def shop() -> Shop:
    return make_shop()

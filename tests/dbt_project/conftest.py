"""Fixtures of the mart's tests: dbt, and a small world, made once."""

from __future__ import annotations

import pytest
from mart_project import Dbt
from raw_world import World, make_world


@pytest.fixture(scope="session")
def dbt(tmp_path_factory: pytest.TempPathFactory) -> Dbt:
    return Dbt(tmp_path_factory.mktemp("dbt"))


@pytest.fixture(scope="session")
def world() -> World:
    return make_world(seed=7)

"""One tiny shop, trained once and run once for all tests that only look; the others copy it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tiny_shop import (
    ENROLLED,
    ENVIRONMENT,
    SHOP,
    Enrolled,
    captured,
    copy_home,
    deliver,
    enrol,
    train,
)

from orchestration.resources.dbt import prepare_manifest
from orchestration.resources.home import Home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="package", autouse=True)
def environment() -> Iterator[None]:
    """Small training, a known secret, and the environment back as it was."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("DAGSTER_HOME", "")  # each run sets its own; forgotten at the end
        patch.setenv("HOLDFAST_WAREHOUSE", "")
        prepare_manifest()
        yield


@pytest.fixture(scope="package")
def trained(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A shop with a past and models, and no daily run yet. Read only."""
    home = Home.create(tmp_path_factory.mktemp("trained") / "home", SHOP)
    deliver(home, SHOP.first_day, ENROLLED.replace(day=ENROLLED.day + 1))
    return train(home)


@pytest.fixture(scope="package")
def enrolled(trained: Home, tmp_path_factory: pytest.TempPathFactory) -> Enrolled:
    """The same, five days and a campaign later. Read only."""
    home = copy_home(trained, tmp_path_factory.mktemp("enrolled") / "home")
    with captured() as log:
        shop = enrol(home)
    shop.log = log.getvalue()
    return shop


@pytest.fixture
def copy(enrolled: Enrolled, tmp_path: Path) -> Home:
    """A copy of the shop that a test may change."""
    return copy_home(enrolled.home, tmp_path / "copy")


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[str], Home]:
    """Make an empty home of the same shop."""

    def make(name: str) -> Home:
        return Home.create(tmp_path / name, SHOP)

    return make

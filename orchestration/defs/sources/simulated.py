"""The simulated shop as a source: what it delivers, written as landing files.

What belongs here: calling `ml.simulation`, telling it who was contacted, and writing its tables.
The shop is a shop, not an asset: it reads only cohorts published for earlier days, and what it
wrote records what it had read, so the graph has no cycle.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from ml.simulation import ShopConfig
    from orchestration.resources.home import Home

# The e-mail tool sends the morning after the cohort was assigned.
SENT_AT = time(9, 0)


def shop_config(home: Home, n_customers: int, seed: int) -> ShopConfig:
    """Return the simulated shop behind a home."""
    from ml.simulation import ShopConfig

    shop = home.shop
    return ShopConfig(
        seed=seed,
        n_customers=n_customers,
        first_day=shop.first_day,
        timezone=shop.shop_timezone,
        currency=shop.currency,
    )


def treatments(home: Home, before: date) -> pd.DataFrame | None:
    """Return who is contacted, and when, by the cohorts published for days before `before`."""
    import pandas as pd

    from ml.simulation.campaigns import CONTROL
    from orchestration.defs.campaigns.files import read_campaigns
    from orchestration.resources.platform import Platform
    from orchestration.tables import CAMPAIGN_COHORTS

    platform = Platform(root=str(home.root))
    days = [day for day in platform.lake.days(CAMPAIGN_COHORTS) if day < before]
    cohort = platform.lake.read_frame(CAMPAIGN_COHORTS, days)
    cohort = cohort[cohort["arm"].notna()].reset_index(drop=True)
    if cohort.empty:
        return None
    campaigns = {campaign.id: campaign for campaign in read_campaigns(home)}
    identities = platform.vault.identities(list(cohort["customer_key"]))
    known = {key: identity.customer_id for key, identity in identities.items()}
    zone = ZoneInfo(home.shop.shop_timezone)

    def sent(day: date) -> datetime:
        return datetime.combine(day + timedelta(days=1), SENT_AT, zone).astimezone(UTC)

    arms = [campaigns[c].arm(a) for c, a in zip(cohort["campaign_id"], cohort["arm"], strict=True)]
    return pd.DataFrame(
        {
            "campaign_id": cohort["campaign_id"],
            "customer_id": cohort["customer_key"].map(known),
            # Nothing is sent to a control, whatever the file calls it.
            "arm": [
                CONTROL if arm.name == campaigns[c].control_arm else arm.name
                for c, arm in zip(cohort["campaign_id"], arms, strict=True)
            ],
            "sent_at": pd.to_datetime([sent(day) for day in cohort["snapshot_date"]], utc=True),
            "channel": [campaigns[c].channels[0] for c in cohort["campaign_id"]],
            "is_coupon": [arm.play == "coupon" for arm in arms],
        }
    )


def simulate_into(
    home: Home,
    start: date,
    end: date,
    n_customers: int,
    seed: int,
    log: Callable[[str], None],
) -> int:
    """Let the shop deliver the files of [start, end) into landing/; return the rows written."""
    from ml.simulation import simulate
    from orchestration.defs.sources.contract import load_contract
    from orchestration.defs.sources.landing import write_landing
    from orchestration.resources.home import write_atomically

    config = shop_config(home, n_customers, seed)
    sent = treatments(home, start)
    tables = simulate(config, start, end, sent)
    contract, rows = load_contract(), 0
    name = f"{start}_{end - timedelta(days=1)}"
    for table in contract.tables:
        frame = tables[table.name]
        write_landing(home.landing, table, frame, name)
        rows += len(frame)
        log(f"{table.name}: {len(frame):,} rows")
    record = {
        "seed": seed,
        "n_customers": n_customers,
        "from": start.isoformat(),
        "to": end.isoformat(),
        "contacts_read": 0 if sent is None else len(sent),
    }
    write_atomically(
        home.root / "simulated" / f"{name}.json", json.dumps(record, indent=2).encode()
    )
    return rows

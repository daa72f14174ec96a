"""What the tests of the simulation share: ranges, keys, and a campaign to send."""

from __future__ import annotations

from datetime import date

import pandas as pd

from ml.simulation import ShopConfig

FIRST, LAST = date(2024, 1, 1), date(2025, 1, 1)
KEYS = {
    "customers": ["customer_id"],
    "consents": ["customer_id", "channel", "purpose", "changed_at"],
    "products": ["product_id"],
    "orders": ["order_id"],
    "order_items": ["order_id", "line_number"],
    "returns": ["return_id"],
    "coupons": ["code"],
    "events": ["event_id"],
    "support_tickets": ["ticket_id"],
    "reviews": ["review_id"],
    "inventory": ["product_id", "counted_at"],
    "deliveries": ["campaign_id", "customer_id", "sent_at"],
}


def moment(config: ShopConfig, day: date) -> pd.Timestamp:
    """The beginning of a shop day."""
    return pd.Timestamp(day, tz=config.timezone).tz_convert("UTC")


def valid_orders(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Orders of which a piece remains, by the tables alone."""
    orders, items = frames["orders"], frames["order_items"]
    left = (items["quantity"] - items["cancelled_quantity"]).groupby(items["order_id"]).sum()
    return orders[orders["cancelled_at"].isna() & (orders["order_id"].map(left) > 0)]


def campaign(
    config: ShopConfig, frames: dict[str, pd.DataFrame], day: date, is_coupon: bool = False
) -> pd.DataFrame:
    """Treat every other customer who bought in the 30 to 200 days before, control the rest."""
    orders = valid_orders(frames)
    begin = moment(config, day)
    last = orders[orders["ordered_at"] < begin].groupby("customer_id")["ordered_at"].max()
    silent = (begin - last).dt.days
    ids = silent.index[(silent >= 30) & (silent < 200)].sort_values()
    return pd.DataFrame(
        {
            "campaign_id": f"back-{day:%Y%m%d}-{int(is_coupon)}",
            "customer_id": ids,
            "arm": ["treated" if i % 2 else "control" for i in range(len(ids))],
            "sent_at": begin + pd.Timedelta(hours=9),
            "channel": "email",
            "is_coupon": is_coupon,
        }
    )

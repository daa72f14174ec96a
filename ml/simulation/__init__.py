"""The simulated shop: customers who buy until they leave, and the truth about them.

What belongs here: how simulated customers behave, the twelve tables of the source contract that a
shop would deliver about them, and what only a simulation can know (true churn probabilities, true
effects of a campaign). What does not: files, paths, orchestration, and anything that a model of the
platform could learn from; the platform sees the delivered tables and nothing else.

- `ShopConfig`: every knob, with its unit.
- `simulate`: the tables delivered in a half-open range of shop days.
- `truth`: the churn probability of each customer, given everything and given the observable part.
- `true_effects`: the expected effect of a campaign on the customers whom it was sent to.
"""

from ml.simulation.campaigns import true_effects
from ml.simulation.config import ShopConfig
from ml.simulation.customers import ResponseType
from ml.simulation.shop import TABLES, simulate
from ml.simulation.truth import observable_churn, truth

__all__ = [
    "TABLES",
    "ResponseType",
    "ShopConfig",
    "observable_churn",
    "simulate",
    "true_effects",
    "truth",
]

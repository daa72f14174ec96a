"""Two rules for one question: where the common horizon and the customer's own agree.

What belongs here: counting both labels against each other, and saying how far they agree. What does
not: the labels themselves (the mart `churn_labels`).

The common rule asks for an order within the horizon of the shop, the personal one within the
customer's own. Where the own horizon is longer than the shop's it has not matured, and the personal
label is null; such labels are counted, and are no part of the agreement. An own horizon that has
matured is no longer than the shop's, so whoever churned by the common rule has churned by the
personal one: all disagreement is of customers who came back later than their own rhythm allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

COMMON, PERSONAL = "is_churned", "is_churned_personal"
#: What a label may say; of the personal one None is a third answer, of the common one a fault.
ANSWERS: tuple[int | None, ...] = (0, 1, None)


@dataclass(frozen=True)
class Agreement:
    """How often each pair of answers was given.

    `counts` holds every (common, personal) pair of ANSWERS, absent ones as 0.
    """

    counts: dict[tuple[int | None, int | None], int]

    @property
    def label_count(self) -> int:
        """Return how many labels there are."""
        return sum(self.counts.values())

    @property
    def compared_count(self) -> int:
        """Return how many labels both rules answer."""
        return sum(self.counts[pair] for pair in ((0, 0), (0, 1), (1, 0), (1, 1)))

    @property
    def agreement_share(self) -> float | None:
        """Return the share of labels with the same answer, of those both rules answer."""
        if not self.compared_count:
            return None
        return (self.counts[0, 0] + self.counts[1, 1]) / self.compared_count

    @property
    def cohen_kappa(self) -> float | None:
        """Return Cohen's kappa (Cohen 1960): agreement beyond that of two independent rules.

        (p_o - p_e) / (1 - p_e); None where p_e is 1, since then both rules say one thing of
        everybody, and where no label is answered by both.
        """
        n = self.compared_count
        if not n:
            return None
        common = self.counts[1, 0] + self.counts[1, 1]
        personal = self.counts[0, 1] + self.counts[1, 1]
        # In whole numbers: n^2 times the agreement that chance alone would bring.
        chance = common * personal + (n - common) * (n - personal)
        if chance == n * n:
            return None
        observed = n * (self.counts[0, 0] + self.counts[1, 1])
        return (observed - chance) / (n * n - chance)

    def to_markdown(self) -> str:
        """Return the table for people: the common rule down, the personal one across."""
        names = {0: "stayed", 1: "churned", None: "not matured"}
        rows = [
            "| horizon | own: stayed | own: churned | own: not matured |",
            "| --- | ---: | ---: | ---: |",
        ]
        for common in ANSWERS:
            cells = [self.counts[common, personal] for personal in ANSWERS]
            if common is not None or any(cells):
                rows.append(f"| {names[common]} | {' | '.join(f'{c:,}' for c in cells)} |")
        share, kappa = self.agreement_share, self.cohen_kappa
        told = [
            "agreement " + ("unknown" if share is None else f"{share:.1%}"),
            "Cohen's kappa " + ("unknown" if kappa is None else f"{kappa:.3f}"),
            f"{self.compared_count:,} of {self.label_count:,} labels compared",
        ]
        return "\n".join([*rows, "", ", ".join(told)])


def agreement(labels: pd.DataFrame) -> Agreement:
    """Return how the two rules agree on labels with the columns `is_churned` and `..._personal`.

    Raises:
        ValueError: a label is neither 0, 1 nor null.
    """
    answers = labels[[COMMON, PERSONAL]].astype("Int64")
    known = answers.stack().dropna()
    if not known.isin([0, 1]).all():
        raise ValueError(f"labels are 0, 1 or null, not {sorted(set(known) - {0, 1})}")
    found = answers.value_counts(dropna=False).reset_index()
    counts = dict.fromkeys(((a, b) for a in ANSWERS for b in ANSWERS), 0)
    for common, personal, count in found.itertuples(index=False):
        counts[_answer(common), _answer(personal)] = int(count)
    return Agreement(counts)


def _answer(value: object) -> int | None:
    return None if pd.isna(value) else int(value)  # type: ignore[call-overload]

"""Looking before the end without fooling oneself: boundaries for planned looks, and a sequence.

What belongs here: alpha spending, boundaries, stagewise p-values, the confidence sequence. What
does not: when a look takes place, what information is (closed units; results.py).

Planned looks: Lan & DeMets (Biometrika 70(3), 1983) with the recursion of Armitage, McPherson &
Rowe (JRSS A 132(2), 1969), by Gauss-Legendre quadrature. Open-ended: the asymptotic confidence
sequence of Waudby-Smith et al. (Annals of Statistics 52(6), 2024), valid at every look at once and
for 1.97 times the sample of one look. Five planned looks cost 1.04 times (O'Brien-Fleming) to 1.21
times (Pocock), fourteen 1.06 to 1.26.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Spending = Literal["obrien_fleming", "pocock", "power"]
# Beyond it a two-sided z has p < 1e-15: no alpha worth spending.
_BEYOND = 8.0


def spent_alpha(fraction: float, alpha: float, spending: Spending = "obrien_fleming") -> float:
    """Share of the error that may be spent when `fraction` of the information is in.

    obrien_fleming: 2 - 2 Phi(z_{alpha/2} / sqrt(t)), next to nothing early. pocock:
    alpha log(1 + (e - 1) t), about as strict at each look. power: alpha t^2.
    """
    from scipy import special

    t = min(max(fraction, 0.0), 1.0)
    if t == 0.0:
        return 0.0
    if spending == "obrien_fleming":
        return float(2 * special.ndtr(special.ndtri(alpha / 2) / math.sqrt(t)))
    if spending == "pocock":
        return alpha * math.log1p((math.e - 1) * t)
    if spending == "power":
        return alpha * t**2
    raise ValueError(f"unknown spending function {spending!r}")


def boundaries(
    fractions: Sequence[float],
    alpha: float = 0.05,
    spending: Spending = "obrien_fleming",
    *,
    sides: Literal[1, 2] = 2,
    information: Sequence[float] | None = None,
) -> list[float]:
    """z at each look beyond which the null hypothesis is rejected; error `alpha` over all looks.

    fractions: information at each look over what is planned, rising; they set the alpha spent.
    information: what was really in at each look, in any unit (by default the fractions); it sets
    the correlation of the looks, and may exceed the plan. sides 1 rejects above only.
    """
    from scipy import optimize, special

    _check_looks(fractions)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    walk = _Walk(fractions if information is None else information, sides)
    found: list[float] = []
    spent = 0.0
    for fraction in fractions:
        now = spent_alpha(fraction, alpha, spending)
        step, spent = now - spent, now
        crossing = walk.crossing()
        if crossing(_BEYOND) >= step:
            bound = _BEYOND
        elif not found:
            bound = -float(special.ndtri(step / sides))
        else:
            bound = float(optimize.brentq(lambda z, f=crossing, s=step: f(z) - s, 0.0, _BEYOND))
        found.append(bound)
        walk.go_on(bound)
    return found


def crossing_probability(
    fractions: Sequence[float],
    bounds: Sequence[float],
    drift: float = 0.0,
    *,
    sides: Literal[1, 2] = 2,
) -> float:
    """Probability to cross a bound at any look; `drift` is the expected z at the last look."""
    _check_looks(fractions)
    walk = _Walk(fractions, sides, drift)
    total = 0.0
    for bound in bounds:
        total += walk.crossing()(bound)
        walk.go_on(bound)
    return total


def stagewise_p_value(information: Sequence[float], bounds: Sequence[float], z: float) -> float:
    """Two-sided p-value of `z` at the last of `information`, no bound having been crossed before.

    Stagewise ordering: what crossed earlier is more extreme, then what lies further out. `bounds`
    are those of the looks before.
    """
    _check_looks(information)
    walk = _Walk(information, 2)
    total = 0.0
    for bound in bounds:
        total += walk.crossing()(bound)
        walk.go_on(bound)
    return min(1.0, total + walk.crossing()(abs(z)))


def sample_inflation(
    fractions: Sequence[float],
    spending: Spending = "obrien_fleming",
    *,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """How many times the sample of one look the planned looks need for the same power."""
    from scipy import optimize, special

    bounds = boundaries(fractions, alpha, spending)
    fixed = -float(special.ndtri(alpha / 2)) + float(special.ndtri(power))
    needed = optimize.brentq(
        lambda drift: crossing_probability(fractions, bounds, drift) - power, 0.1, 4 * fixed
    )
    return float((needed / fixed) ** 2)


def sequence_rho(planned_n: int, alpha: float = 0.05) -> float:
    """Mixture parameter that makes the sequence tightest near `planned_n` units."""
    logs = -2 * math.log(alpha)
    return math.sqrt((logs + math.log(logs + 1)) / planned_n)


def confidence_sequence(
    effect: float, standard_error: float, n: int, planned_n: int, alpha: float = 0.05
) -> tuple[float, float, float]:
    """Interval and p-value that hold at every look together: (low, high, p).

    effect and standard_error: of the n units of both arms so far. planned_n: where it is tightest;
    any choice is valid as long as it was made beforehand. The p-value is 1 / e, at most 1, of the
    normal mixture; it stays valid however often one looks.
    """
    if n < 1 or planned_n < 1:
        raise ValueError(f"units must be counted from 1, got n={n} and planned_n={planned_n}")
    rho = sequence_rho(planned_n, alpha)
    r = n * rho**2
    half = (
        standard_error
        * math.sqrt(n)
        * math.sqrt(2 * (r + 1) / (n * rho) ** 2 * math.log(math.sqrt(r + 1) / alpha))
    )
    z = effect / standard_error
    log_e = z * z * r / (2 * (r + 1)) - 0.5 * math.log(r + 1)
    return effect - half, effect + half, math.exp(-log_e) if log_e > 0 else 1.0


def sequence_error(n: int, planned_n: int, alpha: float = 0.05) -> float:
    """Two-sided error of a single look that asks for the z which the sequence asks for at n."""
    from scipy import special

    _, high, _ = confidence_sequence(0.0, 1.0, n, planned_n, alpha)
    return 2 * float(special.ndtr(-high))


class _Walk:
    """The score process B(t) = z sqrt(t), as far as no bound has been crossed."""

    def __init__(
        self, information: Sequence[float], sides: Literal[1, 2], drift: float = 0.0
    ) -> None:
        _check_looks(information)
        self._t = [float(t) / float(information[-1]) for t in information]
        self._sides = sides
        self._drift = drift
        self._look = 0
        self._at: Array = np.zeros(1)
        self._mass: Array = np.ones(1)

    def crossing(self) -> Callable[[float], float]:
        """Probability to cross at this look, as a function of the bound on z."""
        from scipy import special

        t, sd, mean = self._step()

        def probability(bound: float) -> float:
            edge = bound * math.sqrt(t)
            out = special.ndtr((mean - edge) / sd)
            if self._sides == 2:
                out = out + special.ndtr((-edge - mean) / sd)
            return float(self._mass @ out)

        return probability

    def go_on(self, bound: float) -> None:
        """Keep what has not crossed, and go to the next look."""
        t, sd, mean = self._step()
        edge = min(bound, _BEYOND) * math.sqrt(t)
        centre = self._drift * t
        reach = (_BEYOND + 1) * math.sqrt(t)
        low = max(-edge, centre - reach) if self._sides == 2 else centre - reach
        high = min(edge, centre + reach)
        # Six nodes per standard deviation of the next step integrate it to 1e-10.
        following = self._t[self._look + 1] - t if self._look + 1 < len(self._t) else t
        count = max(64, math.ceil(6 * (high - low) / math.sqrt(min(following, sd**2))))
        nodes, weights = _legendre(min(count, 4_000))
        at = (high - low) / 2 * nodes + (high + low) / 2
        gap = (at[:, None] - mean[None, :]) / sd
        density = np.exp(-0.5 * gap**2) @ self._mass / (sd * math.sqrt(2 * math.pi))
        self._at, self._mass = at, density * weights * (high - low) / 2
        self._look += 1

    def _step(self) -> tuple[float, float, Array]:
        before = self._t[self._look - 1] if self._look else 0.0
        t = self._t[self._look]
        return t, math.sqrt(t - before), self._at + self._drift * (t - before)


def _legendre(count: int) -> tuple[Array, Array]:
    from scipy import special

    nodes, weights = special.roots_legendre(count)
    return np.asarray(nodes), np.asarray(weights)


def _check_looks(fractions: Sequence[float]) -> None:
    if not fractions or fractions[0] <= 0 or any(b <= a for a, b in pairwise(fractions)):
        raise ValueError(f"looks need rising information above 0, got {list(fractions)}")

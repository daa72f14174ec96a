"""Random numbers by hashing: a draw is a function of who, what and when, never of what came before.

What belongs here: 64-bit keys, uniforms made of them, and quantile transforms. What does not:
meaning. No generator has a state, so a draw does not depend on how many others were taken, in which
order, by which chunk of days or with which other customers beside it.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014, variant 13 of Stafford), applied once to the counter and once to the key.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]

_C1, _C2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S0, _S1, _S2 = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xD1342543DE82EF95),
    np.uint64(0xAEF17502108EF2D9),
)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


class Stream(IntEnum):
    """What a draw is for: two purposes never share their random numbers.

    Members are numbered in order, so a new one goes to the end: elsewhere it changes every shop.
    """

    CUSTOMER = auto()
    PRODUCT = auto()
    CREATED = auto()
    TRAIT = auto()
    PROFILE = auto()
    START = auto()
    ORDER = auto()
    ORDER_KEY = auto()
    LEAVE = auto()
    FADE = auto()
    SESSION = auto()
    SESSION_KEY = auto()
    FATE = auto()
    BASKET = auto()
    LINE = auto()
    LINE_KEY = auto()
    EVENT = auto()
    COUPON = auto()
    CONSENT = auto()
    NEWSLETTER = auto()
    RESPONSE = auto()
    CONTACT = auto()
    REPLICATE = auto()
    STOCK = auto()
    TEXT = auto()
    PARTICLE = auto()


def _mix(x: Keys) -> Keys:
    x = (x ^ (x >> _30)) * _C1
    x = (x ^ (x >> _27)) * _C2
    return x ^ (x >> _31)


def derive(keys: Any, stream: Stream, a: Any = 0, b: Any = 0) -> Keys:
    """Make keys of `keys` for one purpose and two counters (each a number or an array).

    The result broadcasts the shapes of `keys`, `a` and `b`.
    """
    # arrays throughout: numpy warns of the wanted overflow for scalars only
    counter = (
        np.asarray([int(stream)], np.uint64) * _S0
        + np.atleast_1d(np.asarray(a, np.uint64)) * _S1
        + np.atleast_1d(np.asarray(b, np.uint64)) * _S2
    )
    return _mix(np.atleast_1d(np.asarray(keys, np.uint64)) ^ _mix(counter))


def uniform(keys: Any, stream: Stream, a: Any = 0, b: Any = 0) -> Floats:
    """Draw uniforms on [0, 1) with 53 bits, one for each key; see `derive`."""
    return (derive(keys, stream, a, b) >> _11).astype(np.float64) * 2.0**-53


def name_key(name: str) -> int:
    """Return the 64-bit key of a name (SHA-256, so it is the same in every process)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def gamma(u: Floats, shape: float | Floats) -> Floats:
    """Quantiles of a gamma distribution of mean 1 and the given shape."""
    from scipy.special import gammaincinv

    return np.asarray(gammaincinv(shape, u) / shape, np.float64)


def exponential(u: Floats) -> Floats:
    """Quantiles of the exponential distribution of mean 1."""
    return -np.log1p(-u)


def normal(u: Floats) -> Floats:
    """Quantiles of the standard normal distribution, cut at 2^-54 from either end."""
    from scipy.special import ndtri

    return np.asarray(ndtri(u + 2.0**-54), np.float64)

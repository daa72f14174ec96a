"""One thread for fits and scores, so that the same input gives the same bytes on every machine.

Belongs here: confining BLAS and OpenMP. Does not belong here: threads of our own (ml.fitting).
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Confine BLAS and OpenMP to one thread, so that sums have one order on every machine."""
    return _libraries().limit(limits=1)


@functools.cache
def _libraries() -> ThreadpoolController:
    """Return what there is to confine, looked for once, since it takes 3 ms.

    Only libraries that are loaded are found, so scikit-learn's OpenMP comes first: without it the
    first fit of a process ran on all cores, and on a busy machine took 26 s instead of 1.
    """
    import sklearn.ensemble  # noqa: F401

    return ThreadpoolController()

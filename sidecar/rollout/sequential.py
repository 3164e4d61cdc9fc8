"""Gives a hopeless candidate up at once: Wald's sequential probability ratio test on its failures, looked at after every few RPCs.

Why not the checks of `analysis`? They are made once an interval, and a candidate that fails everything would fail for minutes. A test
that is made again and again finds something in the end, by chance; this one may be made after every single RPC (the likelihood ratio of
a candidate that is as good as demanded exceeds 1/α with a probability below α, however often it is looked at: Ville's inequality).
"""

from __future__ import annotations

import math

_FALSE_ALARMS = 1e-6
"""α: how probable it is that a candidate with no more failures than tolerated is ever given up."""
_FEWEST = 10
"""RPCs before any verdict: a connection that breaks takes a few with it, and is no verdict on a version."""


def evidence(failed: int, total: int, tolerated: float) -> float:
    """The logarithm of how much better "most RPCs fail" explains what was seen than "`tolerated` (0 to 1) of them do"."""
    tolerated = min(max(tolerated, 0.01), 0.9)
    hopeless = (1 + tolerated) / 2
    return failed * math.log(hopeless / tolerated) + (total - failed) * math.log((1 - hopeless) / (1 - tolerated))


def is_hopeless(failed: int, total: int, tolerated: float) -> bool:
    """Is it beyond doubt that a candidate, of whose `total` RPCs `failed` did, fails far more than `tolerated`?"""
    return total >= _FEWEST and evidence(failed, total, tolerated) >= -math.log(_FALSE_ALARMS)

"""How far a sender may run ahead of us: receive windows and their growth.

Why grow at all? A fixed window of 64 KiB caps a stream at 64 KiB per round trip; a fixed large one lets a slow reader pin
that much memory on every stream. So windows start small and follow the measured bandwidth-delay product, up to a cap
(the method of gRPC's BDP estimator: bytes that arrive between a PING and its answer).
"""

from __future__ import annotations


class WindowGrowth:
    """The bandwidth-delay estimate of one connection. All sizes in bytes, times in seconds."""

    __slots__ = ("_cap", "probing", "window")

    def __init__(self, window: int, cap: int) -> None:
        self.window = window
        self._cap = cap
        self.probing = False

    def start(self, window: int) -> int:
        """The probe is over; returns after how many more bytes of DATA the next one is due."""
        self.probing = False
        if window >= self._cap:
            return 1 << 62
        return self.window // 2

    def answered(self, received: int) -> int:
        """`received` bytes came until the PING did; returns by how much each window grows (0 = not at all)."""
        # Two thirds of the window within one round trip: the window, not the sender, was the limit.
        if received * 3 < self.window * 2:
            return 0
        grown = min(self.window * 2, self._cap)
        growth = grown - self.window
        self.window = grown
        return growth

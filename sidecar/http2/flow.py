"""How far a sender may run ahead of us: receive windows and their growth.

Why grow at all? A fixed window of 64 KiB caps a stream at 64 KiB per round trip; a fixed large one lets a slow reader pin
that much memory on every stream. So windows start small and follow the measured bandwidth-delay product, up to a cap
(the method of gRPC's BDP estimator: bytes that arrive between a PING and its answer).
"""

from __future__ import annotations


class WindowGrowth:
    """The bandwidth-delay estimate of one connection. All sizes in bytes, times in seconds."""

    __slots__ = ("_cap", "_probing", "_sample", "_since", "_threshold", "window")

    def __init__(self, window: int, cap: int) -> None:
        self.window = window
        self._cap = cap
        self._probing = False
        self._sample = 0
        self._since = 0
        self._threshold = window // 2

    def received(self, size: int) -> bool:
        """Account `size` bytes of DATA; True = send a PING now and call `answered` when its answer comes."""
        if self._probing:
            self._sample += size
            return False
        self._since += size
        if self._since < self._threshold or self.window >= self._cap:
            return False
        self._since = 0
        self._sample = 0
        self._probing = True
        return True

    def answered(self) -> int:
        """The PING came back; returns by how much each window grows (0 = not at all)."""
        self._probing = False
        # Two thirds of the window within one round trip: the window, not the sender, was the limit.
        if self._sample * 3 < self.window * 2:
            return 0
        grown = min(self.window * 2, self._cap)
        growth = grown - self.window
        self.window = grown
        self._threshold = grown // 2
        return growth

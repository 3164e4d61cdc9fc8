"""Answers of reads, kept for a while: who asks the same again is not passed on, and who asks at the same time waits for one answer."""

from sidecar.policies.cache.policy import Cache

__all__ = ["Cache"]

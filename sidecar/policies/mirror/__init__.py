"""A copy of a share of the traffic to another cluster: what it answers is compared, counted, and given to nobody."""

from sidecar.policies.mirror.policy import Mirror

__all__ = ["Mirror"]

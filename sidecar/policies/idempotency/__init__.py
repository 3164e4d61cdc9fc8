"""Exactly one execution per key: what no retry, no restart and no impatient caller undoes.

At most one execution is started per key by us alone; there is exactly one effect when the agent honours the key and the fencing
token that it is given.
"""

from sidecar.policies.idempotency.policy import Idempotency

__all__ = ["Idempotency"]

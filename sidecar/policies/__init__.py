"""The order of enforcement on one RPC (behaviour: every position has its reason). One line here is all a new policy needs.

Request hooks run from the top, response hooks from the bottom. Identity, header hygiene and routing come before all of
them (`proxy/call.py`); attempts, with balancing and endpoints, come between request and response (`proxy/dispatch.py`).
"""

from __future__ import annotations

from typing import Any

from sidecar.policies.access_log import AccessLog
from sidecar.policies.audit.policy import Audit
from sidecar.policies.authz import Authz
from sidecar.policies.budget import Budget
from sidecar.policies.cache import Cache
from sidecar.policies.concurrency_limit import ConcurrencyLimit
from sidecar.policies.deadline import Deadline
from sidecar.policies.fault import Fault
from sidecar.policies.headers import Headers
from sidecar.policies.hedge import Hedge
from sidecar.policies.idempotency import Idempotency
from sidecar.policies.mask import Mask
from sidecar.policies.metrics import Metrics
from sidecar.policies.mirror import Mirror
from sidecar.policies.rate_limit import RateLimit
from sidecar.policies.retry import Retry
from sidecar.policies.tracing import Tracing
from sidecar.policies.validate import Validate
from sidecar.proxy.policy import Policy

ORDER: tuple[type[Policy[Any]], ...] = (
    Tracing,  # first, so last to see the end: its spans cover the whole of a call, and what others noted of it
    Fault,  # before all that decides: a fault stands for something that happened before us
    Deadline,  # before whatever may wait: waiting counts against the deadline
    ConcurrencyLimit,  # after the deadline, which bounds how long it waits; before whatever costs more than refusing
    Authz,  # before whatever takes something or answers: who may not call takes nothing and learns nothing
    Mask,  # the last to see an answer, as request hooks are undone in reverse: what stands below needs it unmasked (a charge)
    RateLimit,  # after authorization: who may not call uses nobody's share
    Budget,  # after rate limits: reserving may wait, and what is over its rate need not reserve
    Validate,  # after limits, which parsing must not get around; before whatever answers from memory or sends
    Cache,  # after all that may refuse: a kept answer needs the same right and rate; before a key is claimed for nothing
    Idempotency,  # after all that may refuse: a replay needs the same right, rate and form; before what changes the request
    Headers,  # after whatever decides: decisions are made on what the caller sent
    Mirror,  # after what changes the request and claims its key: the copy is what goes on, and no keyed call is copied
    Retry,  # owns what happens when an attempt ends; what it repeats has passed all of the above once
    Hedge,  # the other owner of attempts; a route has one of the two
    Audit,  # an observer; where it waits for room in its queue, only what all of the above let pass does
    AccessLog,  # an observer; its lines are about what the caller was told
    Metrics,  # an observer: sees how all of the above ended
)

"""Who may call what: identities, tokens, roles and rules; deny, then allow, then the default (gRFC A43, and roles).

`policy` gives the verdict, `rules` evaluates, `conditions` and `roles` are what rules ask of a caller, `jwt` verifies
tokens.
"""

from sidecar.policies.authz.policy import Authz, AuthzConfig

__all__ = ["Authz", "AuthzConfig"]

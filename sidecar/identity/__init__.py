"""Who a peer is: SPIFFE ids, facts of certificates, revocation, loading key material, and a development CA."""

"""The administration interface: probes, metrics, and what the sidecar knows about itself. Loopback unless a token is set."""

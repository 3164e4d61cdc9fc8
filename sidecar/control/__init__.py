"""What configures, starts, watches and repairs. Nothing in here touches a call; it replaces snapshots and reads counters."""

"""The data path: one call from its caller's stream to the agent's and back. No asyncio, no sockets, no configuration."""

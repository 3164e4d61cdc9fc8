"""Generated code of protos/agent/v1, beside the client that uses it."""

"""Generated code of protos/agent/v1, beside the server that uses it."""

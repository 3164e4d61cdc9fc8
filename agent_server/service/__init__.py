"""The gRPC side: the service, health, reflection, errors, and the life of the server."""

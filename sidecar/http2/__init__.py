"""Sans-IO HTTP/2 (RFC 9113, RFC 7541): bytes in, method calls out; bytes out through a list. No socket, clock, log, or gRPC."""

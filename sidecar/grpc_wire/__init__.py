"""What gRPC lays over HTTP/2 (grpc/grpc `doc/PROTOCOL-HTTP2.md`). Standard library only."""

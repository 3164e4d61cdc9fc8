"""What agents work with: databases and HTTP. A tool knows nothing of agents or gRPC messages."""

"""`workers: N`: processes that share the listeners' ports, and the one that looks after them.

The parent owns the addresses, the admin endpoint and the life of the workers; a worker is a whole sidecar on sockets that it
was given. A worker that dies loses its own connections only: what waits in its backlog is taken by the one that follows it.
"""

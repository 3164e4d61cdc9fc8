"""The TLS contexts of a generation: shared by whoever uses the same files, rebuilt in place when the files change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.transport.tls import ReloadingContext, TlsFiles, verify_peer_identity

if TYPE_CHECKING:
    import ssl

    from sidecar.config.root import ClusterConfig, ListenerConfig


@dataclass(frozen=True, slots=True)
class _Key:
    kind: str
    files: TlsFiles
    option: str


class Certificates:
    """Every context in use, by the files it was made of. Kept over reloads: connections find the current one at each handshake."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._contexts: dict[_Key, ReloadingContext] = {}
        self._asked: set[_Key] = set()

    def for_listener(self, config: ListenerConfig) -> Callable[[], ssl.SSLContext | None]:
        """A function that gives the context of this moment. Raises ValueError naming the file that cannot be used."""
        tls = config.tls
        if tls is None:
            return _no_context
        files = TlsFiles(tls.certificate, tls.private_key, tls.trusted_ca)
        context = self._keep(
            _Key("server", files, tls.client_certificate),
            lambda: ReloadingContext.server(files, tls.client_certificate, self._wall),
        )
        return lambda: context.current

    def for_cluster(self, config: ClusterConfig) -> Callable[[], ssl.SSLContext | None]:
        """The same for connections to a cluster."""
        tls = config.tls
        if tls is None:
            return _no_context
        files = TlsFiles(tls.certificate, tls.private_key, tls.trusted_ca)
        check_hostname = not tls.peer_identities
        context = self._keep(
            _Key("client", files, str(check_hostname)),
            lambda: ReloadingContext.client(files, self._wall, check_hostname=check_hostname),
        )
        return lambda: context.current

    def verifier(self, config: ClusterConfig) -> Callable[[bytes], str | None] | None:
        """What is wrong with an upstream's certificate, as far as the configuration names who may answer."""
        if config.tls is None or not config.tls.peer_identities:
            return None
        allowed = config.tls.peer_identities
        return lambda der: verify_peer_identity(der, allowed)

    def _keep(self, key: _Key, make: Callable[[], ReloadingContext]) -> ReloadingContext:
        self._asked.add(key)
        if key not in self._contexts:
            self._contexts[key] = make()
        return self._contexts[key]

    def sweep(self) -> None:
        """A generation is complete: drop what it did not ask for."""
        for key in self._contexts.keys() - self._asked:
            del self._contexts[key]
        self._asked.clear()

    def reload(self) -> tuple[int, list[str]]:
        """Look at the files again: (contexts replaced, what keeps others from being replaced)."""
        changed = sum(context.reload() for context in self._contexts.values())
        return changed, [context.problem for context in self._contexts.values() if context.problem is not None]

    @property
    def contexts(self) -> list[ReloadingContext]:
        return list(self._contexts.values())


def _no_context() -> None:
    return None

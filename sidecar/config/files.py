"""The files a configuration names: are they there, do they parse, do they belong together?

How a certificate is read is not known here; whoever calls brings the functions.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from sidecar.config.clusters import ClusterTlsConfig
from sidecar.config.listeners import ListenerTlsConfig
from sidecar.config.load import Loaded
from sidecar.config.problems import Problem

Loc: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True, slots=True)
class Loaders:
    """How to read what TLS needs. Each raises ValueError with the reason (no path, no content); OSError may pass."""

    certificate: Callable[[Path], object]
    """A certificate, and the chain after it."""
    private_key: Callable[[Path], object]
    trusted_ca: Callable[[Path], object]
    """One or several CA certificates."""
    pair: Callable[[Path, Path], object]
    """Certificate and private key; both are readable, do they match?"""


def check_files(loaded: Loaded, loaders: Loaders) -> list[Problem]:
    """Read every file that `loaded` names; what is wrong with them, each at the line that names it."""
    problems = [
        problem
        for loc, tls in _tls_sections(loaded)
        for problem in (loaded.problem(at, message) for at, message in _check_tls(loc, tls, loaders))
    ]
    return sorted(set(problems))


def _tls_sections(loaded: Loaded) -> Iterator[tuple[Loc, ListenerTlsConfig | ClusterTlsConfig]]:
    for index, listener in enumerate(loaded.root.listeners):
        if listener.tls is not None:
            yield ("listeners", index, "tls"), listener.tls
    for name, cluster in loaded.root.clusters.items():
        if cluster.tls is not None:
            yield ("clusters", name, "tls"), cluster.tls


def _check_tls(loc: Loc, tls: ListenerTlsConfig | ClusterTlsConfig, loaders: Loaders) -> Iterator[tuple[Loc, str]]:
    named = (
        ("certificate", tls.certificate, loaders.certificate),
        ("private_key", tls.private_key, loaders.private_key),
        ("trusted_ca", tls.trusted_ca, loaders.trusted_ca),
    )
    readable = set()
    for field, path, read in named:
        if path is None:
            continue
        message = _trouble(path, partial(read, path))
        if message:
            yield (*loc, field), f"`{path}` {message}"
        else:
            readable.add(field)
    certificate, key = tls.certificate, tls.private_key
    if certificate and key and {"certificate", "private_key"} <= readable:
        message = _trouble(key, partial(loaders.pair, certificate, key))
        if message:
            yield (*loc, "private_key"), f"`{key}` {message}"


def _trouble(path: Path, read: Callable[[], object]) -> str | None:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return "is a directory; name a PEM file"
        read()
    except FileNotFoundError:
        return "does not exist; name an existing PEM file (relative paths begin at the configuration file)"
    except PermissionError:
        return "may not be read by this user; give it read permission"
    except OSError as error:
        return f"cannot be read: {error.strerror or 'unknown reason'}; name a readable PEM file"
    except ValueError as error:
        return str(error).removeprefix(f"{path}: ")
    return None

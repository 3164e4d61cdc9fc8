"""`sidecar run --app … -- COMMAND`: the configuration that nobody had to write. Any gRPC server, in any language, with its sidecar."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.config.units import is_loopback, parse_address, parse_bind, parse_host_name

if TYPE_CHECKING:
    from pathlib import Path

_WITH_TLS = "0.0.0.0:8443"
_CLEAR = "127.0.0.1:8443"
_ADMIN = "127.0.0.1:9901"


class WithoutFileError(ValueError):
    """An option that is wrong, and what is allowed."""


@dataclass(frozen=True, slots=True)
class WithoutFile:
    """What the command line says."""

    app: str
    command: tuple[str, ...]
    certs: Path | None = None
    name: str | None = None
    bind: str | None = None
    admin: str | None = None

    def configuration(self) -> str:
        """The text of the configuration file. Raises WithoutFileError."""
        pair = self._pair()
        bind = _checked("--bind", parse_bind, self.bind or (_WITH_TLS if pair else _CLEAR))
        if pair is None and not is_loopback(bind):
            raise WithoutFileError(
                f"--bind {bind} can be reached from other machines, and without --certs there is no TLS; "
                "give --certs FOLDER (`sidecar certs` makes one), or bind to 127.0.0.1 or unix:/path"
            )
        listener: dict[str, Any] = {
            "name": "inbound",
            "direction": "inbound",
            "bind": bind,
            "routes": [{"name": "all", "match": {"method": "/*"}, "to": "local"}],
        }
        name = self.name
        if pair is not None:
            name = name or pair
            listener["tls"] = {
                "certificate": self._file(f"{pair}.crt"),
                "private_key": self._file(f"{pair}.key"),
                "trusted_ca": self._file("ca.crt"),
                "client_certificate": "require",
            }
        whole: dict[str, Any] = {
            "admin": {"bind": _checked("--admin", parse_bind, self.admin or _ADMIN)},
            "listeners": [listener],
            "clusters": {"local": {"endpoints": [_checked("--app", parse_address, self.app)]}},
            "agent": {"command": list(self.command)},
        }
        if name is not None:
            whole["node"] = {"name": _checked("--name", parse_host_name, name)}
        # `$` is how the file takes variables; here it is what was typed.
        return json.dumps(whole, indent=2, ensure_ascii=True).replace("$", "$$")

    def _pair(self) -> str | None:
        """NAME of the certificate and key to use; None = clear text."""
        if self.certs is None:
            return None
        if not (self.certs / "ca.crt").is_file():
            raise WithoutFileError(
                f"--certs {self.certs}: there is no ca.crt; make one with `sidecar certs ca --out {self.certs}`"
            )
        found = sorted(
            each.stem for each in self.certs.glob("*.crt") if each.stem != "ca" and each.with_suffix(".key").is_file()
        )
        if self.name is not None and self.name not in found:
            raise WithoutFileError(
                f"--certs {self.certs}: there is no {self.name}.crt with its {self.name}.key; found: {', '.join(found) or 'none'}"
            )
        if self.name is None and len(found) != 1:
            raise WithoutFileError(
                f"--certs {self.certs}: "
                + (
                    f"several certificates; choose one with --name: {', '.join(found)}"
                    if found
                    else f"no certificate with its key; make one with `sidecar certs issue NAME --ca {self.certs} --out {self.certs}`"
                )
            )
        return self.name or found[0]

    def _file(self, name: str) -> str:
        assert self.certs is not None
        return str((self.certs / name).absolute())


def _checked(option: str, parse: Any, text: str) -> str:
    try:
        checked: str = parse(text)
    except ValueError as error:
        raise WithoutFileError(f"{option} {text} {error}") from None
    return checked

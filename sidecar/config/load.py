"""Reads the configuration file: text → document → plain values → models; every problem found on the way, at once."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sidecar.config.checks import cross_checks, warnings
from sidecar.config.document import Node, UnreadableError, position, read_document
from sidecar.config.policies import Configured
from sidecar.config.problems import ConfigError, Located, Problem, dotted
from sidecar.config.root import Root, build_root, default_root
from sidecar.config.values import TooLargeError, plain_values
from sidecar.config.words import findings

MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that holds, and what its file was."""

    root: Root
    warnings: tuple[Problem, ...]
    source_hash: str
    """SHA-256 of the file's bytes, in hexadecimal."""
    files: tuple[Path, ...]
    """What the configuration depends on, itself first: watch these."""
    file: str
    document: Node

    def problem(self, loc: tuple[str | int, ...], message: str) -> Problem:
        """A problem with the value at `loc`, e.g. found when its file was read."""
        return _placed(Located(loc, message), self.document, self.file)


def load(
    path: Path,
    *,
    environ: Mapping[str, str],
    host: str | None = None,
    order: Iterable[type[Configured]] | None = None,
) -> Loaded:
    """Read, check and join the configuration at `path`. Certificates are not read here, see `files.check_files`.

    `environ` is what `${NAME}` takes; `host` is the default of `node.name`, else this machine's name; `order` are the
    policies that exist, else the built-in ones. Raises ConfigError with every problem.
    """
    source = _read(path)
    try:
        text = source.decode()
    except UnicodeDecodeError as error:
        line, column = position(source[: error.start].decode(), error.start)
        message = f"the byte 0x{source[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError([Problem(str(path), line, column, "", message)]) from None
    return parse(text, file=str(path), base=path.parent, environ=environ, host=host, order=order, source=path)


def parse(
    text: str,
    *,
    file: str = "config.yaml",
    base: Path | None = None,
    environ: Mapping[str, str] | None = None,
    host: str | None = None,
    order: Iterable[type[Configured]] | None = None,
    source: Path | None = None,
) -> Loaded:
    """Check and join the configuration in `text`; `file` is its name in problems, `base` where relative paths begin.

    Raises ConfigError with every problem.
    """
    document, problems = _document(text.removeprefix("\ufeff"), file)
    try:
        data, broken = plain_values(document, environ or {})
    except TooLargeError as error:
        message = "aliases (*name) make the configuration too large; use fewer of them"
        raise ConfigError([Problem(file, error.node.line, error.node.column, dotted(error.loc), message)]) from None
    problems += [_placed(each, document, file) for each in broken]
    model = default_root() if order is None else build_root(order)
    found = cross_checks(data)
    root = None
    try:
        root = _validated(model, data, base or Path.cwd(), host or platform.node() or "localhost")
    except ValidationError as error:
        found += findings(error.errors(include_url=False), model, document)
    # What could not be read must not be told again as being of a wrong type.
    unread = [each.loc for each in broken]
    problems += [
        _placed(each, document, file)
        for each in found
        if each.at_key or not any(each.loc[: len(loc)] == loc for loc in unread)
    ]
    if problems or root is None:
        raise ConfigError(problems)
    return Loaded(
        root=root,
        warnings=tuple(sorted(_placed(each, document, file) for each in warnings(root))),
        source_hash=hashlib.sha256(text.encode()).hexdigest(),
        files=tuple(dict.fromkeys([*([source] if source else []), *_paths(root)])),
        file=file,
        document=document,
    )


def _read(path: Path) -> bytes:
    def refuse(message: str) -> ConfigError:
        return ConfigError([Problem(str(path), 1, 1, "", message)])

    try:
        with path.open("rb") as opened:
            source = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise refuse("there is no such file; name an existing one") from None
    except IsADirectoryError:
        raise refuse("is a directory; name a file in it") from None
    except PermissionError:
        raise refuse("may not be read by this user; give it read permission") from None
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}; name a readable file") from None
    if len(source) > MAX_BYTES:
        raise refuse("is larger than 1MiB; no configuration is that large")
    return source


def _document(text: str, file: str) -> tuple[Node, list[Problem]]:
    try:
        document, problems = read_document(text, file)
    except UnreadableError as error:
        raise ConfigError([error.problem]) from None
    if document is None or (document.kind == "scalar" and not document.text):
        raise ConfigError([Problem(file, 1, 1, "", "is empty; at least listeners and clusters are needed")])
    if document.kind != "mapping":
        message = "must be a mapping at the top: node, admin, listeners, policies, clusters"
        raise ConfigError([Problem(file, document.line, document.column, "", message)])
    return document, problems


def _validated(model: type[Root], data: dict[str, Any], base: Path, host: str) -> Root:
    node = data.get("node", {})
    if isinstance(node, dict):
        data = data | {"node": {"name": host} | node}
    # As JSON, so that strict models take lists for tuples and text for paths, as a file has no other words for them.
    return model.model_validate_json(json.dumps(data), context={"directory": base.absolute()})


def _placed(located: Located, document: Node, file: str) -> Problem:
    node, loc = document.at(located.loc)
    path = loc if node.kind == "scalar" else located.loc
    if located.at_key and loc == located.loc and loc:
        parent = document.at(loc[:-1])[0]
        node = parent.fields[str(loc[-1])][0] if parent.kind == "mapping" else node
    return Problem(file, node.line, node.column, dotted(path), located.message)


def _paths(value: Any) -> Iterator[Path]:
    """Every file that is named in a model."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _paths(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _paths(each)

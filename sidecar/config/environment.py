"""`${NAME}` and `${NAME:-default}` in values of the configuration; `$$` is a dollar sign."""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|(\{[^}]*\}?))", re.ASCII)
_HELP = "write ${NAME} or ${NAME:-default}, and $$ for a dollar sign"


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """Put environment variables in. `:-` also replaces an empty one, as in a shell; what is put in is not read again.

    Raises ValueError: a variable without default is not set or not UTF-8, or `${` is not followed by a name and `}`.
    """

    def value(found: re.Match[str]) -> str:
        dollar, name, default, malformed = found.groups()
        if dollar:
            return "$"
        if malformed is not None:
            raise ValueError(f"has a ${{ that is not followed by a name and }}; {_HELP}")
        taken = environ.get(name)
        if default is not None and not taken:
            return str(default)
        if taken is None:
            raise ValueError(
                f"needs the environment variable {name}, which is not set; set it, or write ${{{name}:-default}}"
            )
        if not _is_text(taken):
            raise ValueError(f"takes the environment variable {name}, which is not UTF-8 text; set it to UTF-8 text")
        return taken

    return _REFERENCE.sub(value, text)


def _is_text(value: str) -> bool:
    # Bytes that are not UTF-8 arrive as lone surrogates (PEP 383).
    return not any("\ud800" <= character <= "\udfff" for character in value)

"""Masking: what looks like a secret does not get into anything we write, whoever put it into a message.

By default: card numbers (13 to 19 digits that pass Luhn), private keys in PEM, tokens (Bearer, Basic, JWT, the well-known
prefixes of keys), passwords in URLs, and the value of anything that is called a password, secret, token or key. What is
masked becomes `[masked]`; the words around it stay, so that a message can still be understood.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MASKED = "[masked]"

_NAMES = (
    r"(?:pass(?:word|wd|phrase|code)|secret|token|(?:api|access|private|signing|encryption|client)[_-]?key"
    r"|authorization|credential|cookie|credit[_-]?card|card[_-]?number|(?<![a-z])(?:pwd|cvv|cvc|ssn))s?(?![a-z])"
)
_has_secret_word = re.compile(_NAMES, re.IGNORECASE | re.ASCII).search

# A quick look whether anything below can match at all; most texts end here.
_SUSPICIOUS = re.compile(
    rf"[0-9](?:[ -]?[0-9]){{12}}|-----BEGIN|eyJ|://[^/\s]*@|{_NAMES}|bearer|basic|digest|negotiate|"
    r"sk[-_]|AKIA|ASIA|gh[opsur]_|github_pat_|glpat-|xox|AIza|hf_|npm_|pypi-",
    re.IGNORECASE | re.ASCII,
)
# Repetitions are bounded where many beginnings could share one end: whoever chooses the text does not choose our time.
_PEM = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{0,40}PRIVATE KEY[A-Z0-9 ]{0,40})-----.*?(?:-----END \1-----|\Z)", re.DOTALL | re.ASCII
)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{5,2048}\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*){0,3}", re.ASCII)
_SCHEME = re.compile(
    r"\b(bearer|basic|digest|negotiate)(\s{1,8})(?=[^\s,;\"']{0,64}[0-9=+/._-]|[^\s,;\"']{16})[^\s,;\"']{4,}",
    re.IGNORECASE | re.ASCII,
)
_USER_INFO = re.compile(r"(://)[^/\s@\"']*@", re.ASCII)
_KNOWN_KEY = re.compile(
    r"\b(?:sk[-_](?=[A-Za-z_-]{0,64}[0-9])[A-Za-z0-9_-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[opsur]_[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abeprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{30,}"
    r"|hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{20,}|pypi-[A-Za-z0-9_-]{20,})",
    re.ASCII,
)
_VALUE = r"(?P<value>\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|(?:(?:bearer|basic)\s+)?[^\s,;&\"'(){}]+)"
_NAMED = re.compile(
    rf"(?P<name>{_NAMES}[A-Za-z0-9_-]{{0,64}}[\"']?\s{{0,8}}[:=]\s{{0,8}}){_VALUE}",
    re.IGNORECASE | re.ASCII,
)
_CARD = re.compile(
    r"(?<![0-9])(?:[2-6][0-9]{12,18}|[2-6][0-9]{3}(?:[ -][0-9]{4}){2}[ -][0-9]{1,7}|3[0-9]{3}[ -][0-9]{6}[ -][0-9]{4,5})(?![0-9])",
    re.ASCII,
)


def mask(text: str) -> str:
    """`text` without what looks like a secret."""
    if _SUSPICIOUS.search(text) is None:
        return text
    text = _PEM.sub(MASKED, text)
    text = _NAMED.sub(_hide_value, text)
    text = _SCHEME.sub(rf"\1\2{MASKED}", text)
    text = _JWT.sub(MASKED, text)
    text = _USER_INFO.sub(rf"\1{MASKED}@", text)
    text = _KNOWN_KEY.sub(MASKED, text)
    return _CARD.sub(_hide_card, text)


def mask_value(value: Any) -> Any:
    """`value` (as of JSON: texts, numbers, mappings, sequences) with every text masked, and all under a secret name."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if mask(str(value)) == str(value) else MASKED
    if isinstance(value, Mapping):
        return {
            name: MASKED if isinstance(name, str) and is_secret_name(name) and each is not None else mask_value(each)
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_value(each) for each in value]
    return value


def hide_named(names: Iterable[str]) -> Callable[[str], str]:
    """A function that masks, in a text, the value of whatever bears one of `names` ("email=a@b", '"email": "a@b"')."""
    either = "|".join(map(re.escape, sorted(names)))
    named = re.compile(
        rf"(?P<name>(?<![A-Za-z0-9_])(?:{either})[\"']?\s{{0,8}}[:=]\s{{0,8}}){_VALUE}", re.IGNORECASE | re.ASCII
    )
    return functools.partial(named.sub, _hide_value)


def is_secret_name(name: str) -> bool:
    """Is something of this name (`db_password`, `x-api-key`) a secret?"""
    return _has_secret_word(name) is not None


def is_card_number(digits: str) -> bool:
    """Does the last digit check the others (ISO/IEC 7812-1, Luhn)?"""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _hide_value(found: re.Match[str]) -> str:
    value = found["value"]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{found['name']}{quote}{MASKED}{quote}"


def _hide_card(found: re.Match[str]) -> str:
    digits = found[0].replace(" ", "").replace("-", "")
    return MASKED if is_card_number(digits) else found[0]

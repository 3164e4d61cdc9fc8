"""Passwords: PBKDF2-HMAC-SHA256 with a salt each, compared in constant time. The hash says with which work it was made."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

ITERATIONS = 600_000
"""OWASP's recommendation for PBKDF2-HMAC-SHA256; above the 480,000 of older guides."""
_SALT_BYTES = 16
_MOST = 10_000_000


def hash_password(password: str, *, iterations: int = ITERATIONS) -> str:
    """`pbkdf2_sha256$iterations$salt$hash`. Takes some hundred milliseconds: call it in a thread."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    return f"pbkdf2_sha256${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def password_matches(password: str, hashed: str) -> bool:
    """Whether `hashed` was made of `password`. False as well for what is no hash of ours."""
    try:
        kind, count, salt, digest = hashed.split("$")
        iterations = int(count)
        raw_salt, raw_digest = base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
    except (ValueError, binascii.Error):
        return False
    if kind != "pbkdf2_sha256" or not 1 <= iterations <= _MOST:
        return False
    return hmac.compare_digest(hashlib.pbkdf2_hmac("sha256", password.encode(), raw_salt, iterations), raw_digest)


def needs_rehash(hashed: str) -> bool:
    """It was made with less work than is asked today."""
    parts = hashed.split("$")
    return len(parts) != 4 or not parts[1].isdigit() or int(parts[1]) < ITERATIONS

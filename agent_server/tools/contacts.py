"""E-mail addresses (email-validator) and telephone numbers (phonenumbers, E.164), checked and in their normal form."""

from __future__ import annotations

import phonenumbers
from email_validator import EmailNotValidError, validate_email


class ContactError(ValueError):
    """Not valid; the text says why and does not repeat it."""


def normal_email(text: str) -> str:
    """The address in its normal form, checked by syntax alone: nothing is looked up. Raises ContactError."""
    try:
        return validate_email(text, check_deliverability=False, test_environment=True).normalized
    except EmailNotValidError as error:
        raise ContactError(str(error).replace(text, "…")) from None


def normal_phone(text: str, region: str = "") -> str:
    """The number as +<country><number>. `region`: of numbers without +. Raises ContactError."""
    try:
        number = phonenumbers.parse(text, region or None)
    except phonenumbers.NumberParseException as error:
        raise ContactError(str(error).replace(text, "…")) from None
    if not phonenumbers.is_valid_number(number):
        raise ContactError("no number of its country's numbering plan")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)

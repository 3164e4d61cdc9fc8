"""Mail addresses and telephone numbers."""

from __future__ import annotations

import pytest

from agent_server.tools.contacts import ContactError, normal_email, normal_phone


def test_contacts() -> None:
    assert normal_email("Ann@EXAMPLE.com") == "Ann@example.com"
    assert normal_phone("030 23125-000", "DE") == "+493023125000"
    for wrong in (lambda: normal_email("ann@"), lambda: normal_phone("12"), lambda: normal_phone("+1 000")):
        with pytest.raises(ContactError):
            wrong()


def test_what_is_wrong_is_not_repeated() -> None:
    with pytest.raises(ContactError) as caught:
        normal_email("ann..smith@shop")
    assert "ann..smith" not in str(caught.value)

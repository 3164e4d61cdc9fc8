"""E-mail addresses and telephone numbers."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agent_server.agents.declare import Input, Output
from agent_server.tools.declare import Use, tool


class ContactInput(Input):
    """What to check; either may be empty."""

    email: str = Field(default="", max_length=320)
    phone: str = Field(default="", max_length=64)
    region: str = Field(default="", pattern=r"^([A-Z]{2})?$", description="Country of numbers without +.")


class ContactOutput(Output):
    """What was found; empty where it is not valid."""

    email: str = ""
    email_problem: str = ""
    phone: str = Field(default="", description="In E.164.")
    phone_problem: str = ""


@tool("contact.check", changes=False)
async def check(request: ContactInput, use: Use) -> ContactOutput:
    """Checks and normalises an e-mail address and a telephone number."""
    from agent_server.tools.contacts import ContactError, normal_email, normal_phone

    found: dict[str, Any] = {}
    for name, given, normal in (
        ("email", request.email, normal_email),
        ("phone", request.phone, lambda text: normal_phone(text, request.region)),
    ):
        if given:
            try:
                found[name] = normal(given)
            except ContactError as error:
                found[f"{name}_problem"] = str(error)
    return ContactOutput(**found)

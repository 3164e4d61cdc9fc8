"""What is asked for: which drill, for how long, how hard. Read from a query, checked in one go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from sidecar.config.model import Model
from sidecar.config.units import Duration, FailureCode, Percent, duration_between

if TYPE_CHECKING:
    from collections.abc import Mapping

Name = Literal["latency", "errors", "agent-crash", "store-loss", "cert-expiry", "partition"]
NAMES: tuple[Name, ...] = ("latency", "errors", "agent-crash", "store-loss", "cert-expiry", "partition")


class Order(Model):
    """One drill."""

    name: Name = Field(description="which")
    length: Annotated[Duration, duration_between("100ms", "10m")] = Field(
        default=30.0, alias="for", description="when it ends by itself"
    )
    percent: Percent = Field(default=50.0, description="latency, errors: the share of RPCs")
    delay: Annotated[Duration, duration_between("1ms", "1m")] = Field(
        default=0.5, description="latency: how long they wait"
    )
    status: FailureCode = Field(default="UNAVAILABLE", description="errors: with which code they fail")
    listener: str | None = Field(default=None, description="latency, errors, cert-expiry: only this one")
    route: str | None = Field(default=None, description="latency, errors: only this one")
    cluster: str | None = Field(default=None, description="partition: which; may be left out where there is one")
    endpoint: str | None = Field(default=None, description="partition: only this endpoint of it")
    by: str = Field(default="admin", max_length=100, description="who asks; kept in log and audit")


_ORDER = TypeAdapter(Order)


def order_from(query: Mapping[str, str]) -> Order:
    """Raises ValueError that names each field that is wrong, and how."""
    given: dict[str, object] = dict(query)
    if "percent" in given:
        try:
            given["percent"] = float(query["percent"])
        except ValueError:
            raise ValueError("percent: is no number; allowed: 0 to 100") from None
    try:
        return _ORDER.validate_python(given)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False))
        raise ValueError("; ".join(problems)) from None

"""The cost account as rows with the columns of FOCUS, for what allocates costs.

A subset of the FinOps Open Cost and Usage Specification (https://focus.finops.org): nothing is billed here,
so there is `EffectiveCost` and no `BilledCost`. Columns of our own begin with `x_`, as it asks for.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pilotlight.cost_account import By, CallerUse, ServiceCost, parts

_DIGITS = Decimal("1e-10")


@dataclass(frozen=True, slots=True)
class Row:
    """What one name caused of what one pool has cost, in the pool's current period."""

    ChargePeriodStart: datetime | None
    ChargePeriodEnd: datetime | None
    """Up to when it was counted."""
    ChargeCategory: str
    ServiceCategory: str
    ServiceName: str
    SubAccountId: str
    """The namespace."""
    ResourceId: str
    """`NAMESPACE/NAME` of the Knative Service."""
    ResourceName: str
    ResourceType: str
    EffectiveCost: Decimal
    BillingCurrency: str
    ConsumedQuantity: float | None
    """None: not counted by this name."""
    ConsumedUnit: str | None
    Tags: dict[str, str]
    x_AllocatedBy: str  # noqa: N815 - the specification's prefix and case
    """service, pool, agent, key, team or reason."""
    x_AllocatedTo: str  # noqa: N815
    """The Service, pool, agent, key, team or reason."""


def rows(costs: Iterable[ServiceCost], uses: Iterable[CallerUse], by: By) -> list[Row]:
    """A row for each pool and name; those of a pool add up to what it has cost."""
    uses = list(uses)
    found = []
    for cost in costs:
        of_service = [use for use in uses if (use.namespace, use.service) == (cost.namespace, cost.service)]
        tags = {"namespace": cost.namespace, "pool": cost.pool, "agent": cost.agent}
        for name, part in sorted(parts(cost, of_service, by).items()):
            quantity, unit = _consumed(of_service, by, name)
            found.append(
                Row(
                    ChargePeriodStart=cost.since,
                    ChargePeriodEnd=cost.until,
                    ChargeCategory="Usage",
                    ServiceCategory="AI and Machine Learning",
                    ServiceName="Pilotlight",
                    SubAccountId=cost.namespace,
                    ResourceId=f"{cost.namespace}/{cost.service}",
                    ResourceName=cost.service,
                    ResourceType="Knative Service",
                    EffectiveCost=(cost.amount * part).quantize(_DIGITS),
                    BillingCurrency=cost.currency,
                    ConsumedQuantity=quantity,
                    ConsumedUnit=unit,
                    Tags={key: value for key, value in tags.items() if value},
                    x_AllocatedBy=by,
                    x_AllocatedTo=name,
                )
            )
    return found


def as_csv(found: Sequence[Row]) -> str:
    """With a heading; instants in ISO 8601, tags in JSON, nothing for what is unknown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Row)]
    writer.writerow(names)
    for row in found:
        writer.writerow([_text(getattr(row, name)) for name in names])
    return text.getvalue()


def write_parquet(found: Sequence[Row], path: Path) -> None:
    """A Parquet file; costs are decimals, instants UTC, tags a map.

    Raises:
        ImportError: pyarrow is not installed.
    """
    import pyarrow as pa  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # noqa: PLC0415

    instant = pa.timestamp("us", "UTC")
    types = {
        "ChargePeriodStart": instant,
        "ChargePeriodEnd": instant,
        "EffectiveCost": pa.decimal128(38, 10),
        "ConsumedQuantity": pa.float64(),
        "Tags": pa.map_(pa.string(), pa.string()),
    }
    schema = pa.schema([(field.name, types.get(field.name, pa.string())) for field in fields(Row)])
    columns = [
        [list(row.Tags.items()) if field.name == "Tags" else getattr(row, field.name) for row in found]
        for field in fields(Row)
    ]
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path)


def _consumed(uses: list[CallerUse], by: By, name: str) -> tuple[float | None, str | None]:
    """What this name used of the Service: tokens where any are counted, else requests."""
    if by == "reason":
        return None, None
    own = [use for use in uses if by not in {"key", "team"} or name == _caller(use, by)]
    if not own:
        return None, None
    if any(use.tokens for use in uses):
        return sum(use.tokens for use in own), "Tokens"
    return sum(use.requests for use in own), "Requests"


def _caller(use: CallerUse, by: By) -> str:
    return use.key if by == "key" else use.team or "(no team)"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    return (
        json.dumps(value)
        if isinstance(value, dict)
        else f"{value:f}"
        if isinstance(value, Decimal)
        else str(value)
    )

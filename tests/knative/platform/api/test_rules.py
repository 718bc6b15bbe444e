"""CEL rules of a CustomResourceDefinition, with the messages of Kubernetes' API server."""

from typing import Any

import pytest

from knative.client.errors import Invalid
from knative.client.resources import WARM_POOL
from tests.knative.platform.conftest import LocalCluster

UNCHECKED = (
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


def pool(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "default"}, "spec": {"target": "a", **spec}}


def window(**fields: Any) -> dict[str, Any]:
    return {"windows": [{"name": "w", "replicas": 1, **fields}]}


@pytest.mark.parametrize(
    ("spec", "field", "text"),
    [
        (window(), "spec.windows[0]", "a window has one of: from and to, cron and duration, start and end"),
        (window(cron="0 8 * * *"), "spec.windows[0]", "cron and duration go together"),
        (
            window(**{"from": "08:00", "to": "08:00"}),
            "spec.windows[0]",
            "to must differ from from; a whole day is from 00:00 to 24:00",
        ),
        (
            {"exceptions": [{"name": "e"}]},
            "spec.exceptions[0]",
            "an exception has either days (dates, holidays or both) or a start and an end",
        ),
        ({"limits": {"min": 3, "max": 2}}, "spec.limits", "max must be at or above min"),
        # The default of min counts: it is filled in before.
        ({"limits": {"max": 0, "min": 1}}, "spec.limits", "max must be at or above min"),
    ],
)
async def test_a_violated_rule_is_reported_with_its_field(local: LocalCluster, spec, field, text):
    with pytest.raises(Invalid) as refused:
        await local.cluster.create(WARM_POOL, pool(**spec))
    assert refused.value.status == 422
    assert [(cause.field, cause.message) for cause in refused.value.causes] == [
        (field, f"Invalid value: {text}")
    ]


async def test_rules_hold_for_updates_and_a_refused_one_changes_nothing(local: LocalCluster):
    good = pool(**window(**{"from": "08:00", "to": "19:00"}), limits={"max": 4, "budget": {"amount": 1}})
    made = await local.cluster.create(WARM_POOL, good)
    change = {"spec": {"limits": {"min": 5}}}
    with pytest.raises(Invalid, match="max must be at or above min"):
        await local.cluster.patch(WARM_POOL, "p", "default", change)
    assert await local.cluster.get(WARM_POOL, "p", "default") == made


async def test_rules_are_not_evaluated_on_what_violates_the_schema(local: LocalCluster):
    with pytest.raises(Invalid) as refused:
        await local.cluster.create(WARM_POOL, pool(**window(replicas="two")))
    assert [(cause.field, cause.message) for cause in refused.value.causes] == [
        (
            "spec.windows[0].replicas",
            'Invalid value: "string": spec.windows[0].replicas in body must be of type integer: "string"',
        ),
        ("<nil>", UNCHECKED),
    ]

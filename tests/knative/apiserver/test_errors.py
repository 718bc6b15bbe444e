"""Status objects, worded as in Kubernetes."""

import pytest

from knative.client.errors import Cause
from knative.client.resources import CONFIG_MAP, SERVICE
from knative.local.apiserver import errors
from knative.local.apiserver.errors import ApiError, ResourceRef

KSVC, CM = ResourceRef.of(SERVICE, "a"), ResourceRef.of(CONFIG_MAP, "a")


@pytest.mark.parametrize(
    ("error", "code", "reason", "message"),
    [
        (errors.not_found(KSVC), 404, "NotFound", 'services.serving.knative.dev "a" not found'),
        (errors.not_found(CM), 404, "NotFound", 'configmaps "a" not found'),
        (errors.already_exists(CM), 409, "AlreadyExists", 'configmaps "a" already exists'),
        (
            errors.conflict(CM),
            409,
            "Conflict",
            (
                'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your '
                "changes to the latest version and try again"
            ),
        ),
        (
            errors.invalid(KSVC, [Cause("Required value", "spec.x")]),
            422,
            "Invalid",
            'Service.serving.knative.dev "a" is invalid: spec.x: Required value',
        ),
        (
            errors.invalid(CM, [Cause("bad", "data"), Cause("worse")]),
            422,
            "Invalid",
            'ConfigMap "a" is invalid: [data: bad, worse]',
        ),
        (
            errors.unconditional_update(KSVC),
            422,
            "Invalid",
            (
                'services.serving.knative.dev "a" is invalid: metadata.resourceVersion: Invalid value: 0x0: '
                "must be specified for an update"
            ),
        ),
        (
            errors.denied("w.example", "no", CM),
            400,
            "BadRequest",
            'admission webhook "w.example" denied the request: no',
        ),
        (errors.expired("too old"), 410, "Expired", "too old"),
    ],
)
def test_messages(error, code, reason, message):
    status = error.status()
    assert (status["code"], status["reason"], status["message"]) == (code, reason, message)
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
    assert str(error) == message


def test_details_name_the_object_and_the_causes():
    error = ApiError(429, "TooManyRequests", "later", KSVC, [Cause("bad", "spec", "R"), Cause("no field")], 5)
    assert error.status()["details"] == {
        "name": "a",
        "group": "serving.knative.dev",
        "kind": "Service",
        "causes": [{"reason": "R", "message": "bad", "field": "spec"}, {"message": "no field"}],
        "retryAfterSeconds": 5,
    }

"""What an Accept header asks for."""

import pytest

from knative.local.apiserver.api.negotiation import Form, accepted_form
from knative.local.apiserver.errors import ApiError

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form.OBJECT),
        ("  ", Form.OBJECT),
        ("*/*", Form.OBJECT),
        ("application/json", Form.OBJECT),
        ("application/*;q=0.1", Form.OBJECT),
        (f"{TABLE},application/json", Form.TABLE),
        ("application/json; as=Table; g=meta.k8s.io; v=v1", Form.TABLE),
        (f"application/json,{TABLE}", Form.OBJECT),
        ("application/vnd.kubernetes.protobuf,application/json", Form.OBJECT),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Form.OBJECT),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json", Form.OBJECT),
    ],
)
def test_the_first_form_that_can_be_given(accept, form):
    assert accepted_form(accept) is form


@pytest.mark.parametrize(
    "accept",
    ["text/html", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v9;g=meta.k8s.io"],
)
def test_no_form_is_406(accept):
    with pytest.raises(ApiError) as refused:
        accepted_form(accept)
    assert refused.value.code == 406

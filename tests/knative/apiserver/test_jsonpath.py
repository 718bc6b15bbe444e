"""The JSONPath of printer columns."""

import pytest

from knative.local.apiserver.api.jsonpath import compiled

OBJ = {
    "metadata": {"labels": {"serving.knative.dev/configuration": "a"}},
    "spec": {"items": [{"name": "x"}, {"name": "y"}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, "odd"]},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (".metadata.labels['serving\\.knative\\.dev/configuration']", "a"),
        (".spec.items[1].name", "y"),
        (".spec.items[2].name", None),
        (".spec.items.name", None),
        (".status.conditions[?(@.type=='Ready')].status", "True"),
        ('.status.conditions[?(@.type == "Other")].status', None),
        (".status[?(@.type=='Ready')]", None),
        (".missing.too", None),
        ("", OBJ),
    ],
)
def test_values_at_paths(path, value):
    assert compiled(path)(OBJ) == value


@pytest.mark.parametrize("path", [".a[*]", "..a", ".a[-1]", "a", ".a[?(@.b>1)]"])
def test_more_than_the_subset_is_refused_with_where_it_begins(path):
    with pytest.raises(ValueError, match="is not understood from"):
        compiled(path)

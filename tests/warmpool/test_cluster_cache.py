"""The controller's cache: an object that nothing can be made of stops no other."""

import pytest

from knative.client.resources import SERVICE, WARM_POOL
from warmpool.controller.cluster_cache import ClusterCache

GOOD = {
    "metadata": {"namespace": "default", "name": "good", "uid": "1", "resourceVersion": "1"},
    "spec": {"target": "model"},
}


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"metadata": None},
        {"metadata": {"name": None}},
        {"metadata": {"namespace": "default"}},
        {"metadata": []},
    ],
    ids=str,
)
@pytest.mark.parametrize("resource", [WARM_POOL, SERVICE], ids=lambda resource: resource.kind)
def test_a_listed_object_that_does_not_say_who_it_is_leaves_the_others(odd, resource):
    cache = ClusterCache()

    keys = cache.put_all(resource, [odd, GOOD])

    assert keys == {("default", "good")}
    assert cache.put(resource, odd) == set()

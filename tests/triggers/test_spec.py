"""The Trigger's spec: what is taken, what is refused and in which words, and the schema that says the same."""

import importlib.util
from pathlib import Path

import jsonschema
import pytest
import yaml

from triggers.admission import review_trigger
from triggers.spec.field_types import SpecError, format_seconds
from triggers.spec.filters import Filter, matches
from triggers.spec.trigger import TriggerSpec

ROOT = Path(__file__).parents[2]
CRD = yaml.safe_load((ROOT / "knative/manifests/crds/trigger.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
LEAST = {"source": {"sqs": {"queue": "orders"}}, "target": {"service": "orders"}}
EVERYTHING = {
    "source": {"sqs": {"queue": "https://sqs.eu-central-1.amazonaws.com/123456789012/orders.fifo"}},
    "target": {"url": "https://example.com/base", "path": "/x?y=1"},
    "concurrency": 3,
    "rate": {"perSecond": 2.5, "burst": 4},
    "batch": {"size": 1, "window": "1500ms"},
    "format": "structured",
    "timeout": "20m",
    "retry": {
        "attempts": 7,
        "backoff": {"initial": "500ms", "factor": 3, "max": "1h"},
        "totalTime": "24h",
    },
    "deadLetter": {"sqs": {"queue": "dead", "region": "eu-central-1", "endpoint": "http://localhost:4566"}},
    "reply": {"sqs": {"queue": "replies"}},
    "filters": [{"any": [{"prefix": {"type": "order."}}, {"not": {"suffix": {"source": "/test"}}}]}],
    "wakeAhead": ["ingest", "generate"],
    "paused": True,
}


def test_the_schema_is_written_from_the_models():
    location = importlib.util.spec_from_file_location("trigger_crd", ROOT / "scripts" / "trigger_crd.py")
    assert location
    assert location.loader
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    written = (ROOT / "knative/manifests/crds/trigger.yaml").read_text()
    assert written == module.text(), "run scripts/trigger_crd.py"


@pytest.mark.parametrize("spec", [LEAST, EVERYTHING])
def test_what_the_model_takes_it_writes_as_the_schema_has_it(spec):
    parsed = TriggerSpec.parse(spec)
    wire = parsed.to_wire()
    jsonschema.validate(wire, SCHEMA["properties"]["spec"])
    assert TriggerSpec.parse(wire) == parsed
    if spec is EVERYTHING:
        factor = {**spec["retry"]["backoff"], "factor": 3.0, "max": "1h"}
        assert wire == {
            **spec,
            "retry": {**spec["retry"], "backoff": factor, "totalTime": "24h"},
            "batch": {"window": "1500ms"},
        }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": {}}, "spec.source must have exactly one of sqs, rabbitmq"),
        ({"source": {"sqs": {"queue": "a b"}}}, "spec.source.sqs.queue = 'a b', must be printable ASCII"),
        ({"target": {}}, "spec.target must have exactly one of service and url"),
        ({"target": {"service": "Orders"}}, "spec.target.service = 'Orders', must be lower-case"),
        ({"target": {"url": "ftp://x"}}, "spec.target.url = 'ftp://x', must be a URL such as"),
        ({"target": {"url": "http://u:secret@h/"}}, "must be a URL without credentials"),
        ({"target": {"service": "x", "path": "no"}}, "spec.target.path = 'no', must be a path"),
        ({"concurrency": 0}, "spec.concurrency = 0, must be at least 1"),
        ({"timeout": "soon"}, "spec.timeout = 'soon', must be a duration"),
        ({"timeout": 30}, "spec.timeout = 30, must be a duration"),
        ({"timeout": "400h"}, "spec.timeout = '400h', must be a duration"),
        ({"retry": {"backoff": {"initial": "10s", "max": "1s"}}}, "spec.retry.backoff must have max at or above"),
        ({"rate": {"perSecond": 0}}, "spec.rate.perSecond = 0, must be above 0"),
        ({"reply": {"sqs": {"queue": "r"}}, "batch": {"size": 2}}, "spec must have batch.size = 1 with a reply"),
        ({"deadLetter": LEAST["source"]}, "spec must have another queue as deadLetter than as source"),
        ({"filters": [{"exact": {"Type": "x"}}]}, "must have CloudEvents attributes as keys"),
        ({"filters": [{}]}, "spec.filters[0] must have exactly one of exact, prefix, suffix, all, any, not"),
        ({"retries": 3}, "spec.retries is not a field of a Trigger"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_is_right(change, says):
    with pytest.raises(SpecError) as raised:
        TriggerSpec.parse({**LEAST, **change})
    assert says in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.25, "250ms"), (90, "1m30s"), (3600, "1h"), (93_784, "26h3m4s")]
)
def test_durations_are_written_as_go_has_them(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ({"exact": {"type": "order.created"}}, True),
        ({"exact": {"type": "order"}}, False),
        ({"exact": {"type": "order.created", "tenant": "x"}}, False),
        ({"prefix": {"type": "order."}}, True),
        ({"suffix": {"type": ".created"}}, True),
        ({"suffix": {"nothing": ""}}, False),
        ({"not": {"exact": {"type": "order.created"}}}, False),
        ({"not": {"exact": {"nothing": "x"}}}, True),
        ({"all": [{"prefix": {"type": "order"}}, {"suffix": {"type": "deleted"}}]}, False),
        ({"any": [{"prefix": {"type": "bill"}}, {"suffix": {"type": "created"}}]}, True),
    ],
)
def test_filters(expression, passes):
    event = {"type": "order.created", "source": "/shop"}
    assert matches([Filter.model_validate(expression)], event) is passes
    assert matches([], event)


def test_filters_end_somewhere():
    deep = {"exact": {"type": "x"}}
    for _ in range(5):
        deep = {"not": deep}
    with pytest.raises(ValueError, match="at most 5 deep"):
        Filter.model_validate(deep)


def test_admission_denies_a_wrong_spec_and_warns_of_a_missing_dead_letter():
    assert review_trigger({"spec": {**LEAST, "concurrency": 0}}, None)[0] == (
        "spec.concurrency = 0, must be at least 1",
    )
    problems, warnings = review_trigger({"spec": LEAST}, None)
    assert problems == ()
    assert "deadLetter is not set" in warnings[0]
    wrong = {"spec": {"source": {}}}
    assert review_trigger(wrong, wrong) == ((), ()), "what was stored before a rule existed"

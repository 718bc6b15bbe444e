"""`triggers:` of an agent file become Trigger objects."""

import pytest
import yaml

from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from triggers.spec.trigger import TriggerSpec

STAGES = [
    {"name": "front", "kind": "orchestrate"},
    {"name": "clean", "kind": "postprocess"},
    {"name": "own", "kind": "container", "image": "x"},
]
QUEUE = {"sqs": {"queue": "orders"}}


def agent_file(tmp_path, *triggers, **spec):
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "shop", "namespace": "team"},
        "spec": {"image": "x", "stages": STAGES, "triggers": list(triggers), **spec},
    }
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def compiled(tmp_path, trigger, **spec):
    objects = compile_agent(
        load_agent(agent_file(tmp_path, {"name": "orders", "source": QUEUE, **trigger}, **spec))
    )
    [found] = [obj for obj in objects if obj["kind"] == "Trigger"]
    assert objects[-1] is found, "Services come first"
    return found


def test_the_entry_is_the_target_and_all_other_stages_are_woken(tmp_path):
    found = compiled(tmp_path, {})
    assert found["metadata"] == {"name": "orders-shop", "namespace": "team"}
    spec = TriggerSpec.parse(found["spec"])
    assert (spec.target.service, spec.target.path) == ("front-shop", "/invoke")
    assert spec.wake_ahead == ("clean-shop", "own-shop")
    assert spec.target.auth is None


@pytest.mark.parametrize(
    ("trigger", "target", "woken"),
    [
        ({"stage": "own"}, ("own-shop", "/"), ("front-shop", "clean-shop")),
        ({"stage": "own", "path": "/events"}, ("own-shop", "/events"), ("front-shop", "clean-shop")),
        ({"wakeAhead": False}, ("front-shop", "/invoke"), ()),
        ({"wakeAhead": ["own"]}, ("front-shop", "/invoke"), ("own-shop",)),
    ],
)
def test_stage_path_and_waking_can_be_chosen(tmp_path, trigger, target, woken):
    spec = TriggerSpec.parse(compiled(tmp_path, trigger)["spec"])
    assert (spec.target.service, spec.target.path) == target
    assert spec.wake_ahead == woken


def test_an_agent_that_asks_who_calls_gets_its_stage_token(tmp_path):
    auth = {"type": "keys", "secret": "shop-keys"}
    spec = TriggerSpec.parse(compiled(tmp_path, {}, auth=auth)["spec"])
    assert spec.target.auth is not None
    assert spec.target.auth.stage_token == "shop-stage-token"
    assert spec.secrets == ("shop-stage-token",)
    own = TriggerSpec.parse(compiled(tmp_path, {"stage": "own"}, auth=auth)["spec"])
    assert own.target.auth is None, "the user's own container knows no such token"


@pytest.mark.parametrize(
    ("trigger", "says"),
    [
        ({"stage": "none"}, "triggers: orders: there is no stage 'none' (there: front, clean, own)"),
        ({"wakeAhead": ["none"]}, "there is no stage 'none'"),
        ({"timeout": "soon"}, 'spec.triggers.0.timeout = "soon": must be a duration'),
        ({"retries": 3}, "spec.triggers.0.retries: no such field; known here: source,"),
        ({"source": {"sqs": {"name": "x"}}}, "spec.triggers.0.source.sqs.queue: is missing"),
    ],
)
def test_mistakes_are_named_with_their_field(tmp_path, trigger, says):
    with pytest.raises(AgentFileError) as raised:
        compiled(tmp_path, trigger)
    assert says in str(raised.value)


def test_a_name_stands_once(tmp_path):
    twice = [{"name": "a", "source": QUEUE}, {"name": "a", "source": QUEUE}]
    with pytest.raises(AgentFileError, match="the name 'a' stands twice"):
        load_agent(agent_file(tmp_path, *twice))

"""Which Revision a template asks for, and which Revisions a Configuration's status names."""

import pytest

from knative.local.controllers.desired_state import configurations
from tests.knative.controllers.objects import NOW, configuration, found, revision

ONE, TWO = {"containers": [{"image": "one"}]}, {"containers": [{"image": "two"}]}


def names(config, *revisions, problem=None):
    """`latestCreatedRevisionName` and `latestReadyRevisionName`."""
    status = configurations.status(config, revisions, NOW, problem=problem)
    return status.get("latestCreatedRevisionName"), status.get("latestReadyRevisionName")


def test_a_revision_has_the_templates_content_and_knatives_labels():
    config = configuration(generation=3, spec=TWO)
    config["spec"]["template"]["metadata"] = {"labels": {"x": "y"}, "annotations": {"note": "z"}}
    config["metadata"]["annotations"] = {"serving.knative.dev/lastModifier": "me"}
    config["metadata"]["labels"] = {"serving.knative.dev/service": "a", "serving.knative.dev/serviceUID": "u"}
    made = configurations.revision(config, NOW)
    assert made["metadata"]["name"] == "a-00003"
    assert made["metadata"]["labels"] == {
        "x": "y",
        "serving.knative.dev/configuration": "a",
        "serving.knative.dev/configurationGeneration": "3",
        "serving.knative.dev/configurationUID": "a-uid",
        "serving.knative.dev/routingState": "pending",
        "serving.knative.dev/service": "a",
        "serving.knative.dev/serviceUID": "u",
    }
    assert made["metadata"]["annotations"] == {
        "note": "z",
        "serving.knative.dev/routingStateModified": NOW,
        "serving.knative.dev/creator": "me",
    }
    assert made["spec"] == TWO
    assert made["metadata"]["ownerReferences"][0]["uid"] == "a-uid"


@pytest.mark.parametrize(
    ("config", "revisions", "expected"),
    [
        (configuration(), [], None),
        (configuration(), [revision("a-00001")], "a-00001"),
        (configuration(generation=2), [revision("a-00001")], None),
        (configuration(revision_name="a-one"), [revision("a-one")], "a-one"),
        # Back to a name that exists, made from the same specification two generations ago.
        (
            configuration(generation=3, revision_name="a-one", spec=ONE),
            [revision("a-one", generation=1, spec=ONE), revision("a-two", generation=2, spec=TWO)],
            "a-one",
        ),
        # The name exists, but was made from another specification.
        (
            configuration(generation=3, revision_name="a-one", spec=TWO),
            [revision("a-one", generation=1, spec=ONE)],
            None,
        ),
    ],
)
def test_the_latest_created_revision_is_that_of_the_generation_or_of_the_templates_name(
    config, revisions, expected
):
    latest = configurations.latest_created(config, revisions)
    assert (latest and latest["metadata"]["name"]) == expected


@pytest.mark.parametrize(
    ("config", "revisions", "expected"),
    [
        pytest.param(configuration(), [], (None, None), id="nothing was made yet"),
        pytest.param(
            configuration(generation=2, latest_ready="a-00001"),
            [revision("a-00001"), revision("a-00002", generation=2, ready=None)],
            ("a-00002", "a-00001"),
            id="the new one is not ready yet",
        ),
        pytest.param(
            configuration(generation=2, latest_ready="a-00001"),
            [revision("a-00001"), revision("a-00002", generation=2)],
            ("a-00002", "a-00002"),
            id="the new one is ready",
        ),
        pytest.param(
            configuration(generation=2, latest_ready="a-00002"),
            [revision("a-00001"), revision("a-00002", generation=2, ready="Unknown")],
            ("a-00002", "a-00002"),
            id="the latest one is unready for a moment",
        ),
        pytest.param(
            configuration(generation=3, latest_ready="a-00001"),
            [
                revision("a-00001"),
                revision("a-00002", generation=2),
                revision("a-00003", generation=3, ready="False"),
            ],
            ("a-00003", "a-00002"),
            id="the one in between is the newest that is ready",
        ),
        pytest.param(
            configuration(generation=3, revision_name="a-one", latest_ready="a-two"),
            [revision("a-one"), revision("a-two", generation=2, spec=TWO)],
            ("a-one", "a-one"),
            id="rolled back",
        ),
        pytest.param(
            configuration(generation=3, revision_name="a-one", latest_ready="a-two"),
            [revision("a-one", ready="Unknown"), revision("a-two", generation=2, spec=TWO)],
            ("a-one", "a-two"),
            id="rolled back to one that is not ready yet",
        ),
        pytest.param(
            configuration(generation=3, revision_name="a-one", latest_ready="a-one"),
            [revision("a-one", ready="Unknown"), revision("a-two", generation=2, spec=TWO)],
            ("a-one", "a-one"),
            id="rolled back to one that is unready for a moment",
        ),
    ],
)
def test_the_status_names_the_latest_created_and_the_latest_ready_revision(config, revisions, expected):
    assert names(config, *revisions) == expected


def test_a_revision_that_could_not_be_made_leaves_the_ready_one_in_place():
    config = configuration(generation=4, revision_name="a-two", spec=ONE, latest_ready="a-one")
    revisions = [revision("a-one"), revision("a-two", generation=2, spec=TWO)]
    assert names(config, *revisions, problem="exists") == (None, "a-one")


@pytest.mark.parametrize(
    ("revisions", "problem", "ready"),
    [
        ([], None, ("Unknown", "", "")),
        ([revision("a-00001", ready=None)], None, ("Unknown", "", "")),
        ([revision("a-00001", ready="Unknown")], None, ("Unknown", "", "")),
        ([revision("a-00001")], None, ("True", "", "")),
        (
            [revision("a-00001", ready="False", message="no GPU")],
            None,
            ("False", "RevisionFailed", 'Revision "a-00001" failed with message: no GPU.'),
        ),
        ([], "it exists already", ("False", "RevisionFailed", "it exists already")),
    ],
)
def test_ready_is_that_of_the_latest_created_revision(revisions, problem, ready):
    assert found(configurations.status(configuration(), revisions, NOW, problem=problem)) == ready

"""`pilotlight weights`, as a user runs it."""

import json

import pytest
from typer.testing import CliRunner

import weights
from pilotlight.cli.weights import app


@pytest.fixture
def run():
    runner = CliRunner()

    def call(*arguments: object):
        return runner.invoke(app, [str(argument) for argument in arguments])

    return call


def test_a_model_is_made_planned_pulled_listed_verified_and_pruned(run, aws, tmp_path):
    made = run("make-model", tmp_path / "m", "--size", "8MB", "--shard-size", "4MiB", "--json")
    assert made.exit_code == 0, made.output
    assert 7e6 < json.loads(made.stdout)["weight_bytes"] < 9e6

    uri = aws.upload(tmp_path / "m", "command-line", "m")
    planned = json.loads(run("plan", uri, "--json").stdout)
    assert planned["parameters"] == json.loads(made.stdout)["parameters"]
    assert sum(len(extent["tensors"]) for extent in planned["extents"]) > 30

    cache = ("--cache-dir", tmp_path / "cache")
    pulled = json.loads(run("pull", uri, *cache, "--json").stdout)
    assert pulled["bytes_read"] == sum(file["size"] for file in pulled["files"])
    assert json.loads(run("pull", uri, *cache, "--json").stdout)["from_cache"]

    (model,) = json.loads(run("ls", *cache, "--json").stdout)["models"]
    assert (model["uri"], model["path"], model["with_weights"]) == (uri, pulled["path"], True)
    assert uri in run("ls", *cache).stdout.replace("\n", "")

    assert run("verify", *cache).exit_code == 0
    blob = max((tmp_path / "cache" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    with blob.open("rb+") as file:
        file.seek(1_000_000)
        file.write(b"\xff")
    damaged = run("verify", *cache)
    assert damaged.exit_code == 1
    assert f"{blob.name}: bytes" in damaged.stdout

    assert "would remove" in run("prune", "--quota", "0", "--dry-run", *cache).stdout
    assert blob.exists()
    pruned = json.loads(run("prune", "--quota", "0", *cache, "--json").stdout)
    assert pruned["kept_bytes"] == 0
    assert not blob.exists()
    assert json.loads(run("ls", *cache, "--json").stdout)["models"] == []


def test_without_weights_only_the_small_files_come(run, aws, made_model, tmp_path):
    uri = aws.upload(made_model.path, "command-line-small", "m")
    pulled = run("pull", uri, "--cache-dir", tmp_path, "--no-weights")
    assert pulled.exit_code == 0, pulled.output
    (model,) = json.loads(run("ls", "--cache-dir", tmp_path, "--json").stdout)["models"]
    assert not model["with_weights"]


def test_a_model_is_removed_once_nobody_uses_it(run, aws, made_model, tmp_path):
    uri = aws.upload(made_model.path, "command-line-rm", "m")
    using = weights.pull_blocking(uri, cache_dir=tmp_path)
    in_use = run("rm", uri, "--cache-dir", tmp_path)
    assert (in_use.exit_code, "stay in use" in in_use.stdout) == (1, True)
    using.release()
    would = json.loads(run("rm", uri, "--cache-dir", tmp_path, "--dry-run", "--json").stdout)
    assert len(would["removed"]) == len(using.manifest.files)
    assert run("rm", "s3://command-line-rm/other", "--cache-dir", tmp_path).exit_code == 0
    assert len(json.loads(run("ls", "--cache-dir", tmp_path, "--json").stdout)["models"]) == 1
    removed = run("rm", uri, "--cache-dir", tmp_path)
    assert (removed.exit_code, f"{uri}: removed" in removed.stdout) == (0, True)
    found = json.loads(run("ls", "--cache-dir", tmp_path, "--json").stdout)
    assert (found["models"], found["blob_bytes"]) == ([], 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prune", "--quota", "lots"], "size = 'lots', must be a number with a unit"),
        (["make-model", "{full}"], "must be absent or empty"),
        (["make-model", "{new}", "--size", "1kB"], "must be at least"),
    ],
)
def test_what_was_given_wrong_is_named(run, tmp_path, arguments, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    places = {"full": tmp_path / "full", "new": tmp_path / "new"}
    ended = run(*[argument.format(**places) for argument in arguments])
    assert ended.exit_code == 2
    assert words in " ".join(ended.output.replace("│", " ").split())

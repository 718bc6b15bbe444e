"""Bytes are compared with what their store declares, however they were uploaded; what could not be is named."""

import base64
import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest
from boto3.s3.transfer import TransferConfig
from typer.testing import CliRunner

import weights
from pilotlight.cli.weights import app
from tests.weights.cached_loads import LOAD
from tests.weights.conftest import QUICK, digests_of
from tests.weights.faults import NOTHING, Fault
from weights.loading.model import open_model

PART = 5 << 20
WEIGHTS = "model-00001-of-00002.safetensors"
COMPOSITE = "its SHA256 is composite"


def upload(bucketed, bucket: str, algorithm: str | None, *, part: int | None = None) -> str:
    """Upload the model with a checksum; files larger than `part` bytes in parts of that size."""
    client = bucketed.server.client()
    client.create_bucket(Bucket=bucket)
    threshold = part or 1 << 30
    for path in bucketed.made.path.iterdir():
        client.upload_file(
            str(path), bucket, f"m/{path.name}",
            ExtraArgs={"ChecksumAlgorithm": algorithm} if algorithm else {},
            Config=TransferConfig(multipart_threshold=threshold, multipart_chunksize=part or threshold),
        )  # fmt: skip
    return f"s3://{bucket}/m"


def object_parts(content: bytes, etag: str, size: int = PART) -> str:
    """What GetObjectAttributes answers in S3, and does not in moto."""
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><Size>{len(piece)}</Size><ChecksumSHA256>"
        f"{base64.b64encode(hashlib.sha256(piece).digest()).decode()}</ChecksumSHA256></Part>"
        for number, piece in enumerate(
            (content[begin : begin + size] for begin in range(0, len(content), size)), start=1
        )
    )
    return (
        '<GetObjectAttributesResponse xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<ETag>{etag.strip(chr(34))}</ETag><ObjectParts><IsTruncated>false</IsTruncated>{parts}</ObjectParts>"
        "</GetObjectAttributesResponse>"
    )


def as_s3(bucketed, uri: str, then=lambda _: NOTHING):
    """Let the proxy list the parts of objects as S3 does."""
    bucket, prefix = uri.removeprefix("s3://").split("/")
    client = bucketed.server.client()

    def decide(request):
        if "attributes" in request.query.split("&"):
            name = request.path.rsplit("/", 1)[1]
            etag = client.head_object(Bucket=bucket, Key=f"{prefix}/{name}")["ETag"]
            return Fault(xml=object_parts((bucketed.made.path / name).read_bytes(), etag))
        return then(request)

    bucketed.proxy.decide = decide


def spoil(*, times: int | None = None):
    """Flip a byte of one weights file on the wire; each time, or only the first times that it passes."""
    passed = []

    def decide(request):
        if request.path.endswith(WEIGHTS) and request.is_bulk and request.first <= 9_000_000 <= request.last:
            passed.append(request)
            if times is None or len(passed) <= times:
                return Fault(flip=9_000_000)
        return NOTHING

    return decide


def pull(uri, folder):
    pulled = weights.pull_blocking(uri, cache_dir=folder, retry=QUICK)
    pulled.release()
    return {file.path: file for file in pulled.manifest.files}


def load(uri, folder):
    with open_model(uri, cache_dir=folder, retry=QUICK) as model:
        found = digests_of(model)
    return found, model.report()


def test_a_multipart_upload_to_moto_as_it_is_arrives_and_is_said_to_be_unchecked(bucketed, tmp_path):
    uri = upload(bucketed, "multipart-as-is", "SHA256", part=PART)
    files = pull(uri, tmp_path)
    assert files[WEIGHTS].sha256 == hashlib.sha256((bucketed.made.path / WEIGHTS).read_bytes()).hexdigest()
    assert files[WEIGHTS].checked_by is None
    assert files[WEIGHTS].unchecked_because.startswith(f"{COMPOSITE} and the store does not list")
    assert (files["config.json"].checked_by, files["config.json"].unchecked_because) == ("SHA256", None)
    assert pull(uri, tmp_path) == files, "a second pull from the cache says the same"


def test_the_digests_of_uploaded_parts_are_compared(bucketed, tmp_path):
    uri = upload(bucketed, "multipart-parts", "SHA256", part=PART)
    as_s3(bucketed, uri)
    size = (bucketed.made.path / WEIGHTS).stat().st_size
    assert pull(uri, tmp_path)[WEIGHTS].checked_by == f"SHA256 of {-(-size // PART)} parts"


UPLOADS = [
    pytest.param("SHA256", PART, id="parts with SHA-256"),
    pytest.param("SHA256", None, id="SHA-256"),
    pytest.param("CRC64NVME", None, id="CRC64NVME"),
    pytest.param("CRC64NVME", PART, id="parts with CRC64NVME"),
]


@pytest.mark.parametrize(("algorithm", "part"), UPLOADS)
@pytest.mark.parametrize("cached", [True, False], ids=["through the cache", "without a cache"])
def test_a_byte_that_is_spoiled_on_the_way_is_fetched_again_or_an_error(
    bucketed, tmp_path, algorithm, part, cached
):
    uri = upload(bucketed, f"spoiled-{algorithm}-{part}-{cached}".lower(), algorithm, part=part)
    as_s3(bucketed, uri, spoil(times=1))
    found, report = load(uri, tmp_path if cached else None)
    assert found == bucketed.expected
    assert report.unchecked == ()
    as_s3(bucketed, uri, spoil())
    with pytest.raises(weights.IntegrityError, match=rf"{WEIGHTS}: the bytes that arrived .*, must be"):
        load(uri, tmp_path / "other" if cached else None)


@pytest.mark.parametrize(("algorithm", "part"), UPLOADS)
def test_a_pull_checks_the_same(bucketed, tmp_path, algorithm, part):
    uri = upload(bucketed, f"pulled-{algorithm}-{part}".lower(), algorithm, part=part)
    as_s3(bucketed, uri, spoil(times=1))
    assert algorithm in pull(uri, tmp_path)[WEIGHTS].checked_by
    as_s3(bucketed, uri, spoil())
    with pytest.raises(weights.IntegrityError):
        pull(uri, tmp_path / "other")


@pytest.mark.parametrize("spoiled", [False, True], ids=["right", "spoiled once"])
def test_processes_that_load_together_check_one_download(bucketed, tmp_path, spoiled):
    uri = upload(bucketed, f"together-{spoiled}".lower(), "CRC64NVME")
    once = spoil(times=1) if spoiled else lambda _: NOTHING
    bucketed.proxy.decide = lambda r: dataclasses.replace(once(r), pause=0.05) if r.is_bulk else NOTHING
    command = [sys.executable, "-c", LOAD, uri, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [json.loads(process.communicate(timeout=90)[0]) for process in running]
    assert all(answer["found"] == bucketed.expected for answer in answers)
    files = len(bucketed.made.files) if not spoiled else len(bucketed.made.files) + 1
    largest = max((bucketed.made.path / file).stat().st_size for file in bucketed.made.files)
    assert bucketed.proxy.bulk_bytes <= files * largest


def test_parts_that_may_not_be_read_are_named_with_the_right_that_is_missing(bucketed, tmp_path):
    uri = upload(bucketed, "no-attributes", "SHA256", part=PART)
    bucketed.proxy.decide = lambda r: (
        Fault(status=403, code="AccessDenied") if "attributes" in r.query.split("&") else NOTHING
    )
    reason = pull(uri, tmp_path)[WEIGHTS].unchecked_because
    assert reason.startswith(f"{COMPOSITE} and the checksums of its parts cannot be read (AccessDenied)")
    assert "allow s3:GetObjectAttributes" in reason


def test_a_store_that_cannot_list_parts_is_named_without_advice_on_rights(bucketed, tmp_path):
    uri = upload(bucketed, "no-such-call", "SHA256", part=PART)
    bucketed.proxy.decide = lambda r: (
        Fault(status=501, code="NotImplemented") if "attributes" in r.query.split("&") else NOTHING
    )
    reason = pull(uri, tmp_path)[WEIGHTS].unchecked_because
    assert "cannot be read (NotImplemented); upload it with a checksum of the whole object" in reason


def test_a_pull_logs_what_was_not_compared(bucketed, tmp_path, caplog):
    uri = upload(bucketed, "pull-unchecked", "SHA256", part=PART)
    with caplog.at_level("INFO", "weights"):
        pull(uri, tmp_path)
    assert f"{uri}: not compared with a checksum ({COMPOSITE}" in caplog.text


def test_a_load_names_what_was_not_compared(bucketed, tmp_path, caplog):
    uri = upload(bucketed, "load-unchecked", "SHA256", part=PART)
    _, report = load(uri, tmp_path)
    assert WEIGHTS in report.unchecked
    (line,) = [record.getMessage() for record in caplog.records if "not compared" in record.getMessage()]
    assert line.startswith(f"{uri}: not compared with a checksum ({COMPOSITE}")
    assert line.endswith("model-00001-of-00002.safetensors, model-00002-of-00002.safetensors")
    caplog.clear()
    assert load(uri, tmp_path)[1].unchecked == report.unchecked
    assert "not compared" not in caplog.text, "only when it is fetched"


def test_an_object_that_is_replaced_after_the_listing_is_another_version(bucketed, tmp_path):
    uri = bucketed.server.upload(bucketed.made.path, "replaced-between", "m")
    client = bucketed.server.client()
    replaced = []

    def decide(request):
        if request.method == "HEAD" and request.path.endswith("config.json") and not replaced:
            replaced.append(request)
            client.put_object(Bucket="replaced-between", Key="m/config.json", Body=b'{"new": 1}')
        return NOTHING

    bucketed.proxy.decide = decide
    pulled = weights.pull_blocking(uri, cache_dir=tmp_path, retry=QUICK)
    assert json.loads((pulled.path / "config.json").read_text()) == {"new": 1}
    pulled.release()


def test_the_command_line_says_what_was_not_checked(bucketed, tmp_path):
    uri = upload(bucketed, "cli-unchecked", "SHA256", part=PART)
    runner = CliRunner()
    cache = ["--cache-dir", str(tmp_path)]
    pulled = json.loads(runner.invoke(app, ["pull", uri, *cache, "--json"]).stdout)
    files = {file["path"]: file for file in pulled["files"]}
    assert files["config.json"]["checked_by"] == "SHA256"
    assert files[WEIGHTS]["checked_by"] is None
    assert COMPOSITE in files[WEIGHTS]["unchecked_because"]
    told = runner.invoke(app, ["pull", uri, *cache]).stderr
    assert f"not compared with a checksum ({COMPOSITE}" in told
    assert WEIGHTS in told
    verified = runner.invoke(app, ["verify", *cache])
    assert verified.exit_code == 0
    assert "files are as they were fetched" in verified.stdout
    assert f"not compared with a checksum ({COMPOSITE}" in verified.stderr
    checks = json.loads(runner.invoke(app, ["verify", *cache, "--json"]).stdout)
    assert {check["sha256"] for check in checks if check["checked_by"] is None} == {
        file["sha256"] for file in files.values() if file["checked_by"] is None
    }

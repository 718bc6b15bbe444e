"""What a store declares for an object, and whether the bytes are what it declared."""

import base64
import hashlib
import zlib

import pytest
from awscrt import checksums as crt
from hypothesis import given
from hypothesis import strategies as st

from weights.checksums import Checksum, ChecksumAlgorithm, Composite, Piece, declared, of_parts
from weights.content_hash import ContentHash, new_hash
from weights.errors import IntegrityError

SHA256, CRC64NVME, CRC32C, CRC32, SHA1 = (
    ChecksumAlgorithm.SHA256, ChecksumAlgorithm.CRC64NVME, ChecksumAlgorithm.CRC32C, ChecksumAlgorithm.CRC32, ChecksumAlgorithm.SHA1,
)  # fmt: skip


def b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


D32, D8, D4 = bytes(range(32)), bytes(range(8)), bytes(range(4))


@pytest.mark.parametrize(
    ("head", "etag", "expected"),
    [
        pytest.param({}, '"e"', None, id="nothing is declared"),
        pytest.param(
            {"ChecksumSHA256": b64(D32)}, '"e"', Checksum(SHA256, (Piece(9, D32),)), id="one upload"
        ),
        pytest.param(
            {"ChecksumSHA256": b64(D32) + "-3", "ChecksumType": "COMPOSITE"},
            '"e-3"',
            Composite(SHA256, 3),
            id="as S3",
        ),
        pytest.param(
            {"ChecksumSHA256": b64(D32)}, '"e-3"', Composite(SHA256, 3), id="as moto: only the ETag says so"
        ),
        pytest.param(
            {"ChecksumSHA256": b64(D32) + "-3"}, '"e"', Composite(SHA256, 3), id="only the value says so"
        ),
        pytest.param(
            {"ChecksumSHA256": b64(D32), "ChecksumType": "COMPOSITE"},
            '"e"',
            Composite(SHA256, None),
            id="only the type",
        ),
        pytest.param({"ChecksumCRC32": b64(D4)}, '"e-2"', Composite(CRC32, 2), id="a CRC may be composite"),
        pytest.param(
            {"ChecksumCRC32C": b64(D4), "ChecksumType": "FULL_OBJECT"},
            '"e-2"',
            Checksum(CRC32C, (Piece(9, D4),)),
            id="or cover the whole object",
        ),
        pytest.param(
            {"ChecksumCRC64NVME": b64(D8)},
            '"e-2"',
            Checksum(CRC64NVME, (Piece(9, D8),)),
            id="never composite",
        ),
        pytest.param(
            {"ChecksumSHA256": b64(D32) + "-2", "ChecksumCRC64NVME": b64(D8)},
            '"e-2"',
            Checksum(CRC64NVME, (Piece(9, D8),)),
            id="the one that covers the object is preferred",
        ),
        pytest.param({"ChecksumCRC64NVME": b64(D4)}, '"e"', None, id="of the wrong length"),
        pytest.param({"ChecksumSHA256": "not base64!"}, '"e"', None, id="not base64"),
        pytest.param({"ChecksumXXHASH3": b64(D8)}, '"e"', None, id="an algorithm that is not known here"),
    ],
)
def test_what_a_head_response_declares(head, etag, expected):
    assert declared(head, etag=etag, size=9) == expected


@pytest.mark.parametrize(
    ("parts", "pieces"),
    [
        pytest.param([(1, 5, D32), (2, 4, D32)], 2, id="all parts"),
        pytest.param([(2, 4, D32), (1, 5, D32)], 2, id="in any order"),
        pytest.param([(1, 5, D32)], None, id="a part is missing"),
        pytest.param([(1, 5, D32), (2, 4, None)], None, id="a part without its checksum"),
        pytest.param([], None, id="no parts"),
    ],
)
def test_parts_count_only_if_they_cover_the_object(parts, pieces):
    listed = [
        {"PartNumber": number, "Size": size} | ({"ChecksumSHA256": b64(digest)} if digest else {})
        for number, size, digest in parts
    ]
    found = of_parts(SHA256, listed, size=9)
    assert (None if found is None else len(found.pieces)) == pieces
    if found is not None:
        assert [piece.size for piece in found.pieces] == [5, 4]


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        # The check values of "123456789" (reveng.sourceforge.io/crc-catalogue, FIPS 180-4).
        (CRC64NVME, "ae8b14860a799888"),
        (CRC32C, "e3069283"),
        (CRC32, "cbf43926"),
        (SHA1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        (SHA256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ],
)
def test_algorithms_give_their_published_check_values(algorithm, expected):
    computed = new_hash(algorithm)
    computed.update(memoryview(b"12345"))
    computed.update(memoryview(b"6789"))
    assert computed.digest().hex() == expected


FUNCTIONS = {
    SHA256: lambda data: hashlib.sha256(data).digest(),
    CRC32: lambda data: zlib.crc32(data).to_bytes(4, "big"),
    CRC64NVME: lambda data: crt.crc64nvme(data).to_bytes(8, "big"),
}


@given(
    st.binary(max_size=60),
    st.lists(st.integers(1, 20), max_size=6),
    st.integers(1, 25),
    st.sampled_from(sorted(FUNCTIONS)),
    st.integers(0, 59),
)
def test_bytes_are_checked_piece_by_piece_however_they_arrive(data, sizes, step, algorithm, spoiled):
    pieces, at = [], 0
    for size in [*sizes, len(data)]:
        if at < len(data) or not pieces:
            piece = data[at : at + size]
            pieces.append(Piece(len(piece), FUNCTIONS[algorithm](piece)))
            at += len(piece)
    checksum = Checksum(algorithm, tuple(pieces))

    def feed(content: bytes) -> ContentHash:
        hashed = ContentHash("m", checksum)
        for begin in range(0, len(content), step):
            hashed.update(memoryview(content)[begin : begin + step])
        return hashed

    hashed = feed(data)
    hashed.check()
    assert hashed.sha256 == hashlib.sha256(data).hexdigest()
    if spoiled < len(data):
        wrong = bytearray(data)
        wrong[spoiled] ^= 1
        with pytest.raises(IntegrityError, match="must be"):
            feed(bytes(wrong)).check()


def test_the_message_names_the_part():
    pieces = tuple(Piece(2, hashlib.sha256(text).digest()) for text in (b"ab", b"cd"))
    hashed = ContentHash("model.safetensors", Checksum(SHA256, pieces), need_sha256=False)
    hashed.update(memoryview(b"abcX"))
    with pytest.raises(
        IntegrityError, match=r"model\.safetensors: .* in the object's part 2 of 2 have SHA-256"
    ):
        hashed.check()

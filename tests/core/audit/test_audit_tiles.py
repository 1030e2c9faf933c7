import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.hashing import leaf_hash, perfect_root, root_of_leaves
from fedshare.audit.notes import NoteSigner
from fedshare.audit.policy import Policy
from fedshare.audit.proofs import consistency_proof, inclusion_proof
from fedshare.audit.receipts import Receipt
from fedshare.audit.tiles import (
    Tiles,
    bundle_path,
    decode_bundle,
    encode_bundle,
    parse_path,
    read_bundle,
    resource_paths,
    tile_path,
)
from fedshare.errors import ParameterError, ProtocolError, UnavailableError

LEAVES = [leaf_hash(i.to_bytes(4, "big")) for i in range(70_000)]
SIGNER = NoteSigner("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))
POLICY = Policy.parse(f"log {SIGNER.key.vkey}\nquorum none\n".encode())


class MemorySource:
    def __init__(self, files):
        self.files = files

    def read(self, path):
        try:
            return self.files[path]
        except KeyError as error:
            raise UnavailableError(path) from error


def source_of(leaves):
    files, level, hashes = {}, 0, list(leaves)
    while hashes:
        full = []
        for at in range(0, len(hashes), 256):
            tile = hashes[at : at + 256]
            files[tile_path(level, at // 256, len(tile))] = b"".join(tile)
            if len(tile) == 256:
                full.append(perfect_root(tile))
        level, hashes = level + 1, full
    return MemorySource(files)


def test_paths_are_as_the_specification_writes_them():
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path(63, 0, 255) == "tile/63/000.p/255"
    assert bundle_path(1000, 1) == "tile/entries/x001/000.p/1"


def test_a_tree_of_70000_has_the_tiles_of_the_specification_s_example():
    paths = [path for path in resource_paths(70_000) if "entries" not in path]
    assert sum(path.startswith("tile/0/") and ".p/" not in path for path in paths) == 273
    assert [p for p in paths if ".p/" in p] == ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]
    assert [p for p in paths if p.startswith("tile/1/") and ".p/" not in p] == ["tile/1/000"]


def test_a_tree_of_256_has_a_full_tile_and_a_partial_one_above():
    assert list(resource_paths(256)) == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    assert list(resource_paths(0)) == []


@settings(deadline=None)
@given(st.integers(0, 63), st.integers(0, 2**63 - 1), st.integers(1, 256))
def test_a_path_survives_a_round_trip(level, index, width):
    assert parse_path(tile_path(level, index, width)) == (level, index, width)
    assert parse_path(bundle_path(index, width)) == (None, index, width)


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/1",
        "tile/00/001",
        "tile/64/001",
        "tile/0/x000/001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/01",
        "tile/0/001/002",
        "tile/-1/001",
        "tile/0/../checkpoint",
        "tile/0/001\n",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "",
    ],
)
def test_other_spellings_of_a_path_are_refused(path):
    with pytest.raises(ProtocolError):
        parse_path(path)


@settings(deadline=None)
@given(st.text("tile/0123x.pentris"))
def test_hostile_paths_only_ever_raise_our_error(path):
    try:
        level, index, width = parse_path(path)
    except ProtocolError:
        return
    assert path == (bundle_path(index, width) if level is None else tile_path(level, index, width))


@pytest.mark.parametrize(
    ("level", "index", "width"), [(64, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)]
)
def test_impossible_tiles_have_no_path(level, index, width):
    with pytest.raises(ParameterError):
        tile_path(level, index, width)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=256))
def test_a_bundle_survives_a_round_trip(entries):
    assert decode_bundle(encode_bundle(entries), len(entries)) == entries


def test_a_bundle_is_big_endian_length_prefixed():
    assert encode_bundle([b"abc", b""]) == b"\x00\x03abc\x00\x00"


def test_an_entry_over_65535_bytes_is_refused():
    encode_bundle([bytes(65_535)])
    with pytest.raises(ParameterError):
        encode_bundle([bytes(65_536)])


@settings(deadline=None)
@given(st.binary(max_size=600), st.integers(1, 256))
def test_hostile_bundles_only_ever_raise_our_error(data, width):
    try:
        entries = decode_bundle(data, width)
    except ProtocolError:
        return
    assert data.startswith(encode_bundle(entries))


@settings(deadline=None)
@given(st.data(), st.sampled_from([1, 2, 255, 256, 257, 511, 65_535, 65_536, 65_537, 70_000]))
def test_proofs_from_tiles_are_the_proofs_from_leaves(data, size):
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))

    def nodes(height, at):
        return perfect_root(LEAVES[at << height : (at + 1) << height])

    tiles = Tiles(SOURCES[size], size)
    assert inclusion_proof(index, size, tiles) == inclusion_proof(index, size, nodes)
    assert consistency_proof(old, size, tiles) == consistency_proof(old, size, nodes)


SOURCES = {
    size: source_of(LEAVES[:size]) for size in (1, 2, 255, 256, 257, 511, 65_535, 65_536, 65_537, 70_000)
}


def test_a_full_tile_stands_in_for_a_partial_one():
    tiles = Tiles(MemorySource({tile_path(0, 0): b"".join(LEAVES[:256])}), 200)
    assert tiles(3, 0) == perfect_root(LEAVES[:8])
    entries = [b"%d" % i for i in range(256)]
    full = MemorySource({bundle_path(0): encode_bundle(entries)})
    assert read_bundle(full, 0, 200) == entries[:200]


def test_a_tile_of_the_wrong_width_is_refused():
    for data in (b"", bytes(32 * 199), bytes(32 * 200 + 1), bytes(32 * 257)):
        tiles = Tiles(MemorySource({tile_path(0, 0, 200): data}), 200)
        with pytest.raises(ProtocolError):
            tiles(0, 0)


def test_a_subtree_outside_the_tree_is_refused():
    with pytest.raises(ParameterError):
        Tiles(SOURCES[255], 255)(8, 0)


def receipt(index, size=300, extra=b""):
    checkpoint = Checkpoint("example.org/log", size, root_of_leaves(LEAVES[:size]))
    note = f"{checkpoint.text}\n{SIGNER.sign(checkpoint.text)}".encode()
    proof = inclusion_proof(index, size, Tiles(source_of(LEAVES[:size]), size))
    return Receipt(index, tuple(proof), note, extra)


def test_a_receipt_is_as_the_specification_writes_it():
    lines = receipt(0, 1, b"abc").to_bytes().decode().split("\n")
    assert lines[:5] == ["c2sp.org/tlog-proof@v1", "extra YWJj", "index 0", "", "example.org/log"]
    assert receipt(0, 1).to_bytes().startswith(b"c2sp.org/tlog-proof@v1\nindex 0\n\nexample.org/log\n1\n")


@settings(deadline=None)
@given(st.integers(0, 299))
def test_a_receipt_shows_its_entry_and_no_other(index):
    parsed = Receipt.parse(receipt(index).to_bytes())
    assert parsed == receipt(index)
    assert parsed.verify(index.to_bytes(4, "big"), POLICY).size == 300
    with pytest.raises(ProtocolError):
        parsed.verify((index + 1).to_bytes(4, "big"), POLICY)


@pytest.mark.parametrize(
    "change",
    [
        (b"@v1", b"@v2"),
        (b"extra YWJj", b"extra YWJ"),
        (b"index 7", b"index 07"),
        (b"index 7", b"index -7"),
        (b"index 7\n", b""),
        (b"index 7\n", b"index 7\nAAAA\n"),
        (b"index 7\n", b"index 7\n" + (b"A" * 43 + b"=\n") * 65),
        (b"\n\n", b"\n"),
        (b"index 7", "index \u0667".encode()),
    ],
)
def test_malformed_receipts_are_refused(change):
    data = receipt(7, extra=b"abc").to_bytes()
    with pytest.raises(ProtocolError):
        Receipt.parse(data.replace(*change, 1))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_hostile_receipts_only_ever_raise_our_error(data):
    for bytes_ in (data, b"c2sp.org/tlog-proof@v1\nindex 0\n" + data):
        with pytest.raises(ProtocolError):
            Receipt.parse(bytes_)

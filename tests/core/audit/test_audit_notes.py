import base64
import contextlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedshare.audit.checkpoint import Checkpoint
from fedshare.audit.hashing import EMPTY_ROOT
from fedshare.audit.notes import COSIGNATURE, Note, NoteKey, NoteSigner, open_note, parse_note
from fedshare.audit.policy import Policy
from fedshare.errors import ConfigError, ParameterError, ProtocolError

FOLDER = Path(__file__).parents[2] / "vectors/audit"
NOTES = json.loads((FOLDER / "signed_note.json").read_text())
REAL = json.loads((FOLDER / "cosigned_checkpoint.json").read_text())
TEXT, PETER, ENOCH = NOTES["text"], NOTES["peter"], NOTES["enoch"]
PETER_KEY, ENOCH_KEY = NoteKey.parse(PETER["vkey"]), NoteKey.parse(ENOCH["vkey"])


def note_of(*lines, text=TEXT):
    return (text + "\n" + "".join(lines)).encode()


def signer_of(seed, name="example.org/log", kind=1):
    return NoteSigner(name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32), kind)


def test_our_signature_is_the_published_one():
    seed = base64.b64decode(PETER["skey"].split("+", 4)[4])[1:]
    signer = NoteSigner("PeterNeumann", Ed25519PrivateKey.from_private_bytes(seed))
    assert signer.key.vkey == PETER["vkey"]
    assert signer.sign(TEXT) == PETER["line"]
    assert repr(signer) == f"NoteSigner({PETER['vkey']})"


def test_the_specification_s_note_opens():
    note = open_note(NOTES["c2sp"]["note"].encode(), [NoteKey.parse(NOTES["c2sp"]["vkey"])])
    assert note.text == "This is an example message.\n"
    assert str(note) == NOTES["c2sp"]["note"]


def test_signatures_of_unknown_keys_are_ignored():
    note = open_note(note_of(PETER["line"], ENOCH["line"]), [PETER_KEY])
    assert [key.name for key, _ in note.verified] == ["PeterNeumann"]
    assert [line.name for line in note.lines] == ["PeterNeumann", "EnochRoot"]


def test_a_name_without_the_key_id_is_an_unknown_key():
    other = signer_of(9, "PeterNeumann")
    note = open_note(note_of(PETER["line"], other.sign("else\n")), [PETER_KEY])
    assert len(note.verified) == 1


def test_a_bad_signature_of_a_known_key_refuses_the_note():
    bad = PETER["line"][:60] + "ABCD" + PETER["line"][64:]
    with pytest.raises(ProtocolError, match="PeterNeumann does not fit"):
        open_note(note_of(ENOCH["line"], bad), [PETER_KEY, ENOCH_KEY])


def test_a_note_that_no_known_key_signed_is_refused():
    with pytest.raises(ProtocolError, match="no key that is trusted"):
        open_note(note_of(PETER["line"]), [ENOCH_KEY])


@pytest.mark.parametrize("bad", NOTES["bad_notes"])
def test_malformed_notes_are_refused(bad):
    with pytest.raises(ProtocolError):
        open_note(bad.encode(), [PETER_KEY])


def test_limits_hold():
    with pytest.raises(ProtocolError, match="at most 100 signatures"):
        open_note(note_of(*[PETER["line"]] * 101), [PETER_KEY])
    with pytest.raises(ProtocolError, match="at most 1000000 bytes"):
        open_note(note_of(PETER["line"], text="x" * 1_000_000 + "\n"), [PETER_KEY])
    with pytest.raises(ProtocolError, match="UTF-8"):
        open_note(b"\xff" + note_of(PETER["line"]), [PETER_KEY])


def test_a_hundred_signatures_are_accepted():
    assert open_note(note_of(*[ENOCH["line"]] * 99, PETER["line"]), [PETER_KEY]).text == TEXT


def test_mangled_keys_are_refused():
    vkey = PETER["vkey"]
    for start in range(len(vkey) + 1):
        for end in range(start, len(vkey) + (start > 0)):
            with pytest.raises(ProtocolError):
                NoteKey.parse(vkey[start:end])
    for at in range(len(vkey)):
        with pytest.raises(ProtocolError):
            NoteKey.parse(vkey[:at] + chr(ord(vkey[at]) + 1) + vkey[at + 1 :])
    for bad in NOTES["bad_vkeys"]:
        with pytest.raises(ProtocolError):
            NoteKey.parse(bad)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\u2028b", "a\nb", "a\x01b", "a\udc80b"])
def test_a_key_name_with_spaces_plus_signs_or_half_characters_is_refused(name):
    with pytest.raises(ProtocolError):
        NoteKey(name, 1, bytes(32))


def test_base64_with_unused_bits_set_is_refused():
    with pytest.raises(ProtocolError, match="canonical"):
        open_note(note_of(PETER["line"].replace("nAM=", "nAN=")), [PETER_KEY])


def test_a_real_checkpoint_with_four_real_cosignatures_satisfies_a_policy():
    policy = Policy.parse(REAL["policy"].encode())
    checkpoint, cosigners, note = policy.open(REAL["checkpoint"].encode())
    assert (checkpoint.origin, checkpoint.size) == ("arche2025h1.staging.ct.transparency.dev", 1432088532)
    assert cosigners == {"garden", "smartit", "remora", "stagemole"}
    assert {seconds for key, seconds in note.verified if key.kind == COSIGNATURE} == {REAL["seconds"]}
    assert policy.verify(REAL["checkpoint"].encode()) == checkpoint
    assert str(note) == REAL["checkpoint"]


def test_a_real_checkpoint_of_another_size_is_refused():
    policy = Policy.parse(REAL["policy"].encode())
    with pytest.raises(ProtocolError):
        policy.verify(REAL["checkpoint"].replace("1432088532", "1432088533").encode())


def test_a_missing_cosignature_leaves_the_quorum_unmet():
    policy = Policy.parse(REAL["policy"].encode())
    lines = [line for line in REAL["checkpoint"].splitlines(keepends=True) if "remora" not in line]
    with pytest.raises(ProtocolError, match="3 known cosignatures"):
        policy.verify("".join(lines).encode())


def test_a_cosignature_binds_its_time():
    text = Checkpoint("example.org/log", 0, EMPTY_ROOT).text
    witness = signer_of(2, "w", COSIGNATURE)
    raw = base64.b64decode(witness.sign(text, 7).split(" ")[2])
    moved = raw[:4] + (8).to_bytes(8, "big") + raw[12:]
    with pytest.raises(ProtocolError):
        open_note(note_of(f"— w {base64.b64encode(moved).decode()}\n", text=text), [witness.key])


def test_a_cosignature_time_of_2_63_is_neither_made_nor_accepted():
    witness = signer_of(2, "w", COSIGNATURE)
    with pytest.raises(ParameterError):
        witness.sign("x\n", 2**63)
    raw = witness.key.id + b"\x80" + bytes(71)
    with pytest.raises(ProtocolError, match="2\\^63"):
        open_note(note_of(f"— w {base64.b64encode(raw).decode()}\n"), [witness.key])


def test_a_log_s_signature_is_not_a_cosignature():
    text = Checkpoint("example.org/log", 0, EMPTY_ROOT).text
    log, witness = signer_of(2), signer_of(2, "example.org/log", COSIGNATURE)
    with pytest.raises(ProtocolError):
        open_note(note_of(log.sign(text), text=text), [witness.key])


@pytest.mark.parametrize(
    "text",
    [
        "o\n1\n" + "A" * 43 + "=",
        "o\n1\n",
        "\n1\n" + "A" * 43 + "=\n",
        "o\n01\n" + "A" * 43 + "=\n",
        "o\n+1\n" + "A" * 43 + "=\n",
        "o\n-1\n" + "A" * 43 + "=\n",
        "o\n\u0661\n" + "A" * 43 + "=\n",
        "o\n9223372036854775808\n" + "A" * 43 + "=\n",
        "o\n" + "9" * 5000 + "\n" + "A" * 43 + "=\n",
        "o\n1\n" + "A" * 44 + "\n",
        "o\n1\nAAAA\n",
        "o\n1\n" + "A" * 43 + "=\n\n",
    ],
)
def test_malformed_checkpoints_are_refused(text):
    with pytest.raises(ProtocolError):
        Checkpoint.parse(text)


def test_a_checkpoint_keeps_its_extension_lines():
    text = "o\n1\n" + "A" * 43 + "=\nfirst\nsecond\n"
    assert Checkpoint.parse(text).extensions == ("first", "second")
    assert Checkpoint.parse(text).text == text


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1), st.integers(0, 2**63 - 1))
def test_a_checkpoint_survives_a_round_trip(origin, size):
    checkpoint = Checkpoint(origin, size, EMPTY_ROOT)
    assert Checkpoint.parse(checkpoint.text) == checkpoint


@settings(deadline=None)
@given(st.binary() | st.text("— \nabc+=AB").map(str.encode))
def test_hostile_bytes_in_a_note_only_ever_raise_our_error(data):
    for read in (parse_note, Policy.parse(REAL["policy"].encode()).open):
        try:
            note = read(data)
        except ProtocolError:
            continue
        assert isinstance(note, Note)
        assert str(note).encode() == data


@settings(deadline=None)
@given(st.integers(0, len(REAL["checkpoint"].encode()) - 1), st.integers(1, 255))
def test_no_changed_byte_makes_another_valid_checkpoint(at, flip):
    data = bytearray(REAL["checkpoint"].encode())
    data[at] ^= flip
    policy = Policy.parse(REAL["policy"].encode())
    try:
        checkpoint, _, _ = policy.open(bytes(data))
    except ProtocolError:
        return
    assert checkpoint == policy.verify(REAL["checkpoint"].encode())  # only an unknown key's line changed


def keys(count):
    return [signer_of(seed, f"w{seed}", COSIGNATURE).key.vkey for seed in range(1, count + 1)]


def test_nested_groups_count_as_the_specification_says():
    lines = [f"witness X{i} {key}" for i, key in enumerate(keys(5))]
    policy = Policy.parse(
        "\n".join(
            [*lines, "group X 2 X0 X1 X2", "group\tY any  X3 X4", "group all-of all X Y", " quorum all-of"]
        ).encode()
    )
    assert policy.is_met_by(frozenset({"X0", "X2", "X4"}))
    assert not policy.is_met_by(frozenset({"X0", "X1", "X2"}))
    assert not policy.is_met_by(frozenset({"X0", "X3", "X4"}))


def test_a_policy_without_witnesses_needs_none():
    policy = Policy.parse(b"# nothing\n\nquorum none")
    assert policy.is_met_by(frozenset())
    assert not policy.needs_witnesses


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quorum none\nquorum none",
        "quorum W\nwitness W {w}",
        "witness none {w}\nquorum none",
        "witness W {w}\nwitness V {w}\nquorum none",
        "witness W {w}\nwitness W {v}\nquorum none",
        "witness W {l}\nquorum none",
        "log {w}\nquorum none",
        "log {l}\nlog {l}\nquorum none",
        "group G any\nquorum G",
        "witness W {w}\ngroup G 0 W\nquorum G",
        "witness W {w}\ngroup G 2 W\nquorum G",
        "witness W {w}\ngroup G -1 W\nquorum G",
        "witness W {w}\ngroup G any W W\nquorum G",
        "witness W {w}\ngroup G any W\ngroup H any W\nquorum H",
        "witness W {w}\ngroup G any G\nquorum G",
        "quorum none extra",
        "mirror M {w}\nquorum none",
        "quorum none\r\n",
        "quorum none\x00",
    ],
)
def test_malformed_policies_are_refused(text):
    w, v = keys(2)
    with pytest.raises(ConfigError):
        Policy.parse(text.format(w=w, v=v, l=signer_of(7).key.vkey).encode())


def test_names_are_compared_as_bytes():
    policy = Policy.parse(b"witness \xe2\x84\xaa " + keys(1)[0].encode() + b"\nquorum \xe2\x84\xaa")
    assert not policy.is_met_by(frozenset({"K"}))


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text("witness group quorum\n any all 123 W").map(str.encode))
def test_hostile_bytes_in_a_policy_only_ever_raise_our_error(data):
    with contextlib.suppress(ConfigError):
        Policy.parse(data)


def test_a_log_of_the_policy_cannot_speak_for_another_one():
    one, two = signer_of(1, "example.org/one"), signer_of(2, "example.org/two")
    text = Checkpoint("example.org/two", 0, EMPTY_ROOT).text
    policy = Policy.parse(f"log {one.key.vkey}\nlog {two.key.vkey}\nquorum none".encode())
    with pytest.raises(ProtocolError):
        policy.verify(note_of(one.sign(text), text=text))
    assert policy.verify(note_of(two.sign(text), text=text)).size == 0

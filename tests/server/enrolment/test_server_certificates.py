"""Certificates say who connects; every malformed one is refused with our own error."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st

from fedshare.errors import ConfigError, FedshareError, ProtocolError
from fedshare.identity.certificates import (
    Authority,
    create_authority,
    create_request,
    invitation_name,
    invited_party,
    issue_client,
    issue_server,
    key_to_pem,
    public_key_digest,
    read_authority,
    read_client,
    read_request,
    to_pem,
)

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
YEAR = timedelta(days=365)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def authority() -> Authority:
    return create_authority(new_key(), "fedshare test", NOW, 10 * YEAR, os.urandom)


def client(authority: Authority, name: str = "tax", lifetime: timedelta = YEAR) -> x509.Certificate:
    return issue_client(authority, new_key().public_key(), name, "feature_holder", NOW, lifetime, os.urandom)


def test_a_client_certificate_names_its_party_and_role(authority: Authority) -> None:
    certificate = client(authority)
    named = read_client(to_pem(certificate))
    assert (named.common_name, named.role) == ("tax", "feature_holder")
    assert named.key_digest == public_key_digest(certificate.public_key())


def test_a_server_certificate_is_valid_for_its_hosts_by_an_independent_verifier(authority: Authority) -> None:
    certificate = issue_server(
        authority, new_key().public_key(), ["coordinator.example", "127.0.0.1"], NOW, YEAR, os.urandom
    )
    policy = PolicyBuilder().store(Store([authority.certificate])).time(NOW)
    verifier = policy.build_server_verifier(x509.DNSName("coordinator.example"))
    assert verifier.verify(certificate, [])[0] == certificate


def test_a_client_certificate_never_outlives_its_authority(authority: Authority) -> None:
    certificate = client(authority, lifetime=100 * YEAR)
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_two_certificates_never_share_a_serial_number(authority: Authority) -> None:
    assert client(authority).serial_number != client(authority).serial_number


def test_an_invitation_is_told_from_a_party(authority: Authority) -> None:
    assert invited_party(invitation_name("tax")) == "tax"
    assert invited_party("tax") is None


def test_an_authority_comes_back_from_its_files(authority: Authority) -> None:
    again = read_authority(to_pem(authority.certificate), key_to_pem(authority.key), NOW)
    assert again.certificate == authority.certificate


def test_an_imported_rsa_authority_issues_certificates() -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "city CA")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, NOW, NOW + YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    imported = read_authority(to_pem(certificate), key_to_pem(key), NOW)
    client(imported).verify_directly_issued_by(certificate)


def test_an_authority_with_another_key_is_refused(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="not the key"):
        read_authority(to_pem(authority.certificate), key_to_pem(new_key()), NOW)


def test_an_expired_authority_is_refused(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="valid from"):
        read_authority(to_pem(authority.certificate), key_to_pem(authority.key), NOW + 11 * YEAR)


def test_an_end_certificate_is_no_authority(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="end certificate"):
        read_authority(to_pem(client(authority)), key_to_pem(authority.key), NOW)


def test_a_request_gives_the_key_that_signed_it() -> None:
    key = new_key()
    assert read_request(create_request(key, "tax"), "tax") == key.public_key()


def test_a_request_for_another_party_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not for tax"):
        read_request(create_request(new_key(), "registry"), "tax")


def test_a_request_with_an_altered_signature_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(create_request(new_key(), "tax")).public_bytes(Encoding.DER))
    der[-1] ^= 1
    pem = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(ProtocolError):
        read_request(pem, "tax")


def test_a_request_with_another_kind_of_key_is_refused() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tax")])
    request = x509.CertificateSigningRequestBuilder(name).sign(ed25519.Ed25519PrivateKey.generate(), None)
    with pytest.raises(ProtocolError, match="P-256"):
        read_request(request.public_bytes(Encoding.PEM), "tax")


def test_a_certificate_without_a_role_is_refused(authority: Authority) -> None:
    with pytest.raises(ProtocolError, match="one party and one role"):
        read_client(to_pem(authority.certificate))


@given(st.binary(max_size=200))
def test_hostile_bytes_raise_our_own_error(data: bytes) -> None:
    for read in (
        read_client,
        lambda pem: read_request(pem, "tax"),
        lambda pem: read_authority(pem, pem, NOW),
    ):
        with pytest.raises(FedshareError):
            read(data)


def test_the_key_of_an_authority_is_not_shown(authority: Authority) -> None:
    assert "key" not in repr(authority)

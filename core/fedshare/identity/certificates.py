"""X.509 certificates for the mutual TLS between the institutions and the coordinator.

A certificate says who is at the other end of a connection and nothing more: what protects a payload are the
identity keys in the contract. The rules of this module:

- keys are ECDSA P-256, because gRPC's TLS library speaks no Ed25519 certificates (RFC 8446 section 9.1 makes
  P-256 mandatory to implement);
- a client certificate names its party in the common name and its role in the organisational unit;
- an invitation is a client certificate whose common name is ``invitation:PARTY``; it opens enrolment and
  nothing else;
- a party is recognised by the digest of its public key, so a replaced certificate stops working at once.

Time, keys and the bytes of serial numbers are handed in.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedshare.errors import ConfigError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = [
    "Authority",
    "ClientName",
    "create_authority",
    "create_request",
    "invitation_name",
    "invited_party",
    "issue_client",
    "issue_server",
    "key_to_pem",
    "public_key_digest",
    "public_key_to_pem",
    "read_authority",
    "read_client",
    "read_key",
    "read_public_key",
    "read_request",
    "to_pem",
]

_CLOCK_SKEW = timedelta(minutes=5)
_INVITATION = "invitation:"


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: its certificate and the key that signs under it.

    Our own are ECDSA P-256; an institution's imported one may be any ECDSA or RSA.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientName:
    """Whom a client certificate names.

    Attributes:
        common_name: the party's id, or ``invitation:PARTY``.
        role: ``feature_holder`` or ``label_holder``.
        key_digest: SHA-256 of the public key (SubjectPublicKeyInfo, DER), hex.
    """

    common_name: str
    role: str
    key_digest: str


def invitation_name(party: str) -> str:
    """Return the common name of an invitation for ``party``."""
    return _INVITATION + party


def invited_party(common_name: str) -> str | None:
    """Return the party that ``common_name`` invites, or ``None`` if it names no invitation."""
    return common_name.removeprefix(_INVITATION) if common_name.startswith(_INVITATION) else None


def create_authority(
    key: ec.EllipticCurvePrivateKey,
    name: str,
    now: datetime,
    lifetime: timedelta,
    randomness: Callable[[int], bytes],
) -> Authority:
    """Return a self-signed authority called ``name`` that may sign end certificates only."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), now, lifetime, randomness)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=False, certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def read_authority(certificate_pem: bytes, key_pem: bytes, now: datetime) -> Authority:
    """Return the authority in two PEM files, checked.

    Raises:
        ConfigError: a file does not parse, the certificate is no authority or not valid at ``now``, or the
            key is not its key.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(
            "expected the PEM certificate of an authority with basic constraints, found something else: "
            "give the authority's own certificate"
        ) from error
    if not constraints.ca:
        raise ConfigError("expected the certificate of an authority (CA:TRUE), found an end certificate")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ConfigError(
            f"the authority's certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} until "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, and it is {now:%Y-%m-%d}: import a valid one"
        )
    key = _read_private_key(key_pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ConfigError("expected an ECDSA or RSA key for the authority, found another kind of key")
    if key.public_key() != certificate.public_key():
        raise ConfigError("the key is not the key of the authority's certificate: import the pair")
    return Authority(certificate, key)


def issue_server(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    hosts: Sequence[str],
    now: datetime,
    lifetime: timedelta,
    randomness: Callable[[int], bytes],
) -> x509.Certificate:
    """Return a server certificate for ``hosts`` (names or IP addresses; the first is the common name)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    return (
        _end_certificate(authority, subject, public_key, now, lifetime, randomness)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def issue_client(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    common_name: str,
    role: str,
    now: datetime,
    lifetime: timedelta,
    randomness: Callable[[int], bytes],
) -> x509.Certificate:
    """Return a client certificate for ``common_name``, a party's id or an invitation for it."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
        ]
    )
    return (
        _end_certificate(authority, subject, public_key, now, lifetime, randomness)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def create_request(key: ec.EllipticCurvePrivateKey, party: str) -> bytes:
    """Return a certificate signing request (RFC 2986, PEM) for ``party``, proving possession of ``key``."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, party)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM)


def read_request(pem: bytes, party: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a certificate signing request that its owner made for ``party``.

    Raises:
        ProtocolError: the request does not parse, is for another name, is not signed by its own key, or the
            key is not on P-256.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        names = [
            str(attribute.value) for attribute in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
        signed = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise ProtocolError(
            "the certificate signing request does not parse: expected PKCS #10 in PEM"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ProtocolError("the certificate signing request carries another kind of key than ECDSA P-256")
    if not signed:
        raise ProtocolError("the certificate signing request is not signed by its own key")
    if names != [party]:
        raise ProtocolError(
            f"the certificate signing request is not for {party}: name the party that is invited"
        )
    return key


def read_client(pem: bytes) -> ClientName:
    """Return whom a client certificate names; the TLS layer has verified its chain.

    Raises:
        ProtocolError: it does not parse, or does not carry exactly one common name and one role.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except (ValueError, TypeError) as error:
        raise ProtocolError("the client certificate does not parse") from error
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    roles = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    if len(names) != 1 or len(roles) != 1 or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ProtocolError(
            "the client certificate was not issued by enrolment: it must name one party and one role"
        )
    return ClientName(str(names[0].value), str(roles[0].value), public_key_digest(key))


def read_public_key(text: bytes) -> ec.EllipticCurvePublicKey:
    """Return an ECDSA public key in PEM or OpenSSH text, e.g. a Flower node's.

    Raises:
        ProtocolError: it is something else.
    """
    load = load_ssh_public_key if text.startswith(b"ecdsa-") else load_pem_public_key
    try:
        key = load(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProtocolError("the public key does not parse: expected OpenSSH or PEM text") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ProtocolError("expected an ECDSA public key, found another kind of key")
    return key


def public_key_to_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return ``key`` as SubjectPublicKeyInfo in PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of ``key`` as SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7, DER), hex."""
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def to_pem(certificate: x509.Certificate) -> bytes:
    """Return ``certificate`` in PEM."""
    return certificate.public_bytes(Encoding.PEM)


def key_to_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Return ``key`` as unencrypted PKCS #8 PEM; the caller keeps the file private."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the ECDSA private key in ``pem``.

    Raises:
        ConfigError: it is no unencrypted PEM key, or of another kind.
    """
    key = _read_private_key(pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("expected an ECDSA private key (P-256), found another kind of key")
    return key


def _read_private_key(pem: bytes) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError("expected an unencrypted private key in PEM, found something else") from error


def _end_certificate(
    authority: Authority,
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
    randomness: Callable[[int], bytes],
) -> x509.CertificateBuilder:
    issuer = authority.certificate
    lifetime = min(lifetime, issuer.not_valid_after_utc - now)
    return (
        _builder(subject, issuer.subject, public_key, now, lifetime, randomness)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=True, certificates=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
    randomness: Callable[[int], bytes],
) -> x509.CertificateBuilder:
    # RFC 5280 section 4.1.2.2: a serial number is positive and at most 20 octets.
    serial = (int.from_bytes(randomness(20), "big") >> 1) | 1
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, sign: bool, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

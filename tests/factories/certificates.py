"""Certificates of Macs, as they list them; equal arguments give an equal certificate."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))


def certificate(
    name: str = "Mac",
    *,
    ends_at: datetime,
    usages: Sequence[ObjectIdentifier] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
) -> bytes:
    """Return a certificate in DER that is valid for a year and ends then."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example CA")])
    builder = (
        x509.CertificateBuilder(issuer, subject, _KEY.public_key(), 1)
        .not_valid_before(ends_at - timedelta(days=365))
        .not_valid_after(ends_at)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(_KEY, None).public_bytes(Encoding.DER)


def listed(data: bytes, *, is_identity: bool = True) -> dict[str, Any]:
    """Return an entry of a CertificateList response with this certificate."""
    return {"CommonName": "Mac", "IsIdentity": is_identity, "Data": data}

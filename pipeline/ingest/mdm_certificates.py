"""The MDM identity of a Mac in its response to CertificateList.

Format: github.com/apple/device-management, mdm/commands/certificate.list.yaml. The list has no mark
for the identity with which the Mac signs its MDM messages. So it is known only if no other identity
of the list can be the one: another identity, such as one for Wi-Fi, can end at another time.
"""

from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from pipeline.ingest.foreign_fields import Fields, Problems
from pipeline.ingest.payload_retention import ReadFields, values

CERTIFICATE_FIELDS: Final[ReadFields] = values("IsIdentity", "Data")
MAX_CERTIFICATES: Final = 1024

_CLIENT_USAGES: Final = frozenset(
    {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
)
# Errors of `cryptography` for a certificate, or an extension of it, that it cannot read.
_UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def identity_expires_at(message: Fields, at: datetime) -> datetime | None:
    """Return the end of the MDM identity by a CertificateList response of the time `at`.

    None unless exactly one identity of the list can be the MDM identity. One that has ended by
    `at`, or is not for clients, cannot be it: the MDM server refuses its messages. An entry that
    cannot be read is recorded as a problem, as are those beyond MAX_CERTIFICATES; then the result
    is None too, since that entry could be the identity.
    """
    problems, found = Problems(), dict[bytes, datetime]()
    response = Fields(message.values, message.where, problems)
    for entry in response.groups("CertificateList", MAX_CERTIFICATES):
        certificate = _identity(entry)
        if certificate is not None and (ends_at := _end_for_client(entry, certificate)) is not None:
            found[entry.values["Data"]] = ends_at
    message.problems.add_all(problems.found)
    if problems.found:
        return None
    ends = [ends_at for ends_at in found.values() if ends_at > at]
    return ends[0] if len(ends) == 1 else None


def _identity(entry: Fields) -> x509.Certificate | None:
    """Return the certificate of an identity; None for another entry, or one that is not readable.

    The latter is recorded as a problem.
    """
    is_identity, data = entry.flag("IsIdentity"), entry.values.get("Data")
    if is_identity is False:
        return None
    if is_identity is None:
        entry.bad_shape("IsIdentity", "not a boolean")
        return None
    if not isinstance(data, bytes):
        entry.bad_shape("Data", "not data")
        return None
    try:
        return x509.load_der_x509_certificate(data)
    except _UNREADABLE:
        entry.bad_value("Data", "not an X.509 certificate")
        return None


def _end_for_client(entry: Fields, certificate: x509.Certificate) -> datetime | None:
    """Return the end of this certificate; None if it is not for clients, or is not readable.

    The latter is recorded as a problem. A certificate without usages is for every use.
    """
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        is_for_client = not _CLIENT_USAGES.isdisjoint(usages)
    except x509.ExtensionNotFound:
        is_for_client = True
    except _UNREADABLE:
        entry.bad_value("Data", "the extensions of the certificate are not readable")
        return None
    return certificate.not_valid_after_utc if is_for_client else None

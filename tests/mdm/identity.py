"""Certificates of Macs and servers, and the signature by which a Mac proves its identity."""

import base64
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs7,
)
from cryptography.x509.oid import NameOID

from tests.mdm.programs import tool

# Without Binary, the signature covers the body with changed line ends, and NanoMDM refuses it.
_DETACHED = (pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    @classmethod
    def create(
        cls,
        name: str,
        issuer: "Identity | None" = None,
        *,
        dns_name: str | None = None,
        user_id: str | None = None,
    ) -> Self:
        """Return a new identity of `issuer`, or without one a self-signed authority.

        `user_id` is a second attribute of the subject: the topic, in a certificate for pushes.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if user_id is not None:
            attributes.append(x509.NameAttribute(NameOID.USER_ID, user_id))
        subject = x509.Name(attributes)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        )
        if dns_name is not None:
            names = x509.SubjectAlternativeName([x509.DNSName(dns_name)])
            builder = builder.add_extension(names, critical=False)
        return cls(builder.sign(key if issuer is None else issuer.key, SHA256()), key)

    @classmethod
    def from_scep(cls, folder: Path, url: str, challenge: str, name: str) -> Self:
        """Return a new identity that the SCEP server at this URL has issued (RFC 8894).

        The key is made in the folder, which must not have one. SCEP needs RSA keys.
        """
        folder.mkdir(parents=True)
        files = {"private-key": folder / "key.pem", "certificate": folder / "certificate.pem"}
        options = {"server-url": url, "challenge": challenge, "cn": name, "organization": "Example"}
        given = (options | {name: str(path) for name, path in files.items()}).items()
        done = subprocess.run(
            [str(tool("scepclient")), *(f"-{name}={value}" for name, value in given)],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        key = load_pem_private_key(files["private-key"].read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return cls(x509.load_pem_x509_certificate(files["certificate"].read_bytes()), key)

    @property
    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key in PEM, unencrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def signature(self, body: bytes) -> str:
        """Return the header `Mdm-Signature` of a body: a detached CMS signature in base64.

        (https://github.com/micromdm/nanomdm/blob/v0.9.0/docs/operations-guide.md)
        """
        builder = pkcs7.PKCS7SignatureBuilder().set_data(body)
        builder = builder.add_signer(self.certificate, self.key, SHA256())
        return base64.b64encode(builder.sign(Encoding.DER, list(_DETACHED))).decode()

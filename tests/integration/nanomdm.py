"""A real NanoMDM on loopback, and a Mac that talks to it as Apple's client does.

The Mac authenticates with `Mdm-Signature`: a detached CMS signature of the body, in base64
(https://github.com/micromdm/nanomdm/blob/v0.9.0/docs/operations-guide.md).
"""

import base64
import plistlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from tests.kafka.brokers import ROOT, free_ports, wait_until

API_KEY: Final = "the-key-of-the-api"
CHECK_IN: Final = "application/x-apple-aspen-mdm-checkin"
COMMAND: Final = "application/x-apple-aspen-mdm; charset=UTF-8"
READY_S: Final = 30.0


def program() -> Path:
    """Return the path of NanoMDM, where `make tools` installs it; the file may be missing."""
    command = [str(ROOT / "tools" / "servers"), "path", "nanomdm"]
    folder = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    return ROOT / folder / "nanomdm"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str, issuer: "Identity | None" = None) -> "Identity":
        """Return a new identity: a client of `issuer`, or without one a certificate authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=issuer is None, path_length=None)
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(constraints, critical=True)
            .sign(key if issuer is None else issuer.key, SHA256())
        )
        return cls(certificate, key)


@dataclass(frozen=True, slots=True)
class NanoMdm:
    """A running NanoMDM, and the authority whose certificates it accepts from Macs."""

    url: str
    authority: Identity

    @classmethod
    @contextmanager
    def run(cls, folder: Path, webhook_url: str, hmac_key: str) -> "Iterator[NanoMdm]":
        """Run NanoMDM within the block; it posts to this webhook."""
        authority = Identity.create("Macs")
        folder.mkdir()
        (folder / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
        address = f"127.0.0.1:{free_ports(1)[0]}"
        options = {
            "listen": address,
            "api": API_KEY,
            "ca": str(folder / "ca.pem"),
            "storage": "inmem",
            "storage-dsn": "",
            "webhook-url": webhook_url,
            "webhook-hmac-key": hmac_key,
        }
        given = [word for name, value in options.items() for word in (f"-{name}", value)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([str(program()), *given], cwd=folder, stderr=log)
        server = cls(f"http://{address}", authority)
        try:
            wait_until(lambda: server._responds(process), READY_S, "NanoMDM does not respond")
            yield server
        finally:
            process.kill()
            process.wait()

    def _responds(self, process: "subprocess.Popen[bytes]") -> bool:
        assert process.poll() is None, "NanoMDM ended"
        try:
            return httpx.get(f"{self.url}/version", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def enqueue(self, udid: str, uuid: str, request: str, **more: Any) -> None:
        """Queue a command for this Mac, without a push."""
        command = {"CommandUUID": uuid, "Command": {"RequestType": request, **more}}
        httpx.put(
            f"{self.url}/v1/enqueue/{udid}?nopush=1",
            content=plistlib.dumps(command),
            auth=("nanomdm", API_KEY),
            trust_env=False,
        ).raise_for_status()


@dataclass
class EnrollingMac:
    """A Mac with a certificate of NanoMDM's authority."""

    server: NanoMdm
    udid: str
    identity: Identity = field(init=False)

    def __post_init__(self) -> None:
        self.identity = Identity.create(self.udid, self.server.authority)

    def check_in(self, kind: str, **more: Any) -> None:
        """Send a check-in message."""
        topic = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000"
        self._put({"MessageType": kind, "Topic": topic, "UDID": self.udid, **more}, CHECK_IN)

    def report(self, status: str, **more: Any) -> dict[str, Any] | None:
        """Report a status and return the next command; None if no command waits."""
        body = self._put({"Status": status, "UDID": self.udid, **more}, COMMAND)
        found: dict[str, Any] | None = plistlib.loads(body) if body else None
        return found

    def _put(self, message: dict[str, Any], content_type: str) -> bytes:
        body = plistlib.dumps(message)
        builder = pkcs7.PKCS7SignatureBuilder().set_data(body)
        builder = builder.add_signer(self.identity.certificate, self.identity.key, SHA256())
        # Without Binary, the signature covers the body with changed line ends.
        wanted = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary]
        signature = base64.b64encode(builder.sign(Encoding.DER, wanted)).decode()
        response = httpx.put(
            f"{self.server.url}/mdm",
            content=body,
            headers={"Content-Type": content_type, "Mdm-Signature": signature},
            trust_env=False,
        )
        response.raise_for_status()
        return response.content

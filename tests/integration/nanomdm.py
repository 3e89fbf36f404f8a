"""A real NanoMDM on loopback, and a Mac that speaks to it as Apple's client does.

The Mac proves itself by `Mdm-Signature`: a detached CMS signature over the body, in base64
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
    """Where `tools/servers` puts it, whether it is there or not."""
    command = [str(ROOT / "tools" / "servers"), "path", "nanomdm"]
    folder = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    return ROOT / folder / "nanomdm"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def made(cls, name: str, issuer: "Identity | None" = None) -> "Identity":
        """A new one: an authority without an issuer, else a client of that authority."""
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
    """A running one, and the authority whose clients it takes for Macs."""

    url: str
    authority: Identity

    @classmethod
    @contextmanager
    def serving(cls, folder: Path, webhook_url: str, hmac_key: str) -> "Iterator[NanoMdm]":
        """One that does not outlive the block and tells this webhook."""
        authority = Identity.made("Macs")
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
            wait_until(lambda: server._answers(process), READY_S, "NanoMDM does not answer")
            yield server
        finally:
            process.kill()
            process.wait()

    def _answers(self, process: "subprocess.Popen[bytes]") -> bool:
        assert process.poll() is None, "NanoMDM ended"
        try:
            return httpx.get(f"{self.url}/version", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def enqueue(self, udid: str, uuid: str, request: str, **more: Any) -> None:
        """Have a command wait for this Mac, without a push."""
        command = {"CommandUUID": uuid, "Command": {"RequestType": request, **more}}
        httpx.put(
            f"{self.url}/v1/enqueue/{udid}?nopush=1",
            content=plistlib.dumps(command),
            auth=("nanomdm", API_KEY),
            trust_env=False,
        ).raise_for_status()


@dataclass
class EnrollingMac:
    """A Mac with an identity of NanoMDM's authority."""

    server: NanoMdm
    udid: str
    identity: Identity = field(init=False)

    def __post_init__(self) -> None:
        self.identity = Identity.made(self.udid, self.server.authority)

    def check_in(self, kind: str, **more: Any) -> None:
        """Send a check-in message."""
        topic = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000"
        self._put({"MessageType": kind, "Topic": topic, "UDID": self.udid, **more}, CHECK_IN)

    def answer(self, status: str, **more: Any) -> dict[str, Any] | None:
        """Report, and take the next command; None if nothing waits."""
        body = self._put({"Status": status, "UDID": self.udid, **more}, COMMAND)
        found: dict[str, Any] | None = plistlib.loads(body) if body else None
        return found

    def _put(self, message: dict[str, Any], content_type: str) -> bytes:
        body = plistlib.dumps(message)
        builder = pkcs7.PKCS7SignatureBuilder().set_data(body)
        builder = builder.add_signer(self.identity.certificate, self.identity.key, SHA256())
        # Without Binary it would sign other line ends than are sent.
        wanted = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary]
        signature = base64.b64encode(builder.sign(Encoding.DER, wanted)).decode()
        answer = httpx.put(
            f"{self.server.url}/mdm",
            content=body,
            headers={"Content-Type": content_type, "Mdm-Signature": signature},
            trust_env=False,
        )
        answer.raise_for_status()
        return answer.content

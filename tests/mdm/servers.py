"""The servers of a site that manages Macs: NanoMDM, KMFDDM, a SCEP server and a push service."""

import plistlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from tests.kafka.brokers import free_ports
from tests.mdm.apns import Apns
from tests.mdm.identity import Identity
from tests.mdm.programs import Program, tool

TOPIC: Final = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000"
NANOMDM_KEY: Final = "the-key-of-nanomdm's-api"
KMFDDM_KEY: Final = "the-key-of-kmfddm's-api"
HMAC_KEY: Final = "the-key-of-nanomdm's-webhook"
CHALLENGE: Final = "the-challenge-of-the-scep-server"
SHORT_DAYS: Final = 3

KeyValueStorage = Literal["filekv", "inmem"]


@dataclass
class Scep:
    """A SCEP server; `ca` is the certificate of the authority that issues what it hands out."""

    program: Program
    url: str
    ca: Path
    _numbers: Iterator[int] = field(default_factory=count)

    @classmethod
    def create(cls, folder: Path, *, days: int = 365, authority: "Scep | None" = None) -> "Scep":
        """Return a server that is not started, whose identities end after `days`.

        It issues for the same authority as `authority`, or without one for a new one.
        """
        depot = folder / "depot"
        folder.mkdir(parents=True)
        if authority is not None:
            shutil.copytree(authority.ca.parent, depot)
        else:
            subprocess.run(
                [str(tool("scepserver")), "ca", "-init", "-depot", str(depot), "-keySize", "2048"],
                check=True,
                capture_output=True,
            )
        address = f"127.0.0.1:{free_ports(1)[0]}"
        url = f"http://{address}/scep"
        options = ["-http-addr", address, "-depot", str(depot), "-challenge", CHALLENGE]
        options += ["-allowrenew", "0", "-crtvalid", str(days)]
        program = Program(
            [str(tool("scepserver")), *options],
            folder,
            lambda: _responds(f"{url}?operation=GetCACaps"),
        )
        return cls(program, url, depot / "ca.pem")

    def issue(self, name: str) -> Identity:
        """Return a new identity with this common name, over SCEP."""
        folder = self.program.folder / f"client-{next(self._numbers)}"
        return Identity.from_scep(folder, self.url, CHALLENGE, name)


@dataclass
class Kmfddm:
    """A KMFDDM, the server of declarations."""

    program: Program
    url: str
    http: httpx.Client

    @classmethod
    def create(
        cls,
        folder: Path,
        port: int,
        nanomdm_url: str,
        storage: KeyValueStorage,
        http: httpx.Client,
    ) -> "Kmfddm":
        """Return a server that is not started; it asks this NanoMDM to notify Macs."""
        address = f"127.0.0.1:{port}"
        options = {
            "listen": address,
            "api": KMFDDM_KEY,
            "storage": storage,
            "storage-dsn": str(folder / "declarations") if storage == "filekv" else "",
            "enqueue": f"{nanomdm_url}/v1/enqueue/",
            "enqueue-key": NANOMDM_KEY,
        }
        url = f"http://{address}"
        command = [str(tool("kmfddm")), *_flags(options)]
        return cls(Program(command, folder, lambda: _responds(f"{url}/version")), url, http)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request to its API and return the response, of any status."""
        login = ("kmfddm", KMFDDM_KEY)
        return self.http.request(method, f"{self.url}/v1/{path}", auth=login, **options)

    def declare(
        self, udid: str, *declarations: dict[str, Any], name: str, notify: bool = True
    ) -> None:
        """Put these declarations into a set of this name, and the Mac into the set."""
        for each in declarations:
            self._change("PUT", "declarations", notify=notify, json=each)
            member = {"declaration": each["Identifier"]}
            self._change("PUT", f"set-declarations/{name}", notify=notify, params=member)
        self._change("PUT", f"enrollment-sets/{udid}", notify=notify, params={"set": name})

    def withdraw(self, udid: str, name: str, *, notify: bool = True) -> None:
        """Take the Mac out of the set of this name."""
        self._change("DELETE", f"enrollment-sets/{udid}", notify=notify, params={"set": name})

    def _change(
        self,
        method: str,
        path: str,
        *,
        notify: bool,
        params: dict[str, str] | None = None,
        **body: Any,
    ) -> None:
        quiet = {} if notify else {"nonotify": "1"}
        response = self.request(method, path, params=(params or {}) | quiet, **body)
        # 304: the object exists and is the same.
        assert response.status_code in {204, 304}, response.text


@dataclass
class NanoMdm:
    """A NanoMDM, the server that Macs talk to."""

    program: Program
    url: str
    http: httpx.Client

    @classmethod
    def create(
        cls,
        folder: Path,
        port: int,
        ca: Path,
        *,
        storage: Sequence[str],
        options: dict[str, str],
        env: dict[str, str],
        http: httpx.Client,
    ) -> "NanoMdm":
        """Return a server that is not started.

        It accepts Macs whose certificates are from `ca`. `storage` is the name of its storage and
        the DSN. `options` are more flags, without their hyphens.
        """
        address = f"127.0.0.1:{port}"
        name, dsn = storage
        given = {"listen": address, "api": NANOMDM_KEY, "ca": str(ca)} | options
        command = [str(tool("nanomdm")), *_flags(given | {"storage": name, "storage-dsn": dsn})]
        url = f"http://{address}"
        program = Program(command, folder, lambda: _responds(f"{url}/version"), env)
        return cls(program, url, http)

    def install_push_certificate(self) -> None:
        """Give it a certificate for pushes of TOPIC; without one it queues but does not push."""
        certificate = Identity.create("Push certificate", user_id=TOPIC)
        body = certificate.certificate_pem + certificate.key_pem
        self._api("PUT", "pushcert", content=body).raise_for_status()

    def enqueue(
        self, udid: str, uuid: str, request: str, *, push: bool = False, **more: Any
    ) -> httpx.Response:
        """Queue a command for this Mac and return the response, of any status."""
        command = {"CommandUUID": uuid, "Command": {"RequestType": request, **more}}
        path = f"enqueue/{udid}" if push else f"enqueue/{udid}?nopush=1"
        return self._api("PUT", path, content=plistlib.dumps(command))

    def _api(self, method: str, path: str, **options: Any) -> httpx.Response:
        login = ("nanomdm", NANOMDM_KEY)
        return self.http.request(method, f"{self.url}/v1/{path}", auth=login, **options)


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of NanoMDM and KMFDDM, chosen before either starts."""

    nanomdm: int
    kmfddm: int

    @classmethod
    def choose(cls) -> "Ports":
        """Return free ports."""
        return cls(*free_ports(2))

    @property
    def nanomdm_url(self) -> str:
        """The address of NanoMDM."""
        return f"http://127.0.0.1:{self.nanomdm}"

    @property
    def kmfddm_url(self) -> str:
        """The address of KMFDDM."""
        return f"http://127.0.0.1:{self.kmfddm}"


@dataclass(frozen=True, slots=True)
class MdmServers:
    """The running servers of a site. The identities of `short_scep` end after SHORT_DAYS."""

    nanomdm: NanoMdm
    kmfddm: Kmfddm
    scep: Scep
    short_scep: Scep
    apns: Apns

    @classmethod
    @contextmanager
    def run(
        cls,
        folder: Path,
        *,
        ports: Ports | None = None,
        webhook_url: str | None = None,
        storage: KeyValueStorage = "filekv",
        database: str | None = None,
    ) -> "Iterator[MdmServers]":
        """Run them within the block, with their files in `folder`.

        NanoMDM posts to `webhook_url`, signed with HMAC_KEY. It keeps its queue in the PostgreSQL
        `database` (a URL) if there is one, else in `storage`, its default; KMFDDM has no form of
        its storage for PostgreSQL.
        """
        ports = ports or Ports.choose()
        hook = {"webhook-url": webhook_url, "webhook-hmac-key": HMAC_KEY} if webhook_url else {}
        in_file = str(folder / "queue") if storage == "filekv" else ""
        with ExitStack() as running:
            http = running.enter_context(httpx.Client(trust_env=False))
            apns = running.enter_context(Apns.run(folder / "apns"))
            scep = Scep.create(folder / "scep")
            short_scep = Scep.create(folder / "short-scep", days=SHORT_DAYS, authority=scep)
            nanomdm = NanoMdm.create(
                folder / "nanomdm",
                ports.nanomdm,
                scep.ca,
                storage=("pgsql", database) if database else (storage, in_file),
                options={"dm": f"{ports.kmfddm_url}/"} | hook,
                env=apns.env,
                http=http,
            )
            kmfddm = Kmfddm.create(folder / "kmfddm", ports.kmfddm, nanomdm.url, storage, http)
            for server in (scep, short_scep, kmfddm, nanomdm):
                running.callback(server.program.stop)
                server.program.start()
            nanomdm.install_push_certificate()
            yield cls(nanomdm, kmfddm, scep, short_scep, apns)


def _flags(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (f"-{name}", value)]


def _responds(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False

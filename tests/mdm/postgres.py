"""A private PostgreSQL on loopback, from the system's packages."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kafka.brokers import free_ports
from tests.mdm.programs import Program

# Debian does not put the programs of a cluster on the PATH.
_DEBIAN = Path("/usr/lib/postgresql")


def postgres_programs() -> Path | None:
    """Return the folder with `initdb` and `postgres` of the newest version; None if missing."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = [path.parent for path in _DEBIAN.glob("*/bin/initdb")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


@contextmanager
def postgres() -> Iterator[str]:
    """Run an empty cluster within the block; give its URL, without a database's name.

    PostgreSQL refuses to run as root. Then it runs as `postgres`, the user of the system's package,
    in a folder of its own that this user can reach.
    """
    programs = postgres_programs()
    assert programs is not None
    (port,) = free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="drydock-postgres-"))
    as_user: list[str] = []
    if os.getuid() == 0:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "off",  # the cluster is not used after a crash
    }
    flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def responds() -> bool:
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        return subprocess.run(ready, check=False).returncode == 0

    # SIGINT: PostgreSQL's fast shutdown, which does not wait for its clients.
    server = Program(
        [*as_user, str(programs / "postgres"), "-D", str(data), *flags],
        folder,
        responds,
        stop_signal=signal.SIGINT,
    )
    try:
        subprocess.run(
            [*as_user, str(programs / "initdb"), "-D", str(data), *options],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        server.start()
        yield f"postgres://postgres@127.0.0.1:{port}"
    finally:
        server.stop()
        shutil.rmtree(folder)


def create_database(url: str, name: str, schema: Path) -> str:
    """Create a database with this SQL schema in the cluster of `url`; return its URL."""
    programs = postgres_programs()
    assert programs is not None
    psql = [str(programs / "psql"), "--quiet", "--no-psqlrc", "-v", "ON_ERROR_STOP=1"]
    subprocess.run([*psql, "-c", f'CREATE DATABASE "{name}"', f"{url}/postgres"], check=True)
    subprocess.run(
        [*psql, "-f", str(schema), f"{url}/{name}"], check=True, stdout=subprocess.DEVNULL
    )
    return f"{url}/{name}?sslmode=disable"


def query(url: str, sql: str) -> list[str]:
    """Return the first column of the rows that a query gives, as text."""
    programs = postgres_programs()
    assert programs is not None
    psql = [str(programs / "psql"), "--no-psqlrc", "--tuples-only", "--no-align", "-c", sql, url]
    return subprocess.run(psql, check=True, capture_output=True, text=True).stdout.split()

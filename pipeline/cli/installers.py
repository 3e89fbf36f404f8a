"""`drydock installers`: Apple's installers of macOS in a bucket of S3."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.output import ATTENTION, emit, fail

if TYPE_CHECKING:
    from agents.installers.bucket import InstallerBucket, StoredInstaller
    from agents.installers.catalog import CatalogEntry
    from agents.installers.sync import SyncResult
    from schemas.macos import Build

app = typer.Typer(
    help="Store Apple's installers of macOS in a bucket of S3, and look at them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Bucket = Annotated[str, typer.Option("--bucket", help="Name of the bucket.")]
Prefix = Annotated[str, typer.Option("--prefix", help="Beginning of each key, with a final slash.")]
Endpoint = Annotated[
    str | None, typer.Option("--endpoint", help="URL of a server of S3 other than Amazon's.")
]
Region = Annotated[str | None, typer.Option("--region", help="Amazon's region of the bucket.")]
Catalog = Annotated[
    str | None,
    typer.Option(
        "--catalog",
        metavar="FILE|URL",
        help="Feed of SOFA with InstallationApps; default: DRYDOCK_FEEDS_SOFA, or SOFA's own feed.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


@app.command()
def sync(  # noqa: PLR0913, PLR0917 - a command's options
    bucket: Bucket,
    catalog: Catalog = None,
    gdmf: Annotated[
        Path | None,
        typer.Option(
            "--gdmf",
            metavar="FILE",
            help="Document of Apple's lookup service: only builds that it offers are stored.",
        ),
    ] = None,
    build: Annotated[
        list[str] | None, typer.Option("--build", help="Store this build; may be repeated.")
    ] = None,
    majors: Annotated[
        int,
        typer.Option(min=1, max=20, help="Without --build: the newest of so many major versions."),
    ] = 3,
    work_dir: Annotated[
        Path,
        typer.Option(
            "--work-dir",
            help="Folder with room for one installer (18.4 GB); a later run continues there.",
        ),
    ] = Path("installers-work"),
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace objects that differ from Apple's files.")
    ] = False,
    origin_host: Annotated[
        list[str] | None,
        typer.Option("--origin-host", help="A mirror that may serve installers beside Apple."),
    ] = None,
    prefix: Prefix = "",
    endpoint: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Store installers that the bucket lacks; what is cut is continued, now or by the next run.

    The login is that of the AWS tools: environment, shared files, or the role of the machine. Exit
    0 if all are there, 1 if one was refused or failed, with the reason.
    """
    entries = _selected(_catalog(catalog), gdmf, build, majors)
    with _refusals():
        opened = _open(bucket, prefix, endpoint, region)
        done = _sync_all(
            opened, entries, work_dir, origin_host or [], replace=replace, as_json=as_json
        )
    raise typer.Exit(0 if done else ATTENTION)


def _sync_all(
    opened: "InstallerBucket",
    entries: "tuple[CatalogEntry, ...]",
    work_dir: Path,
    mirrors: list[str],
    *,
    replace: bool,
    as_json: bool,
) -> bool:
    """Store the installers and print each result; return True if the bucket has all of them.

    Exit 2 if the folder cannot be used, or another process uses it.
    """
    from agents.installers.catalog import APPLE_HOSTS
    from agents.installers.origin import origin_client
    from agents.installers.sync import InstallerSync, SyncOutcome
    from runtime.folder_lock import locked_folder
    from runtime.sqlite import InUseError

    done = True
    try:
        with locked_folder(work_dir), origin_client() as http:
            syncing = InstallerSync(opened, http, work_dir, hosts=(*APPLE_HOSTS, *mirrors))
            for entry in entries:
                result = syncing.sync(entry, replace=replace)
                _print_result(result, as_json=as_json)
                done &= result.outcome in (SyncOutcome.STORED, SyncOutcome.PRESENT)
    except InUseError:
        fail(f"another sync uses {work_dir}: wait for its end, or name another --work-dir")
    except OSError as error:
        fail(f"cannot use {work_dir}: {error.strerror}")
    return done


@app.command("list")
def list_installers(
    bucket: Bucket,
    prefix: Prefix = "",
    endpoint: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Print the installers in the bucket. Exit 1 if one has no valid metadata."""
    found_problem = False
    with _refusals():
        opened = _open(bucket, prefix, endpoint, region)
        for build in reversed(opened.builds()):
            stored, problem = _read(opened, build)
            found_problem |= problem is not None
            _print_stored(build, stored, problem, as_json=as_json)
    raise typer.Exit(ATTENTION if found_problem else 0)


@app.command()
def check(
    bucket: Bucket,
    catalog: Catalog = None,
    build: Annotated[
        list[str] | None, typer.Option("--build", help="Check this build only; may be repeated.")
    ] = None,
    prefix: Prefix = "",
    endpoint: Endpoint = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Read each installer whole, and compare its SHA-256; its size too if SOFA lists the build.

    This transfers every byte. Exit 1 if one is damaged: `sync --replace --build BUILD` puts it
    right.
    """
    from agents.installers.sync import verify

    sizes = {entry.build: entry.size_bytes for entry in _catalog(catalog)}
    wanted = None if build is None else set(_builds(build))
    found_problem = False
    with _refusals():
        opened = _open(bucket, prefix, endpoint, region)
        present = opened.builds()
        for each in sorted((wanted or set()) - set(present)):
            found_problem = True
            _print_stored(each, None, "the bucket has no installer of it", as_json=as_json)
        for each in reversed(present):
            if wanted is not None and each not in wanted:
                continue
            stored, problem = _read(opened, each)
            if stored is not None:
                problem = verify(opened, stored, sizes.get(each))
            found_problem |= problem is not None
            _print_stored(each, stored, problem, as_json=as_json)
    raise typer.Exit(ATTENTION if found_problem else 0)


def _catalog(location: str | None) -> "tuple[CatalogEntry, ...]":
    """Return the entries of a feed. Exit 2 if it cannot be read."""
    import asyncio

    from agents.installers.catalog import CatalogError, read_catalog
    from pipeline.config import FeedsSettings
    from pipeline.feeds.fetching import FetchError, FetchLimits, fetch

    location = location or FeedsSettings().sofa
    try:
        return read_catalog(asyncio.run(fetch(location, None, FetchLimits())).document)
    except (FetchError, CatalogError) as error:
        fail(f"the catalog {location}: {error}")


def _selected(
    entries: "tuple[CatalogEntry, ...]", gdmf: Path | None, builds: list[str] | None, majors: int
) -> "tuple[CatalogEntry, ...]":
    """Return the entries to store. Exit 2 for a build that is not listed, or not offered."""
    from agents.installers.catalog import CatalogError, newest_of_each_major, read_offered_builds

    if gdmf is not None:
        try:
            offered = read_offered_builds(gdmf.read_bytes())
        except OSError as error:
            fail(f"cannot read {gdmf}: {error.strerror}")
        except CatalogError as error:
            fail(f"{gdmf}: {error}")
        entries = tuple(entry for entry in entries if entry.build in offered)
    if not builds:
        return newest_of_each_major(entries, majors)
    by_build = {entry.build: entry for entry in entries}
    wanted = dict.fromkeys(_builds(builds))
    for build in wanted:
        if build not in by_build:
            known = ", ".join(str(one) for one in by_build)
            fail(f"no installer of {build} is listed; listed are: {known or 'none'}")
    return tuple(by_build[build] for build in wanted)


def _builds(texts: list[str]) -> "list[Build]":
    from schemas.macos import parse_build

    found = []
    for text in texts:
        try:
            found.append(parse_build(text))
        except ValueError:
            fail(f"{text!r} is not a build of macOS, such as 25G72")
    return found


def _open(bucket: str, prefix: str, endpoint: str | None, region: str | None) -> "InstallerBucket":
    """Return the bucket. Exit 2 without boto3, and for an endpoint that is not a URL."""
    from agents.installers.bucket import BucketConfig, InstallerBucket

    config = BucketConfig(bucket=bucket, prefix=prefix, endpoint=endpoint, region=region)
    try:
        return InstallerBucket(config)
    except ValueError as error:
        fail(f"the bucket: {error}")


@contextmanager
def _refusals() -> Iterator[None]:
    """End the command if boto3 is missing, S3 refuses a request (exit 2) or is away (exit 1)."""
    try:
        from agents.installers.bucket import BucketRefusedError
        from agents.installers.transfer import TransferCutError
    except ImportError:
        fail("boto3 is missing: install drydock[s3]")
    try:
        yield
    except BucketRefusedError as error:
        fail(str(error))
    except TransferCutError as error:
        sys.stderr.write(f"drydock: {error}\n")
        raise typer.Exit(ATTENTION) from error


def _read(opened: "InstallerBucket", build: "Build") -> "tuple[StoredInstaller | None, str | None]":
    """Return the object of a build, or the problem with it."""
    from agents.installers.bucket import UnusableObjectError

    try:
        return opened.find(build), None
    except UnusableObjectError as error:
        return None, str(error)


def _print_result(result: "SyncResult", *, as_json: bool) -> None:
    entry = result.entry
    row: dict[str, Any] = {
        "build": str(entry.build),
        "version": str(entry.version),
        "outcome": result.outcome.value,
        "size_bytes": entry.size_bytes,
        "sha256": None if result.stored is None else result.stored.sha256,
        "detail": result.detail or None,
    }
    if as_json:
        emit(json.dumps(row))
        return
    size = f"{entry.size_bytes / 1e9:.1f} GB"
    line = f"{row['build']:10} {row['version']:9} {size:>8}  {row['outcome']}"
    emit(f"{line}: {result.detail}" if result.detail else line)


def _print_stored(
    build: "Build", stored: "StoredInstaller | None", problem: str | None, *, as_json: bool
) -> None:
    if as_json:
        row: dict[str, Any] = {"build": str(build), "problem": problem}
        if stored is not None:
            row |= {
                "version": str(stored.version),
                "size_bytes": stored.size_bytes,
                "sha256": stored.sha256,
                "origin": stored.origin,
                "stored_at": stored.stored_at.isoformat(),
            }
        emit(json.dumps(row))
        return
    if stored is None:
        emit(f"{build!s:10} {problem}")
        return
    size = f"{stored.size_bytes / 1e9:.1f} GB"
    line = f"{build!s:10} {stored.version!s:9} {size:>8}  {stored.sha256[:16]}"
    emit(f"{line}  {problem}" if problem else line)

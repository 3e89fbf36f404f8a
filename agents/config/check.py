"""Summary of a valid configuration: sites, servers, SSH, installers, usable secrets, the lock."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from agents.config.model import (
    ActivationConfig,
    BucketAccess,
    InstallersConfig,
    MdmServerConfig,
    SiteConfig,
    SshConfig,
)
from agents.config.secrets import SecretError, read_erase_pin, read_secret
from runtime.secret_refs import SecretRef
from schemas.jobs import DESTRUCTIVE_METHODS

Read = Callable[[SecretRef, Mapping[str, str]], SecretStr]


def unusable_secrets(site: SiteConfig, environment: Mapping[str, str]) -> list[str]:
    """Return the reason for each secret of the site that cannot be used."""
    logins = [server.login for server in site.mdm_servers]
    logins += [server.ddm.login for server in site.mdm_servers if server.ddm is not None]
    if site.ssh is not None and site.ssh.volume_owner is not None:
        logins.append(site.ssh.volume_owner.password)
    logins += other_secrets(site).values()
    problems = [secret_problem(login, environment) for login in logins]
    if site.ssh is not None:
        problems.append(file_problem(site.ssh.key))
    if site.erase_pin is not None:
        problems.append(secret_problem(site.erase_pin, environment, read_erase_pin))
    return [problem for problem in problems if problem is not None]


def other_secrets(site: SiteConfig) -> dict[str, SecretRef]:
    """Return the secrets of buckets, content caches and activations, by what they are."""
    found: dict[str, SecretRef | None] = {}
    if site.installers is not None:
        found["access key of the bucket"] = site.installers.bucket.access_key
        found["secret key of the bucket"] = site.installers.bucket.secret_key
        found["secret of content caches"] = site.installers.report_secret
    if site.ssh is not None and site.ssh.images_from is not None:
        found["access key of the images"] = site.ssh.images_from.access_key
        found["secret key of the images"] = site.ssh.images_from.secret_key
    if site.ssh is not None:
        for name, activation in site.ssh.activations.items():
            found[f"secret of the activation {name}"] = activation.secret
    return {name: reference for name, reference in found.items() if reference is not None}


def secret_problem(
    reference: SecretRef, environment: Mapping[str, str], read: Read = read_secret
) -> str | None:
    """Return the reason for which a secret cannot be used, None if it can."""
    try:
        read(reference, environment)
    except SecretError as error:
        return str(error)
    return None


def file_problem(path: str) -> str | None:
    """Return the reason for which a file cannot be read, None if it can."""
    try:
        Path(path).read_bytes()
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return None


def summary_row(name: str, site: SiteConfig, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the summary of a site as JSON values; a secret has its place only."""

    def secret(reference: SecretRef, read: Read = read_secret) -> dict[str, Any]:
        problem = secret_problem(reference, environment, read)
        return {"from": str(reference), "is_set": problem is None, "problem": problem}

    def server_row(server: MdmServerConfig) -> dict[str, Any]:
        row = server.model_dump(mode="json", exclude={"login", "ddm"})
        ddm = server.ddm and {"url": server.ddm.url, "login": secret(server.ddm.login)}
        return {**row, "login": secret(server.login), "ddm": ddm}

    def ssh_row(ssh: SshConfig) -> dict[str, Any]:
        owner = ssh.volume_owner
        password = owner and {"user": owner.user, "password": secret(owner.password)}
        row = ssh.model_dump(mode="json", exclude={"volume_owner", "images_from", "activations"})
        return {
            **row,
            "key_problem": file_problem(ssh.key),
            "volume_owner": password,
            "images_from": ssh.images_from and bucket_row(ssh.images_from),
            "activations": {name: activation_row(one) for name, one in ssh.activations.items()},
        }

    def activation_row(activation: ActivationConfig) -> dict[str, Any]:
        row = activation.model_dump(mode="json", exclude={"secret"})
        return {**row, "secret": activation.secret and secret(activation.secret)}

    def bucket_row(bucket: BucketAccess) -> dict[str, Any]:
        keys = {"access_key": bucket.access_key, "secret_key": bucket.secret_key}
        return bucket.model_dump(mode="json", exclude=set(keys)) | {
            name: key and secret(key) for name, key in keys.items()
        }

    def installers_row(installers: InstallersConfig) -> dict[str, Any]:
        reports = installers.report_secret
        return {
            **installers.model_dump(mode="json", exclude={"bucket", "report_secret"}),
            "bucket": bucket_row(installers.bucket),
            "report_secret": reports and secret(reports),
        }

    return {
        "kind": "site",
        "site": name,
        "time_zone": site.time_zone,
        "methods": list(site.methods),
        "mdm_servers": [server_row(server) for server in site.mdm_servers],
        "ssh": site.ssh and ssh_row(site.ssh),
        "installers": site.installers and installers_row(site.installers),
        "locked": sorted(set(site.methods) & DESTRUCTIVE_METHODS),
        "allow_destructive": sorted(site.allow_destructive),
        "accept_permits": site.accept_permits,
        "erase_pin": site.erase_pin and secret(site.erase_pin, read_erase_pin),
        "limits": site.limits.model_dump(mode="json"),
    }


def summary_lines(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that show a summary to a person."""
    yield f"{row['site']} ({row['time_zone']})"
    yield f"  methods: {', '.join(row['methods'])}"
    for server in row["mdm_servers"]:
        yield f"  server {server['name']}: {server['kind']} at {server['url']}"
        yield (
            f"    at most {server['max_requests_per_s']:g} requests/s,"
            f" {server['max_open_commands']} open commands,"
            f" {server['max_queries_per_minute']} queries/min; timeout {server['timeout_s']:g} s"
        )
        yield f"    login: {_secret(server['login'])}"
        if server["ddm"]:
            ddm = server["ddm"]
            yield f"    declarations at {ddm['url']}; login: {_secret(ddm['login'])}"
    if row["ssh"]:
        yield from _ssh_lines(row["ssh"])
    yield from _installer_lines(row["installers"])
    yield f"  erase, reinstall and migration: {_lock(row)}"
    if row["erase_pin"]:
        yield f"  PIN for an erase: {_secret(row['erase_pin'])}"
    limits = row["limits"]
    yield (
        f"  limits: {limits['disk_update_gb']:g} GB free for an update,"
        f" {limits['disk_upgrade_gb']:g} GB for an upgrade; battery"
        f" {limits['battery_apple_silicon']:g} % on Apple silicon, {limits['battery_intel']:g} % on"
        " Intel"
    )


def _ssh_lines(row: Mapping[str, Any]) -> Iterator[str]:
    address, others = row["address"] or "no other address", len(row["addresses"])
    yield f"  SSH as {row['user']} to {address}, {others} by serial number, port {row['port']}"
    yield f"    key: {row['key_problem'] or row['key']}; host keys: {row['known_hosts']}"
    if row["volume_owner"]:
        owner = row["volume_owner"]
        yield f"    volume owner {owner['user']}: {_secret(owner['password'])}"
    if row["images_from"]:
        yield from _bucket_lines("  images of", row["images_from"])
    for image in row["images"]:
        yield (
            f"    image {image['name']}: macOS {image['version']} ({image['build']}), firmware"
            f" {image['firmware']}, for {', '.join(image['models'])}, {_gb(image['size_bytes'])} GB"
            f" at {image['url']}, restored to the volume {image['volume']}"
        )
    for name, activation in row["activations"].items():
        given = f", {_secret(activation['secret'])}" if activation["secret"] else ""
        yield f"    activation {name}: {activation['command'][0]}{given}"


def _installer_lines(row: Mapping[str, Any] | None) -> Iterator[str]:
    if row is None:
        yield "  installers: each Mac fetches its own from Apple"
        return
    yield from _bucket_lines("installers:", row["bucket"])
    yield (
        f"    cache: {row['folder']}, at most {row['budget_gb']:g} GB, {row['reserve_gb']:g} GB of"
        f" the volume stay free; served at {row['url']} by {row['listen']}"
    )
    reports = row["report_secret"]
    yield f"    reports of content caches: {_secret(reports) if reports else 'not accepted'}"


def _bucket_lines(use: str, bucket: Mapping[str, Any]) -> Iterator[str]:
    at = bucket["endpoint"] or f"Amazon S3, region {bucket['region'] or 'of the machine'}"
    yield f"  {use} bucket {bucket['name']}/{bucket['prefix']} at {at}"
    if bucket["access_key"]:
        keys = (_secret(bucket[name]) for name in ("access_key", "secret_key"))
        yield f"    login: {', '.join(keys)}"
    else:
        yield "    login: the machine's"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.3g}"


def _secret(row: Mapping[str, Any]) -> str:
    return f"{row['from']} is set" if row["is_set"] else row["problem"]


def _lock(row: Mapping[str, Any]) -> str:
    allowed = row["allow_destructive"]
    excepted = []
    if allowed:
        excepted.append(f"{len(allowed)} Mac{'s'[: len(allowed) > 1]}: {', '.join(allowed)}")
    if row["accept_permits"]:
        excepted.append("jobs with a permit of the policy")
    return f"locked but for {', and '.join(excepted)}" if excepted else "locked for every Mac"

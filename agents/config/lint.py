"""Warnings about valid configurations that probably do not do what their author wants. Pure."""

from collections.abc import Iterator

from agents.config.file import AgentConfigDocument
from agents.config.model import SiteConfig, is_loopback
from runtime.located_yaml import Path, Problem, path_text
from runtime.yaml_model import locate
from schemas.jobs import DESTRUCTIVE_METHODS, MDM_METHODS, SSH_METHODS, Method

_Found = Iterator[tuple[Path, str]]


def lint(document: AgentConfigDocument) -> list[Problem]:
    """Return the warnings in the order of their lines."""
    found = [
        (("sites", name, *path), message)
        for name, site in document.config.sites.items()
        for check in (_methods, _plain_http, _lock)
        for path, message in check(site)
    ]
    return sorted(
        Problem(*locate(document.root, path).location, path_text(path), message)
        for path, message in found
    )


def _methods(site: SiteConfig) -> _Found:
    if site.mdm_servers and MDM_METHODS.isdisjoint(site.methods):
        yield ("mdm_servers",), "no method of this site uses an MDM server"
    if site.ssh is not None and SSH_METHODS.isdisjoint(site.methods):
        yield ("ssh",), "no method of this site uses SSH"
    if site.ssh is not None and site.ssh.volume_owner is None and _updates_over_ssh(site):
        message = "without `volume_owner` no Mac with Apple silicon is updated over SSH"
        yield ("ssh",), message


def _updates_over_ssh(site: SiteConfig) -> bool:
    return not {Method.SOFTWAREUPDATE, Method.STARTOSINSTALL}.isdisjoint(site.methods)


def _plain_http(site: SiteConfig) -> _Found:
    for index, server in enumerate(site.mdm_servers):
        urls: dict[Path, str] = {("url",): server.url}
        if server.ddm is not None:
            urls["ddm", "url"] = server.ddm.url
        for path, url in urls.items():
            if url.startswith("http:") and not is_loopback(url):
                message = "sends the login over the network without TLS; use https"
                yield ("mdm_servers", index, *path), message


def _lock(site: SiteConfig) -> _Found:
    locked = [method for method in site.methods if method in DESTRUCTIVE_METHODS]
    if locked and not site.allow_destructive and not site.accept_permits:
        names = ", ".join(locked)
        yield ("methods",), f"{names}: locked for every Mac, since `allow_destructive` is empty"
    if site.allow_destructive and not locked:
        yield ("allow_destructive",), "no method of this site erases or reinstalls a Mac"
    if site.accept_permits and not locked:
        yield ("accept_permits",), "no method of this site erases or reinstalls a Mac"

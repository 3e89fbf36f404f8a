"""Declarative management on a Mac: what is declared, what is active, and the status reports.

Format: github.com/apple/device-management, declarative/.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

ACTIVATION: Final = "com.apple.activation.simple"
ENFORCEMENT: Final = "com.apple.configuration.softwareupdate.enforcement.specific"
SUBSCRIPTIONS: Final = "com.apple.configuration.management.status-subscriptions"
_DECLARATIONS_ITEM: Final = "management.declarations"
# Reported once after an enrollment, without a subscription.
_FIRST_ITEMS: Final = ("device.", "management.client-capabilities")
_KINDS: Final = {
    "Activations": "activation",
    "Assets": "asset",
    "Configurations": "configuration",
    "Management": "management",
}

StatusItems = Mapping[str, Any]  # by their dotted names: `softwareupdate.install-state`


class DeclarativeServer(Protocol):
    """The requests of declarative management."""

    def declarative(self, endpoint: str, sent: dict[str, Any] | None = None) -> Any:
        """Send a message and return the response, decoded from JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Declared:
    """A declaration as the server has it, with its kind in the manifest."""

    kind: str
    content: Mapping[str, Any]

    @property
    def identifier(self) -> str:
        """Its identifier."""
        return str(self.content["Identifier"])

    @property
    def payload(self) -> Mapping[str, Any]:
        """Its content without the fields that all declarations have."""
        payload: Mapping[str, Any] = self.content["Payload"]
        return payload


@dataclass(frozen=True, slots=True)
class Report:
    """A status report, as it is sent, and its items by their dotted names."""

    body: dict[str, Any]
    items: StatusItems


class Declarations:
    """The declarations on one Mac and the status that its server already has.

    `supported` returns the configuration types that this Mac knows; another one is not valid.
    """

    def __init__(self, supported: Callable[[], Iterable[str]]) -> None:
        self._supported = supported
        self._declared: dict[str, Declared] = {}
        self._reported: dict[str, Any] | None = None
        self.is_enabled = False  # until the server first asks for it

    @property
    def names(self) -> list[str]:
        """The identifiers of the declarations on the Mac."""
        return sorted(self._declared)

    def forget(self) -> None:
        """Forget everything: an enrollment ended or began."""
        self._declared.clear()
        self._reported = None
        self.is_enabled = False

    def fetch(self, server: DeclarativeServer) -> None:
        """Make the declarations equal to the server's, and fetch the contents that differ.

        The manifest decides, not DeclarationsToken: KMFDDM's default storage changes that token
        without a change (v0.8.3).
        """
        server.declarative("tokens")
        manifest = server.declarative("declaration-items")["Declarations"]
        listed: dict[str, Declared] = {}
        for plural, kind in _KINDS.items():
            for item in manifest.get(plural, []):
                identifier, token = item["Identifier"], item["ServerToken"]
                known = self._declared.get(identifier)
                if known is None or known.content["ServerToken"] != token:
                    content = server.declarative(f"declaration/{kind}/{identifier}")
                    known = Declared(plural, content)
                listed[identifier] = known
        self._declared = listed
        self.is_enabled = True

    def active(self, declaration_type: str) -> list[Declared]:
        """Return the active, supported configurations of a type, by identifier."""
        active = self._activated()
        return [
            declared
            for identifier, declared in sorted(self._declared.items())
            if identifier in active
            and declared.content["Type"] == declaration_type
            and self._is_supported(declared)
        ]

    def report(self, items: StatusItems) -> "Report | None":
        """Return the next status report from the Mac's present `items`; None if nothing is new.

        The first one is full. Later ones have the changed items among those subscribed to.
        Call `sent` when the server has accepted it.
        """
        known = {**items, _DECLARATIONS_ITEM: self._statuses()}
        subscriptions = self.active(SUBSCRIPTIONS)
        names = [
            str(item["Name"]) for each in subscriptions for item in each.payload["StatusItems"]
        ]
        wanted = {_DECLARATIONS_ITEM, *names} & known.keys()
        first = self._reported is None
        if first:
            wanted |= {name for name in known if name.startswith(_FIRST_ITEMS)}
        before = self._reported or {}
        new = {name: known[name] for name in sorted(wanted) if before.get(name) != known[name]}
        if not new:
            return None
        errors = [
            {"StatusItem": name, "Reasons": [{"Code": "Error.StatusItemNotSupported"}]}
            for name in names
            if name not in known
        ]
        full = {"FullReport": True} if first else {}
        return Report({"StatusItems": _nested(new), "Errors": errors, **full}, new)

    def sent(self, report: "Report") -> None:
        """Remember that the server has this report."""
        self._reported = {**(self._reported or {}), **report.items}

    def _activated(self) -> set[str]:
        return {
            str(identifier)
            for declared in self._declared.values()
            if declared.content["Type"] == ACTIVATION
            for identifier in declared.payload["StandardConfigurations"]
        }

    def _is_supported(self, declared: Declared) -> bool:
        return declared.kind != "Configurations" or declared.content["Type"] in self._supported()

    def _statuses(self) -> dict[str, list[dict[str, Any]]]:
        """Return the value of `management.declarations`."""
        active = self._activated()
        found: dict[str, list[dict[str, Any]]] = {kind.lower(): [] for kind in _KINDS}
        for identifier, declared in sorted(self._declared.items()):
            status: dict[str, Any] = {
                "identifier": identifier,
                "server-token": declared.content["ServerToken"],
                "active": declared.kind != "Configurations" or identifier in active,
                "valid": "valid",
            }
            if not self._is_supported(declared):
                status |= {"active": False, "valid": "invalid"}
                status["reasons"] = [{"code": "Error.ConfigurationNotSupported"}]
            elif not status["active"]:
                status["valid"] = "unknown"
                status["reasons"] = [{"code": "Info.NotReferencedByActivation"}]
            found[declared.kind.lower()].append(status)
        return found


def _nested(items: StatusItems) -> dict[str, Any]:
    """Return the items as the tree of a status report."""
    tree: dict[str, Any] = {}
    for name, value in items.items():
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return tree

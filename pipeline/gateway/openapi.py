"""The HTTP interface for inputs as an OpenAPI 3.1 document (spec.openapis.org/oas/v3.1.0)."""

from collections.abc import Iterable
from typing import Any, Final

from pipeline.ingest.feed_review import REFUSALS, FeedOutcome
from pipeline.ingest.sources import FEED_DIFFS, WEBHOOK_SOURCES
from schemas import envelope

_ERROR_DESCRIPTIONS: Final = {
    "400": "The events are invalid, and none is accepted. `errors` has the place of each problem.",
    "401": "The secret or signature is missing or wrong.",
    "403": "No secret is configured for this source, or a web page sent the request.",
    "408": "The body was not complete in time.",
    "413": "The body or an event is too large.",
    "415": "The body has a content-encoding, such as gzip.",
    "429": "Too many requests are in progress. Retry after the seconds in Retry-After.",
    "503": "The events cannot be made durable now. Retry after the seconds in Retry-After.",
}
_FEED_OUTCOME: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["outcome", "events", "dead_letters"],
    "properties": {
        "outcome": {"enum": sorted({*REFUSALS, FeedOutcome.ACCEPTED, FeedOutcome.UNCHANGED})},
        "events": {"type": "integer", "minimum": 0},
        "dead_letters": {"type": "integer", "minimum": 0},
        "refused": {"type": "string"},
    },
}
_INPUT_ERRORS: Final = ("401", "403", "408", "413", "415", "429", "503")
_SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic"},
    "secret": {"type": "apiKey", "in": "header", "name": "X-Drydock-Secret"},
    "hmac": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Hmac-Signature",
        "description": "base64 of HMAC-SHA256 over the body: NanoMDM's -webhook-hmac-key.",
    },
}
_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"basic": []}, {"secret": []}]


def openapi_document(*, with_feeds: bool) -> dict[str, Any]:
    """Return the OpenAPI document of the routes for senders and probes.

    `with_feeds` adds /v1/feeds. Routes for operators are not in the document.
    """
    feeds = {"/v1/feeds/{source}": {"post": _feed()}} if with_feeds else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Drydock gateway",
            "version": "1",
            "description": "Accepts webhooks and events. Responds 200 once they are durable.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/webhooks/{source}": {"post": _webhook()},
            "/v1/events": {"post": _events()},
            **feeds,
            "/healthz": {"get": _probe_operation("healthz", "200: the process runs.", "200")},
            "/readyz": {
                "get": _probe_operation(
                    "readyz", "200 if inputs are accepted, else 503 and `reason`.", "200", "503"
                )
            },
            "/metrics": {"get": _probe_operation("metrics", "Prometheus metrics.", "200")},
            "/openapi.json": {"get": _probe_operation("openapi", "This document.", "200")},
        },
        "components": {
            "securitySchemes": _SECURITY_SCHEMES,
            "schemas": {
                "Accepted": {
                    "type": "object",
                    "required": ["events", "dead_letters"],
                    "properties": {
                        "events": {"type": "integer", "minimum": 0},
                        "dead_letters": {"type": "integer", "minimum": 0},
                    },
                },
                **({"FeedOutcome": _FEED_OUTCOME} if with_feeds else {}),
                "Problem": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {"type": "string"},
                        "errors": {"type": "array", "items": {"type": "object"}},
                    },
                },
                # Its own $id: the references inside it are relative to this schema.
                "Event": {"$id": "urn:drydock:event", **envelope.schema()},
            },
        },
    }


def _webhook() -> dict[str, Any]:
    payload = {"schema": {}, "example": {"topic": "mdm.Connect"}}
    return {
        "operationId": "webhook",
        "summary": "Accept the payload of a source that reports on Macs.",
        "description": "The unusable parts of a payload become dead letters, and the response is"
        " 200 all the same: webhook senders do not retry.",
        "security": [*_SECURITY, {"hmac": []}],
        "parameters": [_source(WEBHOOK_SOURCES)],
        "requestBody": {
            "required": True,
            "content": {"application/json": payload, "application/xml": {"schema": {}}},
        },
        "responses": _responses(*_INPUT_ERRORS),
    }


def _feed() -> dict[str, Any]:
    losses = {
        "name": "accept",
        "in": "query",
        "description": "Accept a document that lacks many earlier entries.",
        "schema": {"type": "string", "enum": ["losses"]},
    }
    return {
        "operationId": "feed",
        "summary": "Compare a whole document of a feed with earlier ones, and accept its changes.",
        "security": _SECURITY,
        "parameters": [_source(FEED_DIFFS), losses],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}},
        "responses": _responses(*_INPUT_ERRORS, schema="FeedOutcome"),
    }


def _source(names: Iterable[str]) -> dict[str, Any]:
    return {
        "name": "source",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": list(names)},
    }


def _events() -> dict[str, Any]:
    event = {"$ref": "#/components/schemas/Event"}
    return {
        "operationId": "events",
        "summary": "Accept events about Macs and advisories as CloudEvents: all of them, or none.",
        "security": _SECURITY,
        "requestBody": {
            "required": True,
            "content": {
                envelope.MEDIA_TYPE: {"schema": event},
                "application/cloudevents-batch+json": {"schema": {"type": "array", "items": event}},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
        "responses": _responses("400", *_INPUT_ERRORS),
    }


def _probe_operation(name: str, description: str, *statuses: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": description,
        "security": [],
        "responses": {status: {"description": description} for status in statuses},
    }


def _responses(*statuses: str, schema: str = "Accepted") -> dict[str, Any]:
    accepted = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "200": {
            "description": "Durable: in Kafka, in the spool, or in SQLite.",
            "content": accepted,
        },
        **{
            each: {"description": _ERROR_DESCRIPTIONS[each], "content": problem}
            for each in statuses
        },
    }

"""The gateway's HTTP interface as an OpenAPI 3.1 document (spec.openapis.org/oas/v3.1.0)."""

from typing import Any, Final

from pipeline.ingest.sources import WEBHOOK_SOURCES
from schemas.envelope import schema

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
_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"basic": []}, {"secret": []}]


def gateway_document() -> dict[str, Any]:
    """Return the OpenAPI document of `drydock gateway`."""
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
            "/healthz": {"get": _probe_operation("healthz", "200: the process runs.", "200")},
            "/readyz": {
                "get": _probe_operation("readyz", "200 if inputs are accepted.", "200", "503")
            },
            "/metrics": {"get": _probe_operation("metrics", "Prometheus metrics.", "200")},
            "/openapi.json": {"get": _probe_operation("openapi", "This document.", "200")},
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
                "secret": {"type": "apiKey", "in": "header", "name": "X-Drydock-Secret"},
                "hmac": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Hmac-Signature",
                    "description": "base64 of HMAC-SHA256 over the body: NanoMDM's"
                    " -webhook-hmac-key.",
                },
            },
            "schemas": {
                "Accepted": {
                    "type": "object",
                    "required": ["events", "dead_letters"],
                    "properties": {
                        "events": {"type": "integer", "minimum": 0},
                        "dead_letters": {"type": "integer", "minimum": 0},
                    },
                },
                "Problem": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {"type": "string"},
                        "errors": {"type": "array", "items": {"type": "object"}},
                    },
                },
                # Its own $id: the references inside it are relative to this schema.
                "Event": {"$id": "urn:drydock:event", **schema()},
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
        "parameters": [
            {
                "name": "source",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "enum": list(WEBHOOK_SOURCES)},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": payload, "application/xml": {"schema": {}}},
        },
        "responses": _responses("401", "403", "408", "413", "415", "429", "503"),
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
                "application/cloudevents+json": {"schema": event},
                "application/cloudevents-batch+json": {"schema": {"type": "array", "items": event}},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
        "responses": _responses("400", "401", "403", "408", "413", "415", "429", "503"),
    }


def _probe_operation(name: str, description: str, *statuses: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": description,
        "security": [],
        "responses": {status: {"description": description} for status in statuses},
    }


def _responses(*statuses: str) -> dict[str, Any]:
    taken = {"application/json": {"schema": {"$ref": "#/components/schemas/Accepted"}}}
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "200": {"description": "Durable: in Kafka, or in the spool.", "content": taken},
        **{
            each: {"description": _ERROR_DESCRIPTIONS[each], "content": problem}
            for each in statuses
        },
    }

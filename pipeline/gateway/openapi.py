"""What the gateway takes and answers, as OpenAPI 3.1 (spec.openapis.org/oas/v3.1.0)."""

from typing import Any, Final

from pipeline.config import WEBHOOK_SOURCES
from schemas.envelope import schema

_ERROR_DESCRIPTIONS: Final = {
    "400": "Nothing of it can be used; `errors` names places, where it is a batch of events.",
    "401": "The secret or signature is missing or wrong.",
    "403": "No secret is configured for this source.",
    "408": "The body did not come in time.",
    "413": "It is too large.",
    "415": "It has a content-encoding.",
    "429": "Too much is under way; Retry-After says when to come again.",
    "503": "Kafka is away and the spool is full; Retry-After says when to come again.",
}
_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"basic": []}, {"secret": []}]


def gateway_document() -> dict[str, Any]:
    """The document of `drydock gateway`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Drydock gateway",
            "version": "1",
            "description": "Facts in. 200 is answered once they are durable.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/webhooks/{source}": {"post": _webhook()},
            "/v1/events": {"post": _events()},
            "/healthz": {"get": _probe_operation("healthz", "The process answers.", "200")},
            "/readyz": {
                "get": _probe_operation("readyz", "Whether inputs are taken.", "200", "503")
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
                # With an id of its own: what it refers to is inside it.
                "Event": {"$id": "urn:drydock:event", **schema()},
            },
        },
    }


def _webhook() -> dict[str, Any]:
    payload = {"schema": {}, "example": {"topic": "mdm.Connect"}}
    return {
        "operationId": "webhook",
        "summary": "A payload of a source that tells of Macs.",
        "description": "What cannot be used of it is a dead letter, and answered 200 too: its"
        " sender does not try again.",
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
        "summary": "Facts about Macs and advisories, as CloudEvents: all are taken, or none.",
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

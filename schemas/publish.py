"""The published contract: a JSON Schema for every wire model, and an AsyncAPI 3.0 document.

Pure: it returns the content of `schemas/published/`. `drydock schemas` writes or compares files.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, get_args

from pydantic import BaseModel

from schemas.dead_letters import DeadLetter
from schemas.decisions import Decision, DecisionRecord
from schemas.envelope import MEDIA_TYPE, CloudEvent, Event
from schemas.events.control import Approval
from schemas.jobs import Job
from schemas.model import WireModel
from schemas.results import JobResult
from schemas.topics import TOPICS, Topic

ASYNCAPI_NAME: Final = "asyncapi.json"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

EVENTS: Final[tuple[type[CloudEvent], ...]] = get_args(Event)
# Models inside events or beside them. Job and Approval are also payloads of signatures.
DOCUMENTS: Final[tuple[type[WireModel], ...]] = (
    Approval,
    DeadLetter,
    Decision,
    DecisionRecord,
    Job,
    JobResult,
)


def event_type(model: type[CloudEvent]) -> str:
    """Return the CloudEvents type of an event class, such as `drydock.job.issued.v1`."""
    return str(model.model_fields["type"].default)


def file_name(model: type[BaseModel]) -> str:
    """Return the file name of a model's schema, ending in `.schema.json`.

    It begins with the type for an event, else with the class name in kebab case (`dead-letter`).
    """
    if issubclass(model, CloudEvent):
        return f"{event_type(model)}.schema.json"
    kebab_name = "".join(f"-{c.lower()}" if c.isupper() else c for c in model.__name__).lstrip("-")
    return f"{kebab_name}.schema.json"


def published(extra: Mapping[str, dict[str, Any]]) -> dict[str, bytes]:
    """Return the content of each published file by its name.

    The files are one JSON Schema for each event and each model of DOCUMENTS, and the AsyncAPI
    document. `extra` adds schemas of other packages by their short name (`policy`).
    """
    schemas = {file_name(model): model_schema(model) for model in (*EVENTS, *DOCUMENTS)}
    schemas |= {f"{name}.schema.json": schema for name, schema in extra.items()}
    files = {
        name: {"$schema": DIALECT, "$id": f"urn:drydock:{name.removesuffix('.schema.json')}"}
        | schema
        for name, schema in schemas.items()
    }
    files[ASYNCAPI_NAME] = asyncapi()
    return {name: to_bytes(document) for name, document in sorted(files.items())}


def model_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of the values that a reader of this model accepts.

    For an event, `type` and `specversion` are required, because CloudEvents requires them, although
    the reader has defaults for both.
    """
    schema = model.model_json_schema()
    if issubclass(model, CloudEvent):
        schema["required"] = sorted({*schema["required"], "specversion", "type"})
    return schema


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """Return indented JSON with a final newline; equal documents give equal bytes."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def asyncapi() -> dict[str, Any]:
    """Return the topics and their messages as AsyncAPI 3.0.

    https://www.asyncapi.com/docs/reference/specification/v3.0.0. It has channels but no operations:
    senders and receivers depend on the form in which Drydock runs (Kafka or embedded).
    """
    models = {model.__name__: model for topic in TOPICS for model in topic.models}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Drydock",
            "version": "1",
            "description": "Events about Macs, decisions, jobs, and the results of jobs."
            " Events are CloudEvents 1.0 in structured JSON mode; their records on Kafka have the"
            f" header `content-type: {MEDIA_TYPE}`.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {_channel_id(topic): _channel(topic) for topic in TOPICS},
        "components": {
            "messages": {name: _message(model) for name, model in sorted(models.items())}
        },
    }


def _channel_id(topic: Topic) -> str:
    """Return the topic's name without prefix, site and version: `jobs`, `dead-letters`."""
    return topic.name.removeprefix("drydock.").removesuffix(".v1").replace(".{site}", "")


def _channel(topic: Topic) -> dict[str, Any]:
    retention = -1 if topic.retention is None else round(topic.retention.total_seconds() * 1000)
    channel: dict[str, Any] = {
        "address": topic.name,
        "description": f"{topic.description} Key: {topic.key}.",
        "messages": {
            model.__name__: {"$ref": f"#/components/messages/{model.__name__}"}
            for model in topic.models
        },
        "bindings": {
            "kafka": {
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": ["compact" if topic.compacted else "delete"],
                    "retention.ms": retention,
                },
                "bindingVersion": "0.5.0",
            }
        },
    }
    if "{site}" in topic.name:
        channel["parameters"] = {"site": {"description": "The site's name in the policy."}}
    return channel


def _message(model: type[WireModel]) -> dict[str, Any]:
    if issubclass(model, CloudEvent):
        name, media = event_type(model), MEDIA_TYPE
        doc = str(getattr(model.model_fields["data"].annotation, "__doc__", ""))
    else:
        name, media = model.__name__, "application/json"
        doc = str(model.__doc__)
    return {
        "name": name,
        "summary": doc.strip().splitlines()[0],
        "contentType": media,
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"./{file_name(model)}"},
        },
    }

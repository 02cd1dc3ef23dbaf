"""What clients were promised: the committed OpenAPI document and JSON Schemas in docs/schemas, and what breaks them.

`python -m tests.api.promises` writes them anew, once a test has shown that nothing is taken away.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from service.api.app import create_app
from service.api.messages import SCHEMAS

from .fake import FakeService

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
WORDS = {"description", "title", "summary", "example", "examples", "externalDocs", "operationId", "tags", "version"}
# Of lists in which each entry is a promise of its own: what the service sends may gain entries.
LOOSE = {"enum", "oneOf", "anyOf", "parameters", "security"}


def current() -> dict[str, Any]:
    """Each document by its file's name, as it is today."""
    service = FakeService()
    document = asyncio.run(_served(create_app(service.as_service), "/openapi.json"))
    return {f"{name}.json": schema for name, schema in SCHEMAS.items()} | {"openapi.json": document}


async def _served(app: FastAPI, path: str) -> Any:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        return (await client.get(path)).raise_for_status().json()


def broken(old: Any, new: Any, at: str = "", *, sent: bool = False) -> list[str]:
    """Where `new` takes away what `old` promised; words may change, additions are no break.

    sent: the document tells what clients send, so that no further field may be required of them; else what they get,
    of which no field may become optional.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        gone = [f"{at}/{name} is gone" for name in old.keys() - new.keys() - WORDS if name != "required"]
        both = [name for name in old if name in new and (name not in WORDS or isinstance(old[name], dict))]
        inner = [
            each
            for name in both
            if name != "required"
            for each in broken(old[name], new[name], f"{at}/{name}", sent=sent)
        ]
        return gone + inner + _required(old, new, at, sent)
    if isinstance(old, list) and isinstance(new, list):
        if at.rpartition("/")[2] in LOOSE:
            return [
                f"{at} lacks {_name(each)}" for each in old if not any(not broken(each, one, sent=sent) for one in new)
            ]
        if len(old) != len(new):
            return [f"{at} had {len(old)} entries and has {len(new)}"]
        return [
            each
            for n, (a, b) in enumerate(zip(old, new, strict=True))
            for each in broken(a, b, f"{at}[{n}]", sent=sent)
        ]
    return [] if old == new else [f"{at} was {old!r} and is {new!r}"]


def _required(old: dict[str, Any], new: dict[str, Any], at: str, sent: bool) -> list[str]:
    before, after = old.get("required", []), new.get("required", [])
    if not isinstance(before, list) or not isinstance(after, list):  # a parameter's or a property's own
        return [] if before == after or (sent and before) else [f"{at}/required was {before} and is {after}"]
    wrong = set(after) - set(before) if sent else set(before) - set(after)
    return [f"{at}: `{name}` is {'now' if sent else 'no longer'} required" for name in sorted(wrong)]


def _name(entry: Any) -> str:
    return str(entry.get("name", entry))[:80] if isinstance(entry, dict) else repr(entry)


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, document in current().items():
        (FOLDER / name).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()

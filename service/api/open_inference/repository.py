"""The models as the Open Inference Protocol lists them: names, versions, state, and what a load may ask for.

Each model in use goes by its own name; `pose`, `lift` and `photo` stand for whatever serves them. Knows no tensors but
those that `models` lists, and no bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.errors import NotReady, OutOfRange, Unknown
from service.store.manifest import ROLES

from ..schemas import json_object
from .models import KINDS
from .wire import BYTES, Parameters, TensorSpec

if TYPE_CHECKING:
    from service.assembly import Service

PIPELINE_VERSION = "1"  # of `photo`, which is no model of the store: its tensors' form
LOADING = "LOADING"


@dataclass(frozen=True)
class Served:
    """One model under one name. canonical: the name that it is counted under; label: name@version of the store's."""

    name: str
    canonical: str
    version: str
    role: str
    platform: str


def served(service: Service) -> dict[str, Served]:
    """Everything that answers under /v2, by name."""
    models: dict[str, Served] = {}
    engines = {slot: engine for slot, engine in service.engines_in_use().items() if slot in ROLES}
    for role, engine in engines.items():
        name, _, version = engine["model"].partition("@")
        models[name] = Served(name, name, version, role, engine["runtime"])
        if role in ("pose", "lift"):
            models[role] = Served(role, name, version, role, engine["runtime"])
    if {"person", "pose", "lift"} <= set(engines):
        models["photo"] = Served("photo", "photo", PIPELINE_VERSION, "photo", "ensemble")
    return models


def find(service: Service, name: str, version: str | None) -> Served:
    """Raises Unknown for a name or version that is not served, NotReady while the models are being loaded."""
    models = served(service)
    if name not in models:
        if service.state == "starting":
            raise NotReady(f"the service is not ready: {service.reason or service.state}", retry_after_s=2.0)
        there = sorted(models)
        message = f"no model {name[:80]!r} is served; there are {', '.join(there)}"
        raise Unknown(message, field="model", limit=there)
    model = models[name]
    if version is not None and version != model.version:
        message = f"the model `{name}` has the version {model.version}; got {version[:80]!r}"
        raise Unknown(message, field="version", limit=[model.version])
    return model


def index(service: Service, *, only_ready: bool) -> list[dict[str, str]]:
    """The repository's index: the aliases, then every version that is in the store now, with its state and why.

    Reads the store's folder.
    """
    models = served(service)
    ready = service.state == "ready"
    rows = [
        _row(model.name, model.version, "READY" if ready else "UNAVAILABLE", service.reason or service.state)
        for model in models.values()
    ]
    known = {(row["name"], row["version"]) for row in rows}
    leaving = service.models_leaving
    unnamed = {engine["model"] for engine in service.engines_in_use().values()}  # beside those that answer by name
    for label, _, problem in service.store.survey():
        name, _, version = label.partition("@")
        if (name, version) in known:
            continue
        change = service.changes.get(label, "")
        if change == LOADING:
            rows.append(_row(name, version, LOADING, "being loaded and warmed"))
        elif label in leaving:
            rows.append(_row(name, version, "UNLOADING", "replaced; requests that began with it are being finished"))
        elif label in unnamed:
            rows.append(_row(name, version, "UNAVAILABLE", "in use for long sequences of /v1/lift; no name here"))
        else:
            failed = problem or (f"could not be loaded: {change}" if change else "")
            rows.append(_row(name, version, "UNAVAILABLE", failed or "in the store, not loaded"))
    return [row for row in rows if row["state"] == "READY" or not only_ready]


def _row(name: str, version: str, state: str, reason: str) -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": "" if state == "READY" else reason}


def asked_version(name: str, parameters: Parameters) -> str:
    """What a load asks for: `name`, or `name@version` by the parameter `version` or a `config` with a version policy.

    Raises:
        OutOfRange: files, other parameters, or a config that asks for something else; Unreadable: one that is no JSON.
    """
    known = ("version", "config")
    for given in parameters:
        if given not in known:
            message = (
                f"unknown parameter `{given[:80]}`; known are {', '.join(known)}: models come from the store alone"
            )
            raise OutOfRange(message, field=given[:80], limit=list(known))
    version = parameters.get("version")
    if (text := parameters.get("config")) is not None:
        policy = json_object(str(text).encode(), "config").get("version_policy", {})
        specific = policy.get("specific", {}) if isinstance(policy, dict) else None
        versions = specific.get("versions", []) if isinstance(specific, dict) else None
        if not isinstance(versions, list) or len(versions) > 1:
            message = '`config.version_policy` must be {"specific": {"versions": [one]}}: one version serves at a time'
            raise OutOfRange(message, field="config", limit=1)
        version = versions[0] if versions else version
    if version is None:
        return name
    if type(version) is bool or not re.fullmatch("[1-9][0-9]{0,8}", str(version)):
        message = f"`version` must be a whole number from 1; got {str(version)[:40]!r}"
        raise OutOfRange(message, field="version", limit="a whole number from 1")
    return f"{name}@{version}"


def metadata(service: Service, model: Served) -> dict[str, Any]:
    """What GET v2/models/M tells."""
    inputs, outputs = KINDS[model.role].tensors(service)
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": model.platform,
        "inputs": [_listed(spec) for spec in inputs],
        "outputs": [_listed(spec) for spec in outputs],
    }


def _listed(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def config(service: Service, model: Served) -> dict[str, Any]:
    """What GET v2/models/M/config tells, in the words of Triton's model configuration.

    Where requests are batches, `dims` leave their first axis out, as the convention has it.
    """
    kind = KINDS[model.role]
    inputs, outputs = kind.tensors(service)

    def listed(spec: TensorSpec) -> dict[str, Any]:
        kind_of = "STRING" if spec.datatype == BYTES else spec.datatype
        return {"name": spec.name, "data_type": f"TYPE_{kind_of}", "dims": list(spec.shape[kind.batches :])}

    values: dict[str, Any] = {
        "name": model.name,
        "platform": model.platform,
        "backend": "poselift",
        "version_policy": {"specific": {"versions": [int(model.version)]}},
        "max_batch_size": service.settings.queue_rows if kind.batches else 0,
        "input": [listed(spec) for spec in inputs],
        "output": [listed(spec) for spec in outputs],
        "parameters": {"note": {"string_value": kind.note}},
    }
    return values | ({"dynamic_batching": {}} if kind.batches else {})

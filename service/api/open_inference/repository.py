"""The models as the Open Inference Protocol lists them: names, versions, state, and what a load may ask for.

Each model in use goes by its own name; `pose`, `lift` and `photo` stand for whatever serves them, `lift` for two where
lone frames and what moves have lifters of their own. Knows no tensors but those that `models` lists, and no bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
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
class Model:
    """A network in use, or the photo's pipeline. network: its name in the metrics."""

    name: str
    version: str
    network: str
    platform: str

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Served:
    """What answers under one name: a model, or whichever of several the request takes; the first is the default."""

    name: str
    role: str
    models: tuple[Model, ...]

    @property
    def versions(self) -> list[str]:
        return list(dict.fromkeys(model.version for model in self.models))

    @property
    def label(self) -> str | None:
        """Of the model that answers; None where the request decides."""
        return self.models[0].label if len(self.models) == 1 else None

    def answered_by(self, label: str | None) -> Model:
        return next((model for model in self.models if model.label == label), self.models[0])


def served(service: Service) -> dict[str, Served]:
    """Everything that answers under /v2, by name."""
    models: dict[str, Served] = {}

    def add(name: str, role: str, model: Model) -> None:
        before = models[name].models if name in models else ()
        models[name] = Served(name, role, (*before, model))

    engines = service.engines_in_use()
    for slot, engine in engines.items():
        role = next(role for role in ROLES if slot.startswith(role))  # a second lifter's slot is lift_long
        own, _, version = engine["model"].partition("@")
        model = Model(own, version, slot, engine["runtime"])
        add(own, role, model)
        if role in ("pose", "lift"):
            add(role, role, model)
    if set(ROLES) <= set(engines):
        add("photo", "photo", Model("photo", PIPELINE_VERSION, "photo", "ensemble"))
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
    found = models[name]
    if version is None:
        return found
    fitting = tuple(model for model in found.models if model.version == version)
    if not fitting:
        message = f"the model `{name}` has the version {' and '.join(found.versions)}; got {version[:80]!r}"
        raise Unknown(message, field="version", limit=found.versions)
    return replace(found, models=fitting)


def index(service: Service, *, only_ready: bool) -> list[dict[str, str]]:
    """The repository's index: the aliases, then every version that is in the store now, with its state and why.

    Reads the store's folder.
    """
    models = served(service)
    ready = service.state == "ready"
    rows = [
        _row(model.name, version, "READY" if ready else "UNAVAILABLE", service.reason or service.state)
        for model in models.values()
        for version in model.versions
    ]
    known = {(row["name"], row["version"]) for row in rows}
    leaving = service.models_leaving
    for label, _, problem in service.store.survey():
        name, _, version = label.partition("@")
        if (name, version) in known:
            continue
        change = service.changes.get(label, "")
        if change == LOADING:
            rows.append(_row(name, version, LOADING, "being loaded and warmed"))
        elif label in leaving:
            rows.append(_row(name, version, "UNLOADING", "replaced; requests that began with it are being finished"))
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
        "versions": model.versions,
        "platform": model.models[0].platform,
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
        "platform": model.models[0].platform,
        "backend": "poselift",
        "version_policy": {"specific": {"versions": [int(version) for version in model.versions]}},
        "max_batch_size": service.settings.queue_rows if kind.batches else 0,
        "input": [listed(spec) for spec in inputs],
        "output": [listed(spec) for spec in outputs],
        "parameters": {"note": {"string_value": kind.note}},
    }
    return values | ({"dynamic_batching": {}} if kind.batches else {})

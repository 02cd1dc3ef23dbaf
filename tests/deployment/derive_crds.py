"""`python -m tests.deployment.derive_crds NODE_MODULES KSERVE`: the schemas in crds.json, from public packages. Prints.

Kubernetes does not know KEDA's, Prometheus', the Gateway API's and KServe's kinds, and no package has their
definitions as JSON. Some have types that were made of them: NODE_MODULES is what `npm install --ignore-scripts
@kubernetes-models/keda @kubernetes-models/prometheus-operator @kubernetes-models/gateway-api` fills, KSERVE the
unpacked wheel of `pip download --no-deps kserve`. An object takes the fields that its type has, and no others.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

KINDS = {
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    "PodMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
    "HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute",
}
SIMPLE: dict[str, Schema] = {
    "string": {"type": "string"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "object": {"type": "object"},
    "any": {},
    "unknown": {},
}
LITERAL = re.compile(r'"[^"]*"|[0-9]+')
# A manifest says nothing of its state, and Kubernetes' own schemas judge the metadata of each kind alike.
LEFT_OUT: dict[str, Schema] = {"status": {}, "metadata": {"metadata": {"type": "object"}}}


class Types:
    """TypeScript's declarations, one file a type, as JSON Schemas; each is translated once, into `definitions`."""

    def __init__(self, modules: Path) -> None:
        self._modules = modules.resolve()
        self.definitions: dict[str, Schema] = {}

    def of_file(self, file: Path) -> Schema:
        """The schema of the type that a file declares."""
        text = re.sub(r"\n\s*/\*.*?\*/", "", "\n" + file.read_text(), flags=re.DOTALL)
        imports = {
            name: self._found(file, place)
            for names, place in re.findall(r'import \{ ([^}]+) \} from "([^"]+)";', text)
            for name in names.split(", ")
        }
        if alias := re.search(r"export type I\w+ = (.+?);\n", text):
            return self._type(alias[1], imports)
        interface = re.search(r"export interface I\w+(?: extends ([^{]+?))? \{(.*?)\n\}", text, re.DOTALL)
        assert interface, file
        own = self._object(interface[2], imports, of_a_kind=interface[1] == "TypeMeta")
        for parent in (interface[1] or "").split(", "):
            if parent and parent != "TypeMeta":
                inherited = self._resolved(self._type(parent, imports))
                own["properties"] = inherited["properties"] | own["properties"]
                own["required"] = sorted({*inherited["required"], *own["required"]})
        return own

    def _found(self, file: Path, place: str) -> Path:
        base = file.parent / place if place.startswith(".") else self._modules / place
        return base.resolve().with_name(base.name.removesuffix(".js") + ".d.ts")

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            schema = self.definitions[schema["$ref"].rpartition("/")[2]]
        return schema

    def _object(self, body: str, imports: dict[str, Path], of_a_kind: bool = False) -> Schema:
        """Of the lines `"name"?: type;`, of which a type may be an object of lines itself."""
        properties: dict[str, Schema] = {}
        required = []
        lines = re.compile(r'^ {4}"([^"]+)"(\??): (.+?);$(?=\n {4}"|\n*\Z)', re.MULTILINE | re.DOTALL)
        found = lines.findall(body)
        assert len(found) == len(re.findall(r'^ {4}"', body, re.MULTILINE)), body
        for name, optional, kind in found:
            if of_a_kind and name in LEFT_OUT:
                properties |= LEFT_OUT[name]
                continue
            properties[name] = self._type(kind, imports)
            if not optional:
                required.append(name)
        return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}

    def _type(self, kind: str, imports: dict[str, Path]) -> Schema:
        kind = kind.strip()
        if kind in SIMPLE:
            return SIMPLE[kind]
        if kind.startswith("Array<"):
            return {"type": "array", "items": self._type(kind[6:-1], imports)}
        if anything := re.fullmatch(r"\{\s*\[key: string\]: (.+);\s*\}", kind, re.DOTALL):
            return {"type": "object", "additionalProperties": self._type(anything[1], imports)}
        if kind.startswith("{"):
            return self._object(re.sub(r"^ {4}", "", kind[1:-1].strip("\n"), flags=re.M), imports)
        if " | " in kind:
            kinds = kind.split(" | ")
            if all(LITERAL.fullmatch(one) for one in kinds):
                return {"enum": [json.loads(one) for one in kinds]}
            return {"anyOf": [self._type(one, imports) for one in kinds]}
        if LITERAL.fullmatch(kind):
            return {"const": json.loads(kind)}
        if kind not in self.definitions:
            self.definitions[kind] = {}  # a type may hold itself
            self.definitions[kind] = self.of_file(imports[kind])
        return {"$ref": f"#/$defs/{kind}"}


def kserve_types(models: Path, name: str, definitions: dict[str, Schema]) -> Schema:
    """A class of KServe's Python package, which tells its fields' types as text; those of Kubernetes itself are any.

    The predictor's other servers (sklearn, triton, ...) are no field of ours, and left out.
    """
    file = models / f"{re.sub(r'(?<=[a-z0-9])(?=[A-Z][a-z])', '_', name).lower()}.py"
    if not file.exists() or name.startswith("V1Object"):
        return {}
    if name in definitions:
        return {"$ref": f"#/$defs/{name}"}
    definitions[name] = {}
    text = file.read_text()
    (described,) = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in described.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    names: dict[str, str] = tables["attribute_map"]
    needed = set(re.findall(r"Invalid value for `(\w+)`, must not be `None`", text))
    simple = {"str": "string", "int": "number", "float": "number", "bool": "boolean", "object": "object"}

    def schema(kind: str) -> Schema:
        if kind in simple:
            return {"type": simple[kind]}
        if kind.startswith("list["):
            return {"type": "array", "items": schema(kind[5:-1])}
        if kind.startswith("dict("):
            return {"type": "object", "additionalProperties": schema(kind[5:-1].split(", ", 1)[1])}
        return kserve_types(models, kind, definitions)

    other = re.compile(r"V1beta1(?!AutoScaling|Storage|Logger|Batcher)\w+Spec")
    fields = {
        field: kind
        for field, kind in tables["openapi_types"].items()
        if field != "status" and not (name == "V1beta1PredictorSpec" and other.fullmatch(kind))
    }
    definitions[name] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {names[field]: schema(kind) for field, kind in fields.items()},
        "required": sorted(names[field] for field in needed if field in fields),
    }
    return {"$ref": f"#/$defs/{name}"}


def main() -> None:
    modules, kserve = Path(sys.argv[1]), Path(sys.argv[2])
    types, sources = Types(modules), {}
    kinds = {kind: types.of_file(modules / f"{place}.d.ts") for kind, place in KINDS.items()}
    for place in KINDS.values():
        package = json.loads((modules / "/".join(place.split("/")[:2]) / "package.json").read_text())
        sources[package["name"]] = f"{package['version']}, {package['license']}"
    (about,) = kserve.glob("kserve-*.dist-info/METADATA")
    told = dict(re.findall(r"^(Version|License): (.+)$", about.read_text(), re.M))
    sources["kserve"] = f"{told['Version']}, {told['License']}"
    definitions = types.definitions
    spec = kserve_types(kserve / "kserve/models", "V1beta1PredictorSpec", definitions)
    kinds["InferenceService"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": "serving.kserve.io/v1beta1"},
            "kind": {"const": "InferenceService"},
            "metadata": {"type": "object"},
            "spec": {"type": "object", "additionalProperties": False, "properties": {"predictor": spec}},
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
    }
    licence = (modules / "@kubernetes-models/keda/LICENSE").read_text()
    print(json.dumps({"sources": sources, "licence": licence, **kinds, "$defs": definitions}, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()

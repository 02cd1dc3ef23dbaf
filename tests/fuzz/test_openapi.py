"""schemathesis over the OpenAPI document: whatever it allows, and more, is answered, and never with a server error."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import pytest

from service.api.app import create_app
from service.errors import Unknown
from tests.api.fake import FakeService
from tests.api.open_inference.fake import TinyStore

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from hypothesis import HealthCheck, settings
    from schemathesis.checks import not_a_server_error


class Described(FakeService):
    """With what the doors of the Open Inference Protocol ask for; of its store nothing can be loaded."""

    store = TinyStore()
    changes: ClassVar[dict[str, str]] = {}
    models_leaving = ()

    async def load_model(self, label: str) -> str:
        raise Unknown(f"no model {label[:80]!r}", field="models")

    async def unload_model(self, name: str) -> None:
        raise Unknown(f"no model {name[:80]!r}", field="models")


# What it cannot make (clips, odd pictures) it says it skips: those are the other file's.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SERVICE = Described(hosts=("localhost", "testserver"))
SCHEMA: Any = schemathesis.openapi.from_asgi("/openapi.json", create_app(SERVICE.as_service))
EXAMPLES = 10


@pytest.mark.slow
@SCHEMA.parametrize()  # type: ignore[untyped-decorator]
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_no_request_that_the_document_describes_is_our_fault(case: Any) -> None:
    case.call_and_validate(checks=[not_a_server_error], base_url="http://localhost")


def test_the_document_is_one_that_the_tool_reads_whole() -> None:
    operations = [operation.ok() for operation in SCHEMA.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/v1/images", "/v1/lift", "/v1/clips", "/v1/info"}

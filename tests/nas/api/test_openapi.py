"""The API is what its OpenAPI document says, whatever it is sent.

The cases are drawn by schemathesis from the document. NAS_API_CASES says how many an operation gets (5,000 in all are about 200
each), and NAS_API_FLOWS how many sequences of requests that use each other's answers.
"""

import json
import os
import re
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.stateful import run_state_machine_as_test
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from nas.api.access import PUBLIC, access_of
from nas.service.people import SCOPES
from nas.service.schema import new_id
from nas.service.specs import check_spec
from tests.nas.api.hosted import SPEC

CASES = int(os.environ.get("NAS_API_CASES", "15"))
FLOWS = int(os.environ.get("NAS_API_FLOWS", "10"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# They say where a request ends: one that lies is answered by the HTTP server, and never reaches the API.
FRAMING = ("content-length", "transfer-encoding")
QUIET = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def asker(site):
    found = site.person(admin=True)
    site.services.jobs.beat("worker", "here", 1)
    found.finished({"train.json": b"{}", "log.txt": b"log"})
    yield found
    found.http.close()


@pytest.fixture(scope="module")
def document(site):
    return site.app.openapi()


@pytest.fixture
def described(site, document):
    """What schemathesis makes of the document; a poll may take a minute."""
    found = schemathesis.openapi.from_dict(document).exclude(path="/v1/agent/poll")
    found.config.update(base_url=site.url)
    return found


def test_whatever_is_sent_the_answer_is_as_described(described, asker):
    count = 0
    for result in described.get_all_operations():
        operation = result.ok()

        @QUIET
        @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def answered(case):
            nonlocal count
            count += 1
            case.headers = {name: value for name, value in case.headers.items() if name.lower() not in FRAMING}
            case.call_and_validate(headers=asker.http.headers, checks=CHECKS)

        answered()
    print(f"{count} requests")
    assert count >= 0.5 * CASES * 20


def test_requests_that_use_each_others_answers_are_answered_as_described(described, site):
    machine = described.as_state_machine()
    found = Counter()

    class Flow(machine):
        def setup(self):  # somebody who has nothing yet, so that a flow does not depend on those before
            self.asker = site.person(scopes=SCOPES)

        def teardown(self):
            self.asker.http.close()

        def before_call(self, case):
            if (
                case.method == "POST" and case.path == "/v1/jobs"
            ):  # drawn ones are too seldom right for anything to follow
                case.body, case.media_type = SPEC, "application/json"
                case.headers["Idempotency-Key"] = new_id("k")  # the same flow again is answered the same

        def after_call(self, response, case):
            found[case.method, case.path] += response.status_code < 300

        def get_call_kwargs(self, case):
            return {"headers": dict(self.asker.http.headers)}

        def validate_response(self, response, case, additional_checks=(), **options):
            case.validate_response(response, checks=CHECKS)

    run_state_machine_as_test(Flow, settings=settings(QUIET, max_examples=FLOWS, stateful_step_count=12))
    assert found["GET", "/v1/jobs/{job_id}"]
    assert found["POST", "/v1/jobs/{job_id}/cancel"]


def test_a_job_of_the_examples_fits_the_schema_that_is_published(document):
    resolver = {**document["components"]["schemas"]["Spec"], "components": document["components"]}
    validator = Draft202012Validator(resolver)
    validator.validate(SPEC)
    assert check_spec(SPEC)
    assert not validator.is_valid({**SPEC, "kind": "dance"})


def test_every_open_route_needs_no_token_and_every_other_does(site, document):
    for route in site.app.routes:
        if getattr(route, "include_in_schema", False):
            for method in route.methods:
                said = document["paths"][route.path_format][method.lower()]["security"]
                assert (said == []) == (access_of(route).scope == PUBLIC)


def test_nothing_in_the_document_points_nowhere(document):
    text = json.dumps(document)
    for name in set(re.findall(r'"#/components/schemas/([^"]+)"', text)):
        assert name in document["components"]["schemas"]
    assert "$defs" not in text

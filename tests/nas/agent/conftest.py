"""Fixtures: a service in a folder, asked over HTTP without a network."""

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from nas.agent.wire import WIRE
from nas.api.app import make_app, open_services
from nas.database import Database
from nas.service.people import SCOPES
from nas.service.settings import Settings
from tests.nas.agent.fakes import ABOUT


@pytest.fixture
def services(tmp_path):
    settings = Settings(tmp_path)
    with Database(settings.database_url) as db:
        db.upgrade()
    return open_services(settings)


@pytest.fixture
def admin(services):
    return services.people.add("root", admin=True)


class InProcess(httpx.BaseTransport):
    """Requests to an app, without a network: it runs in the portal's thread."""

    def __init__(self, app, portal: BlockingPortal) -> None:
        self.inner = httpx.ASGITransport(app)
        self.portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self.portal.call(self._answer, request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        content = request.read()
        asked = httpx.Request(request.method, request.url, headers=request.headers, content=content)
        answer = await self.inner.handle_async_request(asked)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())


@pytest.fixture
def line(services):
    with start_blocking_portal() as portal:
        yield InProcess(make_app(services), portal)
    services.db.close()


@pytest.fixture
def web(line):
    with httpx.Client(transport=line, base_url="http://127.0.0.1", timeout=60.0) as found:
        yield found


class Caller:
    """Somebody with a token."""

    def __init__(self, web: httpx.Client, token: str) -> None:
        self.web = web
        self.headers = {"Authorization": f"Bearer {token}"}

    def post(self, path: str, document):
        return self.web.post(path, json=document, headers=self.headers)

    def get(self, path: str, **headers):
        return self.web.get(path, headers={**self.headers, **headers})

    def delete(self, path: str):
        return self.web.delete(path, headers=self.headers)


@pytest.fixture
def person(web, services, admin) -> Caller:
    return Caller(web, services.people.issue(admin, SCOPES)[1])


def enrolled(web: httpx.Client, person: Caller, name: str = "board") -> Caller:
    code = person.post("/v1/enrolments", {"name": name}).json()["code"]
    said = {"wire": WIRE, "code": code, "nonce": "n", "about": ABOUT.to_json()}
    answer = web.post("/v1/agent/enrol", json=said)
    assert answer.status_code == 201
    assert answer.json()["name"] == name
    return Caller(web, answer.json()["token"])


@pytest.fixture
def machine(web, person) -> Caller:
    return enrolled(web, person)

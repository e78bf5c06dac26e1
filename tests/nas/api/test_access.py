"""Every route says who may call it, and nobody else can: walked over all routes of the app, the pages' included."""

import re

import httpx
import pytest
from fastapi import APIRouter
from starlette.applications import Starlette
from starlette.routing import Mount

from nas.api.access import AGENT, OWNED, PAGE, PUBLIC, Access, access_of, undeclared
from nas.service.people import SCOPES, hash_of, new_secret
from nas.service.schema import devices, tokens
from tests.nas.api.hosted import http

MADE_UP = {"job_id": "j" + "0" * 26, "upload_id": "u" + "0" * 26, "token_id": "k" + "0" * 26, "sha256": "0" * 64}


@pytest.fixture(scope="module")
def routes(site):
    """(method, path, access) of everything that the app answers."""
    return [
        (method, route.path, access_of(route))
        for route in site.app.routes
        for method in sorted(getattr(route, "methods", None) or ["GET"])
    ]


def filled(path: str, **values: str) -> str:
    """A path with its parameters filled in."""
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: {**MADE_UP, **values}.get(found[1], "made-up"), path)


def in_a_session(site, asker) -> httpx.Client:
    """Somebody who has logged in to the page."""
    code = site.services.people.login_code(asker.user)
    key, principal = site.services.people.open_session(code)
    return http(site.url, {"Cookie": f"nas_session={key}", "X-CSRF-Token": principal.csrf})


def test_every_route_declares_who_may_call_it(site):
    assert undeclared(site.app.routes) == []
    assert len(site.app.routes) > 30


def test_the_walk_finds_a_route_and_a_mount_that_declare_nothing():
    router = APIRouter()
    router.add_api_route("/open", lambda: None)
    mounted = Mount("/inner", Starlette())
    assert undeclared([*router.routes, mounted]) == ["/open", "/inner"]


@pytest.mark.parametrize("wrong", [{"scope": "everything"}, {"scope": "jobs", "owner": "somebody"}])
def test_an_access_that_nothing_can_check_is_refused(wrong):
    with pytest.raises(ValueError, match="unknown"):
        Access(**wrong)


def test_only_these_routes_are_open_to_anybody(routes):
    assert {f"{method} {path}" for method, path, access in routes if access.scope == PUBLIC} == {
        "GET /healthz",
        "GET /readyz",
        "GET /v1/schema",
        "GET /v1/openapi.json",
        "GET /login",
        "POST /login",
        "GET /static/{file}",
        "POST /v1/agent/enrol",
    }


def test_without_a_token_every_other_route_is_closed(site, routes):
    with site.stranger() as stranger:
        for method, path, access in routes:
            if access.scope == PUBLIC:
                continue
            answer = stranger.request(method, filled(path))
            if access.scope == PAGE:
                assert answer.status_code == 303, path
                assert answer.headers["location"].startswith("/login?next=/"), path
            else:
                assert answer.status_code == 401, path
                assert not path.startswith("/v1") or answer.json()["error"]["code"] == "unauthorized"
                assert not path.startswith("/v1") or answer.headers["www-authenticate"] == "Bearer"


def test_a_token_opens_the_routes_of_its_scopes_alone(site, routes):
    for scope in SCOPES:
        asker = site.person(scopes=(scope,))
        with asker.http:
            for method, path, access in routes:
                if access.scope in (PUBLIC, scope):
                    continue
                answer = asker.http.request(method, filled(path))
                assert answer.status_code == 403, (scope, path)


def test_what_belongs_to_another_is_as_if_it_were_not_there(site, routes, ada, ben):
    services = site.services
    services.uploads.add(ada.user.id, "onnx", "hers", [b"hers"])
    mine = {
        "job_id": ada.finished({"log.txt": b"hers"}),
        "upload_id": services.uploads.page(ada.user.id)[0].id,
        "token_id": ada.token_id,
    }
    session = in_a_session(site, ben)
    checked = 0
    with session:
        for method, path, access in routes:
            if access.owner not in OWNED:
                continue
            for values in (mine, {}):
                asker = session if access.scope == PAGE else ben.http
                answer = asker.request(method, filled(path, **values))
                assert answer.status_code == 404, path
                assert not path.startswith("/v1") or answer.json()["error"]["code"] == "not_found"
                checked += 1
    assert checked >= 24
    assert ada.http.get(f"/v1/jobs/{mine['job_id']}").status_code == 200
    assert ada.http.get("/v1/me").status_code == 200


def test_a_path_that_names_something_of_somebodys_has_it_checked(routes):
    for method, path, access in routes:
        for kind in OWNED:
            if f"{{{kind}_id}}" in path:
                assert access.owner == kind, f"{method} {path}"


def test_an_admin_sees_what_is_everybodys(admin, ada):
    job_id = ada.submit()
    assert admin.http.get(f"/v1/jobs/{job_id}").json()["owner"] == ada.user.name
    assert job_id in [job["id"] for job in admin.http.get("/v1/jobs").json()["jobs"]]


def test_a_machine_can_do_nothing_but_what_agents_do(site, routes, ada):
    secret = new_secret()
    device = {"name": "board", "created_by": ada.user.id, "created_s": 0.0}
    token = {
        "id": "k-board",
        "device": "board",
        "label": "",
        "hash": hash_of(secret),
        "scopes": ["agent:board"],
        "created_s": 0.0,
    }
    site.services.db.write(
        lambda connection: (connection.execute(devices.insert(), device), connection.execute(tokens.insert(), token))
    )
    with site.stranger() as machine:
        machine.headers["Authorization"] = f"Bearer {secret}"
        for method, path, access in routes:
            if access.scope in (PUBLIC, AGENT):
                continue
            assert machine.request(method, filled(path)).status_code == 403, path


def test_no_body_is_longer_than_its_route_takes(site, routes, admin):
    """Said beforehand or not, and whoever sends it."""
    with site.stranger() as stranger:
        for method, path, access in routes:
            if method in ("GET", "HEAD") or access.body_limit_bytes > 1 << 20:
                continue
            much = b"x" * (access.body_limit_bytes + 1)
            said = stranger.request(method, filled(path), content=much)
            assert said.status_code == 413, path
            assert said.json()["error"]["code"] == "too_large"
    # Without a length it is only known once it has come; who may not send it at all is refused before that.
    unsaid = admin.http.post(
        "/v1/jobs", content=iter([b"x" * 100_000] * 3), headers={"Content-Type": "application/json"}
    )
    assert unsaid.status_code == 413


def test_a_path_that_is_none_and_a_method_that_is_none_are_refused_as_everything_is(ada):
    assert ada.http.get("/v1/nothing").json()["error"]["code"] == "not_found"
    wrong = ada.http.put("/v1/jobs")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert ada.http.post("/v1/nothing", content=b"much").status_code == 413

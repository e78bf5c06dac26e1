"""Logging in and out, over HTTP: tokens, cookies, forged forms, wrong hosts, guesses."""

import re

import pytest

from nas.api.app import Front
from nas.api.auth import FAILURES, KEEP_S, Doorkeeper, Failures
from nas.api.gate import HEADERS
from nas.api.refusals import Refusal
from nas.service.people import SCOPES
from tests.nas.api.hosted import hosted


@pytest.fixture
def browser(site):
    with site.stranger() as found:
        yield found


@pytest.fixture
def now(site, monkeypatch):
    """The time of the doorkeeper's own clock, to be moved."""
    found = [0.0]
    doorkeeper = Doorkeeper(site.services.people, site.services.front, lambda: found[0])
    monkeypatch.setitem(site.app.state._state, "doorkeeper", doorkeeper)
    return found


def entered(browser, site, asker):
    """Log in with a one-time code; the token for forms."""
    code = site.services.people.login_code(asker.user)
    assert browser.post("/login", data={"token": code}).status_code == 303
    return site.services.people.in_session(browser.cookies["nas_session"]).csrf


def test_a_revoked_token_is_refused_within_a_second(site, ada, now):
    """What is known of a token is kept for less; here its time is moved by hand."""
    assert KEEP_S < 1
    assert ada.http.get("/v1/me").status_code == 200
    site.services.people.revoke(ada.token_id)
    now[0] = KEEP_S
    answer = ada.http.get("/v1/me")
    assert answer.status_code == 401
    assert "revoked" in answer.json()["error"]["message"]


@pytest.mark.parametrize("header", ["", "nas_x", "Basic YTpi", "Bearer", "Bearer nas_" + "x" * 43, "Bearer \x7f"])
def test_a_wrong_token_is_refused_even_where_a_session_is_good(site, browser, ada, header):
    entered(browser, site, ada)
    assert browser.get("/v1/me").status_code == 200
    assert browser.get("/v1/me", headers={"Authorization": header}).status_code in (401, 429)


def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(site, browser, ada):
    answer = browser.post("/login", data={"token": site.services.people.login_code(ada.user)})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/" in cookie
    assert "secure" not in cookie  # loopback has no TLS


def test_under_tls_the_cookie_goes_by_tls_alone_and_browsers_keep_to_it(tmp_path):
    with hosted(tmp_path, Front(("127.0.0.1",), tls=True)) as site, site.stranger() as browser:
        asker = site.person()
        answer = browser.post("/login", data={"token": site.services.people.login_code(asker.user)})
        assert re.match(r"__Host-nas=nas_.*; secure", answer.headers["set-cookie"], re.IGNORECASE)
        assert "max-age" in answer.headers["strict-transport-security"]
        asker.http.close()


def test_what_changes_something_needs_the_token_of_the_page_beside_the_cookie(site, browser, ada):
    csrf = entered(browser, site, ada)
    job_id = ada.submit()
    cancel = f"/v1/jobs/{job_id}/cancel"
    assert browser.get(f"/v1/jobs/{job_id}").status_code == 200
    for headers in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": csrf + "x"}):
        answer = browser.post(cancel, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert browser.post(cancel, headers={"X-CSRF-Token": csrf}).json()["state"] == "CANCELLED"


def test_a_form_says_the_token_in_a_field(site, browser, ada):
    csrf = entered(browser, site, ada)
    assert browser.post("/logout", data={"csrf": "wrong"}).status_code == 403
    assert browser.get("/v1/me").status_code == 200
    assert browser.post("/logout", data={"csrf": csrf}).status_code == 303
    assert browser.get("/v1/me").status_code == 401


def test_a_program_with_a_token_needs_no_token_of_the_page(ada):
    assert ada.http.post(f"/v1/jobs/{ada.submit()}/cancel").status_code == 200


def test_a_login_from_another_site_is_refused(site, browser, ada):
    code = site.services.people.login_code(ada.user)
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        assert browser.post("/login", data={"token": code}, headers={"Origin": origin}).status_code == 403
    assert browser.post("/login", data={"token": code}, headers={"Origin": site.url}).status_code == 303


def test_guessing_is_ended_after_a_few_wrong_logins(site, ada, now):
    with site.stranger() as browser:
        for _ in range(FAILURES):
            assert browser.post("/login", data={"token": "nas_" + "x" * 43}).status_code == 401
        code = site.services.people.login_code(ada.user)
        assert browser.post("/login", data={"token": code}).status_code == 429
        assert browser.get("/v1/me", headers={"Authorization": "Bearer no"}).status_code == 429
        # Neighbours behind the same address are not locked out.
        assert ada.http.get("/v1/me").status_code == 200
        now[0] = 60.0
        assert browser.post("/login", data={"token": code}).status_code == 303


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:8023", "[::2]"])
def test_another_host_name_is_not_answered_to(site, ada, host):
    answer = ada.http.get("/v1/me", headers={"Host": host})
    assert answer.status_code in (400, 421)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "LOCALHOST:8023", "[::1]:8023", "[::1]"])
def test_its_own_names_are_answered_to_on_any_port(site, ada, host):
    assert ada.http.get("/v1/me", headers={"Host": host}).status_code == 200


def test_every_answer_carries_the_headers_that_keep_browsers_careful(site, ada):
    with site.stranger() as stranger:
        answers = [stranger.get("/healthz"), stranger.get("/nothing"), stranger.get("/v1/me"), ada.http.get("/v1/jobs")]
        answers.append(stranger.get("/healthz", headers={"Host": "evil.example"}))
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        assert answer.headers["cache-control"] == "no-store"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_one_makes_lists_and_ends_tokens_of_ones_own(site, ada):
    made = ada.http.post("/v1/tokens", json={"scopes": ["jobs"], "label": "for the night", "lifetime_s": 3600})
    assert made.status_code == 201
    secret, token_id = made.json()["secret"], made.json()["id"]
    listed = ada.http.get("/v1/tokens")
    assert {token["label"] for token in listed.json()["tokens"]} == {"", "for the night"}
    assert secret not in listed.text
    with site.stranger() as night:
        night.headers["Authorization"] = f"Bearer {secret}"
        assert night.get("/v1/me").json()["scopes"] == ["jobs"]
        assert night.get("/v1/uploads").status_code == 403
    assert ada.http.delete(f"/v1/tokens/{token_id}").status_code == 204
    assert next(token for token in ada.http.get("/v1/tokens").json()["tokens"] if token["id"] == token_id)["revoked_s"]


def test_nobody_gives_what_he_has_not(ada, site):
    refused = ada.http.post("/v1/tokens", json={"scopes": ["jobs", "metrics"]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    narrow = site.person(admin=True, scopes=("jobs",))
    with narrow.http:
        for scope in set(SCOPES) - {"jobs"}:
            assert narrow.http.post("/v1/tokens", json={"scopes": [scope]}).status_code == 403


def test_the_doorkeeper_forgets_rather_than_grows(site, monkeypatch):
    monkeypatch.setattr("nas.api.auth.MOST_KNOWN", 5)
    failures = Failures(lambda: 0.0)
    for n in range(100):
        failures.count(f"10.0.0.{n}")
    assert len(failures._since) <= 5
    for _ in range(FAILURES - 1):
        failures.count("10.0.0.99")
    with pytest.raises(Refusal):
        failures.count("10.0.0.99")

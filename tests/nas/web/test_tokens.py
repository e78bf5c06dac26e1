"""Tokens on the page: made once, seen by their owner and by admins, revoked."""

import re

import pytest

from tests.nas.made_up_run import EVIL
from tests.nas.web.test_pages import read, unsaid

SECRET = re.compile(r"nas_[A-Za-z0-9_-]{43}")


def csrf_of(client) -> str:
    return re.search(r'name="csrf" value="([^"]+)"', client.get("/tokens").text)[1]


def test_a_token_is_made_shown_once_and_good_for_what_was_asked(house, as_bob, bob) -> None:
    form = {"csrf": csrf_of(as_bob), "label": EVIL, "scope.models": "on", "lifetime": "30"}
    page = read(as_bob.post("/tokens", form))
    (secret,) = SECRET.findall(page.text)
    holder = house.services.people.holder(secret)
    assert (holder.user_id, holder.scopes) == (bob.id, ("models",))
    (token,) = house.services.people.tokens(bob.id)
    assert 29 < (token.expires_s - token.created_s) / 86_400 < 31
    again = read(as_bob.get("/tokens"))
    assert secret not in again.text
    assert unsaid(again, EVIL, "models", "never") == []


def test_nobody_makes_a_token_for_more_than_is_his_or_for_nothing(house, as_bob, bob) -> None:
    form = {"csrf": csrf_of(as_bob), "label": "more", "scope.devices-admin": "on"}
    answer = as_bob.post("/tokens", form)
    assert "needs a scope" in read(answer, 400).text
    assert "more" in read(answer, 400).values("value")
    assert house.services.people.tokens(bob.id) == []


def test_tokens_are_ones_own_and_everybodys_for_an_admin(house, as_ann, as_bob, ann, bob) -> None:
    people = house.services.people
    hers, his = (people.issue(user, ("jobs",), f"of {user.name}")[0] for user in (ann, bob))
    assert unsaid(read(as_ann.get("/tokens")), "of ann", "of bob") == []
    mine = read(as_bob.get("/tokens"))
    assert "of ann" not in mine.text
    form = {"csrf": csrf_of(as_bob)}
    assert as_bob.post(f"/tokens/{hers.id}/revoke", form).status_code == 404
    assert f"/tokens/{his.id}/revoke" in mine.values("action")
    assert as_ann.post(f"/tokens/{his.id}/revoke", {"csrf": csrf_of(as_ann)}).headers["location"] == "/tokens"
    page = read(as_ann.get("/tokens"))
    assert f"/tokens/{his.id}/revoke" not in page.values("action")
    assert "1 revoked or expired" in page.text
    assert people.token(hers.id).revoked_s is None


@pytest.mark.usefixtures("forgetful")
def test_revoking_ones_own_token_asks_for_a_login_and_comes_back(house, as_bob, bob) -> None:
    token, _ = house.services.people.issue(bob, ("jobs",))
    as_bob.post(f"/tokens/{token.id}/revoke", {"csrf": csrf_of(as_bob)})
    answer = as_bob.get("/tokens")
    assert answer.headers["location"] == "/login?next=/tokens"
    assert "Your login is over" in as_bob.get("/login?next=/tokens").text

"""Users, tokens, sessions: what lets whom in, and until when. The same in both databases."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from nas.database import Database
from nas.service.errors import Conflict, NotFound
from nas.service.people import CODE_S, SCOPES, SESSION_S, People, PeopleError, new_secret
from nas.service.schema import tokens

pytest_plugins = ["tests.nas.searching.postgres"]


@dataclass
class Time:
    now_s: float = 1e9

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def people(request, tmp_path, time) -> Iterator[People]:
    url = tmp_path / "nas.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres")
    with Database(url, time_s=time) as db:
        db.upgrade()
        yield People(db)


def test_a_token_stands_for_its_user_with_its_scopes(people):
    ada = people.add("ada", admin=True)
    token, secret = people.issue(ada, ("metrics", "jobs", "jobs"), "for the board")
    principal = people.holder(secret)
    assert (principal.user_id, principal.name, principal.admin) == (ada.id, "ada", True)
    assert principal.scopes == token.scopes == ("metrics", "jobs")
    assert principal.owner is None
    assert people.tokens(ada.id) == [token]


def test_a_user_that_is_no_admin_owns_what_is_his_alone(people):
    _, secret = people.issue(people.add("ben"), ("jobs",))
    assert people.holder(secret).owner == people.named("ben").id


@pytest.mark.parametrize("secret", ["", "nas_", "nas_" + "a" * 43, "x" * 47, "nas_" + "é" * 43, "nas_" + "a" * 10_000])
def test_what_is_no_token_stands_for_nobody(people, secret):
    people.issue(people.add("ada"), ("jobs",))
    assert people.holder(secret) is None
    assert people.open_session(secret) is None
    assert people.in_session(secret) is None


def test_the_database_holds_no_secret(people):
    ada = people.add("ada")
    secrets = [people.issue(ada, ("jobs", "models"))[1], people.login_code(ada)]
    key, _ = people.open_session(secrets[0])
    rows = people._db.read(lambda connection: connection.exec_driver_sql("SELECT * FROM tokens").all())
    rows += people._db.read(lambda connection: connection.exec_driver_sql("SELECT * FROM sessions").all())
    assert len(rows) == 3
    assert all(secret not in str(rows) and secret[4:] not in str(rows) for secret in (*secrets, key))


def test_a_revoked_token_and_one_that_has_expired_stand_for_nobody(people, time):
    ada = people.add("ada")
    revoked, secret = people.issue(ada, ("jobs",))
    _, short = people.issue(ada, ("jobs",), lifetime_s=60.0)
    assert people.holder(secret)
    assert people.revoke(revoked.id).revoked_s == time.now_s
    assert people.holder(secret) is None
    time.now_s += 59
    assert people.holder(short)
    time.now_s += 1
    assert people.holder(short) is None


def test_who_revokes_a_token_of_another_finds_none(people):
    ada, ben = people.add("ada"), people.add("ben")
    token, secret = people.issue(ada, ("jobs",))
    with pytest.raises(NotFound):
        people.revoke(token.id, ben.id)
    with pytest.raises(NotFound):
        people.revoke("k-none")
    assert people.holder(secret)
    assert people.revoke(token.id, ada.id).revoked_s == people.revoke(token.id, ada.id).revoked_s


def test_a_login_code_opens_one_session_within_its_time_and_nothing_else(people, time):
    ada = people.add("ada")
    code, late = people.login_code(ada), people.login_code(ada)
    assert people.holder(code) is None
    assert people.tokens() == []
    key, principal = people.open_session(code)
    assert people.in_session(key) == principal
    assert people.open_session(code) is None
    time.now_s += CODE_S
    assert people.open_session(late) is None


def test_a_session_ends_with_its_time_and_with_a_logout(people, time):
    ada = people.add("ada")
    left, _ = people.open_session(people.login_code(ada))
    stays, _ = people.open_session(people.login_code(ada))
    people.close_session(left)
    assert people.in_session(left) is None
    assert people.in_session(stays)
    time.now_s += SESSION_S
    assert people.in_session(stays) is None


def test_a_session_ends_with_a_token_of_its_user(people):
    """Whoever had the token may have gone in by it."""
    ada = people.add("ada")
    token, secret = people.issue(ada, ("jobs", "models"))
    key, _ = people.open_session(secret)
    other, _ = people.open_session(people.login_code(people.add("ben")))
    people.revoke(token.id)
    assert people.in_session(key) is None
    assert people.in_session(other)


def test_a_token_that_may_less_than_its_user_opens_no_session(people):
    ada, ben = people.add("ada", admin=True), people.add("ben")
    with pytest.raises(PeopleError, match="'metrics'"):
        people.open_session(people.issue(ada, ("jobs", "models", "devices-admin"))[1])
    assert people.open_session(people.issue(ada, SCOPES)[1])
    with pytest.raises(PeopleError, match="'models'"):
        people.open_session(people.issue(ben, ("jobs",))[1])


def test_a_token_is_noted_as_used_to_the_minute(people, time):
    token, secret = people.issue(people.add("ada"), ("jobs",))
    assert people.token(token.id).used_s is None
    for pause_s, noted_s in ((0, 0), (30, 0), (31, 61)):
        time.now_s += pause_s
        people.touch(secret)
        assert people.token(token.id).used_s == pytest.approx(1e9 + noted_s)


def test_a_name_is_given_once(people):
    people.add("ada")
    with pytest.raises(Conflict, match="'ada'"):
        people.add("ada")
    assert [user.name for user in people.all()] == ["ada"]
    with pytest.raises(NotFound, match="nas users add"):
        people.named("ben")


@pytest.mark.parametrize("name", ["", "-ada", "a b", "a/b", "a" * 65, "ada\n", "ädä"])
def test_a_name_is_letters_and_digits(people, name):
    with pytest.raises(PeopleError, match="1-64 letters"):
        people.add(name)


@pytest.mark.parametrize(
    ("scopes", "label"),
    [((), ""), (("login",), ""), (("agent:board",), ""), (("jobs",), "a\nb"), (("jobs",), "a" * 201)],
)
def test_a_token_has_scopes_of_users_and_a_label_of_one_line(people, scopes, label):
    with pytest.raises(PeopleError):
        people.issue(people.add("ada"), scopes, label)


def test_secrets_are_long_and_different(people):
    found = {new_secret() for _ in range(100)}
    assert len(found) == 100
    assert all(len(secret) == 47 for secret in found)


def test_a_transaction_that_is_repeated_leaves_the_same(people, monkeypatch):
    """The answer to a commit can be lost: everything that writes is done twice, and seen once."""
    write = people._db.write
    monkeypatch.setattr(people._db, "write", lambda work: (write(work), write(work))[1])
    ada = people.add("ada")
    token, secret = people.issue(ada, ("jobs", "models"))
    key, principal = people.open_session(people.login_code(ada))
    assert people.in_session(key) == principal
    people.touch(secret)
    people.revoke(token.id)
    people.close_session(key)
    count = people._db.read(lambda connection: len(connection.execute(tokens.select()).all()))
    assert (count, len(people.all())) == (2, 1)

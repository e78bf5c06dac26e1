"""Machines: enrolled by a code that is good once, seen while they ask, removed at once."""

import json

import pytest

from nas.service.errors import NotFound, ServiceError
from nas.service.farm import CODE_S, ONLINE_S, Farm
from nas.service.people import People, hash_of
from nas.service.schema import enrolments
from tests.nas.agent.fakes import ABOUT
from tests.nas.service.databases import LostAnswers

pytest_plugins = ["tests.nas.searching.postgres"]


@pytest.fixture
def farm(db) -> Farm:
    return Farm(db)


@pytest.fixture
def people(db) -> People:
    return People(db)


def enrolled(farm: Farm, name: str = "board", nonce: str = "n") -> str:
    """The token of a new machine."""
    code, _ = farm.enrolment(name, "ann")
    return farm.enrol(code, nonce, ABOUT)[1]


def test_a_code_makes_one_machine(farm, people, time):
    code, expires_s = farm.enrolment("board", "ann")
    assert expires_s == time.now_s + CODE_S
    assert len(code) * 5 >= 160
    name, token = farm.enrol(code, "n", ABOUT)
    assert name == "board"
    holder = people.holder(token)
    assert (holder.device, holder.scopes, holder.user_id, holder.admin) == ("board", ("agent:board",), None, False)
    with pytest.raises(NotFound, match="unknown, used up or older"):
        farm.enrol(code, "other", ABOUT)
    with pytest.raises(NotFound):
        farm.enrol("aaaa", "n", ABOUT)


def test_a_lost_answer_is_asked_for_again(db, farm, people):
    code, _ = farm.enrolment("board", "ann")
    answers = LostAnswers(db)
    answers.left = 1
    first = farm.enrol(code, "n", ABOUT)
    assert farm.enrol(code, "n", ABOUT) == first
    assert people.holder(first[1]).device == "board"


def test_neither_code_nor_token_can_be_read_from_the_database(db, farm):
    code, _ = farm.enrolment("board", "ann")
    (row,) = db.read(lambda connection: connection.execute(enrolments.select()).all())
    assert row.hash == hash_of(code)
    assert code not in str(row)


def test_a_code_is_good_for_an_hour(farm, time):
    code, _ = farm.enrolment("board", "ann")
    time.pass_by(CODE_S)
    with pytest.raises(NotFound):
        farm.enrol(code, "n", ABOUT)


@pytest.mark.parametrize("name", ["", "Board", "../x", "a" * 65, "-a", "a b"])
def test_a_name_that_cannot_be_is_refused(farm, name):
    with pytest.raises(ServiceError, match="a machine's name"):
        farm.enrolment(name, "ann")


def test_a_machine_is_online_while_it_asks(farm, time):
    enrolled(farm)
    time.pass_by(ONLINE_S)
    assert farm.device("board").online
    time.pass_by(1)
    assert not farm.device("board").online
    farm.tasks.claim("board", "p")
    assert farm.device("board").online


def test_a_machine_stands_with_what_it_said_last(farm, time):
    enrolled(farm)
    found = farm.device("board")
    assert (found.fingerprint, found.offers, found.versions) == (ABOUT.fingerprint, ABOUT.offers, ABOUT.versions)
    assert (found.queued, found.running, found.canaries, found.revoked) == (0, 0, (), False)
    farm.hello("board", type(ABOUT)(ABOUT.fingerprint, ABOUT.offers, {"hwnas": "9"}))
    assert farm.device("board").versions == {"hwnas": "9"}
    assert json.loads(json.dumps(found.to_json()))["name"] == "board"
    with pytest.raises(NotFound, match="no machine 'nobody' is enrolled"):
        farm.device("nobody")


def test_a_removed_machine_is_refused_at_once_and_can_be_enrolled_again(farm, people):
    token = enrolled(farm)
    enrolled(farm, "other")
    farm.revoke("board")
    farm.revoke("board")
    assert people.holder(token) is None
    assert [each.name for each in farm.devices()] == ["other"]
    assert farm.device("board").revoked
    again = enrolled(farm, "board", "m")
    assert people.holder(again).device == "board"
    assert people.holder(token) is None
    assert not farm.device("board").revoked
    with pytest.raises(NotFound):
        farm.revoke("nobody")


def test_the_next_machine_of_a_name_takes_the_place_of_the_one_before(farm, people):
    first, second = enrolled(farm), enrolled(farm, nonce="m")
    assert people.holder(first) is None
    assert people.holder(second).device == "board"

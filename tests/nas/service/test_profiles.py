"""What is known of machines from finished profiles: each once, of the machine that was measured, of one's own jobs."""

from functools import partial

import pytest

from nas.service.profiles import PROFILE, profiles_of, read_profile
from nas.service.schema import tasks
from tests.nas.web.house import House, profiled


@pytest.fixture
def house(tmp_path) -> House:
    return House.at(tmp_path / "data")


def known(house, machine, owner=None):
    found = profiles_of(house.services.db, partial(read_profile, house.services.artefacts), machine, owner)
    return [(each.job_name, each.found["name"]) for each in found]


def profile(house, user, name, *pairs, parent=None, body=None):
    """A job that has profiled (device, agent) pairs."""
    job = house.submit(user, name, parent=parent and parent.id)
    lease = house.claim(job)
    house.leave(lease, {PROFILE: profiled(*pairs) if body is None else body})
    for _, agent in pairs:
        house.measured(job, agent)
    house.finish(lease)
    return job


def test_a_machine_has_what_was_measured_on_it_newest_first(house) -> None:
    ann = house.person("ann")
    house.enrol(ann, "pi-5")
    profile(house, ann, "first", ("pi", "pi-5"), ("desk", ""))
    profile(house, ann, "second", ("pi_t4", "pi-5"))
    assert known(house, "pi-5") == [("second", "pi_t4"), ("first", "pi")]
    assert known(house, None) == [("first", "desk")]


def test_a_job_that_goes_on_from_another_adds_nothing_until_it_measures_itself(house) -> None:
    ann = house.person("ann")
    first = profile(house, ann, "first", ("desk", ""))
    search = profile(house, ann, "search", ("desk", ""), parent=first)
    assert known(house, None) == [("first", "desk")]
    profile(house, ann, "wider", ("desk", ""), ("shelf", ""), parent=search)
    assert known(house, None) == [("wider", "desk"), ("wider", "shelf"), ("first", "desk")]


def test_one_sees_what_ones_own_jobs_have_profiled_and_a_damaged_file_hides_nothing_else(house) -> None:
    ann, bob = house.person("ann"), house.person("bob")
    profile(house, ann, "of-ann", ("desk", ""))
    profile(house, bob, "of-bob", ("desk", ""))
    profile(house, bob, "damaged", body=b"[1,")
    profile(house, bob, "odd", body=b"[1]")
    assert known(house, None, bob.id) == [("of-bob", "desk")]
    assert known(house, None) == [("of-bob", "desk"), ("of-ann", "desk")]


def test_tasks_that_have_not_ended_well_make_no_profile(house) -> None:
    ann = house.person("ann")
    house.enrol(ann, "pi-5")
    profile(house, ann, "first", ("pi", "pi-5"))
    house.services.db.write(lambda connection: connection.execute(tasks.update().values(state="FAILED")))
    assert known(house, "pi-5") == []

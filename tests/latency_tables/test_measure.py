"""The measuring loop on a fake machine, and for real on a toy graph."""

import gc
import math
import os
import re
import sys

import numpy as np
import pytest

from latency_tables import Device, Graph, LatencyError, Protocol, measure
from latency_tables.graphs.graph import profiling_model
from latency_tables.measuring.conditions import Conditions
from latency_tables.measuring.disturbance import LEVELS
from latency_tables.measuring.measure import OWN_CACHE_BYTES
from tests.latency_tables.fakes import CANARY_US, FakeMachine, graphs, tiny_space

DEVICE = Device("fake")
TIMES_US = {"a": 50.0, "b": 300.0, "c": 2000.0, "d": 9000.0}


def on(machine: FakeMachine, *keys: str, **arguments):
    return measure(graphs(*(keys or TIMES_US)), DEVICE, **machine.hooks_and_system, **arguments)


def test_a_quiet_machine_gives_each_latency_in_the_fewest_rounds():
    found = on(FakeMachine(TIMES_US))
    for key, time_us in TIMES_US.items():
        assert found[key].median_us == pytest.approx(time_us, rel=0.005)
        assert found[key].converged
        assert len(found[key].kept) == Protocol().min_rounds
        assert found[key].rejected_rounds == 0
        assert not found[key].disturbed
        assert found[key].reference_us == pytest.approx(CANARY_US, rel=0.01)


def test_each_round_visits_every_graph_once_in_an_order_drawn_anew():
    machine = FakeMachine(TIMES_US)
    on(machine)
    rounds = [machine.visits[start : start + len(TIMES_US)] for start in range(0, len(machine.visits), len(TIMES_US))]
    assert all(sorted(round_) == sorted(TIMES_US) for round_ in rounds)
    assert len({tuple(round_) for round_ in rounds}) > 1


def test_the_same_seed_gives_the_same_order_and_another_seed_another():
    first, again, other = (FakeMachine(TIMES_US) for _ in range(3))
    for machine, seed in ((first, 0), (again, 0), (other, 1)):
        on(machine, protocol=Protocol(seed=seed))
    assert first.ran == again.ran
    assert first.visits != other.visits


def test_a_visit_lasts_for_a_few_milliseconds_but_three_runs_at_least():
    found = on(FakeMachine(TIMES_US))
    runs = {key: {len(round_.samples_us) for round_ in found[key].kept} for key in TIMES_US}
    assert runs["a"] == {50}
    assert 9 <= min(runs["b"]) <= max(runs["b"]) <= 11
    assert runs["d"] == {3}


def neighbour(now_s: float) -> float:
    """Twice as slow for 30 ms in every 100."""
    return 2.0 if now_s % 0.1 < 0.03 else 1.0


def test_rounds_that_a_neighbour_slowed_are_rejected_and_repeated():
    found = on(FakeMachine(TIMES_US, slow=neighbour), protocol=Protocol(canary_every=2))
    for key in ("a", "b", "c"):
        assert found[key].median_us == pytest.approx(TIMES_US[key], rel=0.01)
        assert found[key].converged
        assert not found[key].disturbed
    assert sum(one.rejected_rounds for one in found.values()) > 3


def test_rounds_that_lost_the_processor_are_rejected_although_the_canary_saw_nothing():
    found = on(FakeMachine(TIMES_US, lost=lambda now: neighbour(now) - 1))
    for key, time_us in TIMES_US.items():
        assert found[key].median_us == pytest.approx(time_us, rel=0.01)
        assert min(round_.cpu_share for round_ in found[key].kept) > 0.9
    assert sum(one.rejected_rounds for one in found.values()) > 3


def test_a_thread_that_waits_for_an_accelerator_is_not_taken_for_disturbed():
    found = on(FakeMachine(TIMES_US, lost=lambda now: 4.0))
    assert all(one.converged and one.rejected_rounds == 0 for one in found.values())
    assert found["a"].rounds[0].cpu_share == pytest.approx(0.2)


def test_when_too_few_rounds_are_calm_the_least_disturbed_are_kept_and_marked():
    """Calm while it warms up, and never again: every round is slower than the one before."""
    protocol = Protocol(max_rejected=12)
    found = on(FakeMachine(TIMES_US, slow=lambda now: 1.0 if now < 0.004 else 1.5 + now), protocol=protocol)
    for one in found.values():
        assert one.disturbed
        assert not one.converged
        assert one.rejected_rounds >= protocol.max_rejected
        assert len(one.kept) == protocol.min_rounds
        assert one.kept == one.rounds[: protocol.min_rounds]


def test_a_reference_that_sinks_later_disturbs_earlier_rounds():
    """What seems calm at first, and converged, is found out once the neighbour leaves."""
    found = on(FakeMachine(TIMES_US, slow=lambda now: 2.0 if now < 0.2 else 1.0), protocol=Protocol(min_rounds=12))
    assert found["b"].median_us == pytest.approx(TIMES_US["b"], rel=0.01)
    assert found["b"].rejected_rounds > 0


def test_graphs_that_are_done_are_left_alone_while_others_go_on():
    machine = FakeMachine({"calm": 100.0, "wild": 100.0})
    plain = machine.open

    def open_wild(graph, device):
        run = plain(graph, device)
        rounds = np.random.default_rng(1)
        state = {"factor": 1.0, "last": None}

        def wild():
            if machine.ran and machine.ran[-1] != "wild":
                state["factor"] = rounds.uniform(0.7, 1.3)
            return run() * state["factor"]

        return wild if graph.key == "wild" else run

    found = measure(graphs("calm", "wild"), DEVICE, **{**machine.hooks_and_system, "open_graph": open_wild})
    assert found["calm"].converged
    assert len(found["calm"].kept) == Protocol().min_rounds
    assert not found["wild"].converged
    assert len(found["wild"].kept) == Protocol().max_rounds


def test_the_budget_ends_a_measurement_but_leaves_no_graph_out():
    machine = FakeMachine(TIMES_US)
    found = on(machine, protocol=Protocol(budget_s=1e-6, canary_every=1))
    assert {key: len(one.kept) for key, one in found.items()} == dict.fromkeys(TIMES_US, 1)
    assert not any(one.converged or one.disturbed for one in found.values())
    found = on(machine, protocol=Protocol(budget_s=0.1, min_rounds=500, max_rounds=500))
    assert machine.now_s < 0.5
    assert all(2 <= len(one.kept) < 10 for one in found.values())


def test_an_interrupted_measurement_goes_on_with_the_rounds_that_it_has():
    first = on(FakeMachine(TIMES_US), protocol=Protocol(min_rounds=3, max_rounds=3))
    machine = FakeMachine(TIMES_US)
    found = on(machine, earlier=first)
    assert machine.visits.count("a") == Protocol().min_rounds - 3
    assert found["a"].rounds[:3] == first["a"].rounds


def test_a_finished_measurement_is_not_repeated():
    first, machine = on(FakeMachine(TIMES_US)), FakeMachine(TIMES_US)
    found = on(machine, earlier=first)
    assert machine.visits == []
    assert {key: one.rounds for key, one in found.items()} == {key: one.rounds for key, one in first.items()}


def test_partial_results_come_after_every_round():
    seen = []
    found = on(FakeMachine(TIMES_US), on_round=lambda done, most, partial: seen.append((done, most, dict(partial))))
    assert [done for done, _, _ in seen] == list(range(1, Protocol().min_rounds + 1))
    assert {most for _, most, _ in seen} == {Protocol().max_rounds + Protocol().max_rejected}
    assert [len(partial["a"].kept) for _, _, partial in seen] == list(range(1, Protocol().min_rounds + 1))
    assert {key: one.rounds for key, one in seen[-1][2].items()} == {key: one.rounds for key, one in found.items()}


def test_sessions_stay_open_unless_the_models_are_too_large_together():
    machine = FakeMachine(TIMES_US)
    on(machine)
    assert sorted(machine.opened) == ["a", "b", "c", "canary", "d"]
    machine = FakeMachine(TIMES_US)
    on(machine, protocol=Protocol(open_bytes=len(b"model") * 3))
    assert machine.opened.count("a") == Protocol().min_rounds
    assert machine.opened.count("canary") == 1


def test_garbage_collection_rests_while_timing_and_goes_on_afterwards():
    machine = FakeMachine(TIMES_US)
    plain, states = machine.open, []

    def watched(graph, device):
        run = plain(graph, device)
        return lambda: (states.append(gc.isenabled()), run())[1]

    measure(
        graphs("a"), DEVICE, **{**machine.hooks_and_system, "open_graph": watched}, protocol=Protocol(warm_up_s=0.0)
    )
    assert gc.isenabled()
    # Only the run before each canary reading, which is not counted, may see it on.
    assert states.count(True) <= states.count(False) / 5


def test_two_graphs_of_one_key_are_refused():
    with pytest.raises(LatencyError, match="same key"):
        on(FakeMachine(TIMES_US), "a", "a")


def test_nothing_to_measure_is_nothing_measured():
    assert measure([], DEVICE, **FakeMachine({}).hooks_and_system) == {}


@pytest.mark.parametrize(
    "wrong",
    [{"min_rounds": 0}, {"max_rounds": 2}, {"min_runs": 9, "max_runs": 8}, {"budget_s": 0.0}, {"disturbed": math.nan}],
    ids=str,
)
def test_a_protocol_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(LatencyError, match="protocol"):
        Protocol(**wrong)


REASONS = {
    "steal": {"told": lambda now: Conditions(steal=0.5 if now % 0.1 < 0.03 else 0.0)},
    "neighbour": {"told": lambda now: Conditions(neighbour=1.0 if now % 0.1 < 0.03 else 0.2)},
    "pressure": {"told": lambda now: Conditions(pressure=1.0 if now % 0.1 < 0.03 else 0.1)},
    "frequency": {"told": lambda now: Conditions(frequency_mhz=1200.0 if now % 0.1 < 0.03 else 2400.0)},
    "waiting": {"waits": lambda now: 0.5 if now % 0.1 < 0.03 else 0.0},
    "canary": {"slow": neighbour},
    "preempted": {"lost": lambda now: neighbour(now) - 1},
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_rejected_round_is_kept_with_what_disturbed_it(reason, monkeypatch):
    monkeypatch.setattr(sys.modules["latency_tables.measuring.measure"], "OWN_CACHE_BYTES", 0)
    found = on(FakeMachine(TIMES_US, **REASONS[reason]), "a", "b", "c", protocol=Protocol(canary_every=2, pressed=0.5))
    disturbed = [one for one in found.values() if one.rejected]
    assert disturbed
    for one in disturbed:
        assert set(one.rejected) == {reason}
        assert len(one.rounds) == len(one.kept) + one.rejected[reason]
        assert not any(counts and why for counts, why in zip(one.counts, one.reasons, strict=True))
        assert one.converged


def test_a_graph_that_fits_the_cache_of_its_core_does_not_feel_what_the_others_do():
    machine = FakeMachine(TIMES_US, **REASONS["neighbour"])
    large = Graph("b", b"m" * (OWN_CACHE_BYTES + 1))
    found = measure([*graphs("a"), large], DEVICE, **machine.hooks_and_system)
    assert found["a"].rejected == {}
    assert {round_.neighbour for round_ in found["a"].rounds} == {None}
    assert set(found["b"].rejected) == {"neighbour"}


def test_every_reason_that_there_is_has_a_disturbance_that_shows_it():
    assert set(REASONS) == set(LEVELS)


def test_a_measurement_says_what_ended_it():
    calm = on(FakeMachine(TIMES_US), "a")["a"]
    wild = on(FakeMachine(TIMES_US, slow=wobbling), "a", protocol=Protocol(disturbed=9.0, max_rounds=10))["a"]
    lost = on(FakeMachine(TIMES_US, told=lambda now: Conditions(steal=1.0)), "a", protocol=Protocol(max_rejected=9))[
        "a"
    ]
    late = on(FakeMachine(TIMES_US), "d", protocol=Protocol(budget_s=0.01))["d"]
    assert [one.ended for one in (calm, wild, lost, late)] == ["precision", "rounds", "rejected", "budget"]


def wobbling(now_s: float) -> float:
    """Between half and one and a half, changing every 3 ms."""
    return 0.5 + (int(now_s / 0.003) * 7919 % 101) / 100


def test_a_fresh_session_runs_until_it_is_stable_before_anything_counts():
    machine = FakeMachine(TIMES_US)
    plain = machine.open

    def open_slowly(graph, device):
        run, warmth = plain(graph, device), iter(range(9))
        return lambda: run() * (10 - next(warmth, 9))

    found = measure(graphs("b"), DEVICE, **{**machine.hooks_and_system, "open_graph": open_slowly})
    assert max(found["b"].samples_us) == pytest.approx(300, rel=0.02)


def test_earlier_rounds_of_a_slower_machine_are_kept_apart():
    slow = on(FakeMachine(TIMES_US, slow=lambda now: 1.5), protocol=Protocol(min_rounds=3, max_rounds=3))
    found = on(FakeMachine(TIMES_US), earlier=slow)
    assert slow["b"].median_us == pytest.approx(450, rel=0.01)
    assert found["b"].median_us == pytest.approx(300, rel=0.01)
    assert found["b"].rejected == {"canary": 3}
    assert len(found["b"].kept) == Protocol().min_rounds


def test_cores_and_priority_are_recorded_and_put_back():
    before = os.sched_getaffinity(0)
    found = on(FakeMachine(TIMES_US), "a")["a"]
    assert len(found.cores) == 1
    assert re.fullmatch(r"realtime 1|nice -?\d+", found.priority)
    assert os.sched_getaffinity(0) == before


# For real


def test_a_toy_network_is_measured_for_real():
    space = tiny_space()
    archs = [space.smallest(), space.largest()]
    models = [Graph(arch.id, profiling_model(space, arch, 1)) for arch in archs]
    found = measure(models, Device("here"), protocol=Protocol(min_rounds=3, max_rounds=5, warm_up_s=0.1))
    small, large = (found[arch.id] for arch in archs)
    assert 1 < small.min_us <= small.median_us <= small.p90_us <= small.p95_us <= small.p99_us < 1e6
    assert small.median_us < large.median_us
    assert small.runs == len(small.samples_us)

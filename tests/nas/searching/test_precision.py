"""Searches in which precision is a choice: what is evaluated, what is shared with searches in fp32."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nas.deployed import Deployed, score_of
from nas.searching.engine import Identity, Plan, search
from nas.searching.evaluations import Evaluations
from nas.searching.evaluator import Evaluator
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.store import TrialStore
from search_spaces import Arch, define_space, float_arch, float_space, lifted, precision_of
from supernets.calibrate import accuracy, calibrate
from tests.contracts.runner_contract import SPACE, small_evaluator
from tests.nas.fakes import FakePredictor, FakeRunner

PRECISE = define_space("tiny", **SPACE.settings, precisions=["int8", "fp32"])


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    torch.manual_seed(0)
    return replace(small_evaluator(), space=PRECISE)


def some(precision: str, n: int = 4) -> list[Arch]:
    plain = float_space(PRECISE)
    codes = np.unique(plain.sample(np.random.default_rng(0), 2 * n), axis=0)[:n]
    return [lifted(PRECISE, arch, precision) for arch in plain.decode(codes)]


def test_a_network_in_fp32_scores_as_it_does_without_precision(evaluator):
    plain = replace(evaluator, space=SPACE)
    for arch in some("fp32"):
        assert evaluator.score(arch).val_accuracy == plain.score(float_arch(PRECISE, arch)).val_accuracy


def test_a_network_with_integers_scores_as_the_graph_that_is_deployed(evaluator):
    for arch in some("int8"):
        plain = float_arch(PRECISE, arch)
        stats = calibrate(evaluator.net, plain, evaluator.calibration)
        graphs = Deployed.of(evaluator.net, PRECISE, arch, stats, evaluator.calibration)
        graph = graphs.model(arch)
        assert "QuantizeLinear" in {node.op_type for node in graph.graph.node}
        assert evaluator.score(arch).val_accuracy == score_of(graph, arch, evaluator.validation)
        in_floats = graphs.model(lifted(PRECISE, plain))
        wanted = accuracy(evaluator.net, plain, stats, evaluator.validation)
        assert score_of(in_floats, plain, evaluator.validation) == wanted


def test_searches_with_and_without_precision_share_what_is_in_fp32():
    archs = [*some("fp32"), *some("int8")]
    with TrialStore("sqlite://") as store:
        first = FakeRunner(PRECISE)
        known = Evaluations(store, "same", first, PRECISE).score(archs, 48)
        assert len(first.scored) == len(archs)
        second = FakeRunner(SPACE)
        again = Evaluations(store, "same", second, SPACE).score([float_arch(PRECISE, a) for a in some("fp32")], 48)
        assert second.scored == []
        assert list(again.values()) == [known[arch] for arch in some("fp32")]


def test_a_search_finds_networks_of_both_precisions():
    target = Target("one", PRECISE, 1, {"latency_ms": FakePredictor(PRECISE, seed=0)})
    problem = Problem(PRECISE, (target,))
    with TrialStore("sqlite://") as store:
        evaluations = Evaluations(store, "same", FakeRunner(PRECISE), PRECISE)
        found = search(problem, Plan("guided", 40, (48,), population=8), Identity("s"), store, evaluations)
    assert {precision_of(arch) for arch in PRECISE.decode(found.codes)} == {"fp32", "int8", "mixed"}

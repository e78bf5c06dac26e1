"""Zero-cost proxies: what each computes, on which weights, and what they leave alone."""

import copy
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import FAMILIES, Arch, Space, define_space, network
from supernets.calibrate import calibrate, resize, resolution
from supernets.errors import SupernetError
from supernets.extract import extract
from supernets.proxies import PROXIES, Candidate, jacobian_score, proxy_scores, synflow, untrained
from supernets.supernet import Supernet
from tests.contracts.supernet_contract import archs_of, images, small_space, stirred

NAMES = tuple(PROXIES)
# Sums over weights in another order; a sign of a gradient that is nearly zero may turn.
TOLERANCE = 1e-3


def batch(space: Space, count: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the largest resolution, and labels."""
    labels = torch.randint(
        0, space.settings["num_classes"], (count,), generator=torch.Generator().manual_seed(seed + 100)
    )
    return images(space, space.largest(), count, seed), labels


def scores_of(space: Space, arch: Arch, names=NAMES, seed: int = 0, **changes) -> dict[str, float]:
    x, y = batch(space)
    found = proxy_scores(space, [arch], changes.get("x", x), changes.get("y", y), names, seed=seed)
    return {name: float(values[0]) for name, values in found.items()}


def candidate_of(space: Space, arch: Arch) -> Candidate:
    return untrained(space, arch, *batch(space), seed=0)


def weighted(module: nn.Module) -> list[torch.Tensor]:
    """The weights of convolutions and linear layers of a plain module."""
    return [each.weight for each in module.modules() if isinstance(each, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_proxy_gives_every_arch_a_finite_score(family):
    space = small_space(family)
    archs = archs_of(space, 3)
    found = proxy_scores(space, archs, *batch(space), NAMES)
    assert tuple(found) == NAMES
    for values in found.values():
        assert values.shape == (len(archs),)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
        assert len(set(values)) == len(set(archs))


@pytest.mark.parametrize("family", FAMILIES)
def test_grad_norm_and_snip_are_those_of_the_first_training_step(family):
    space = small_space(family)
    for arch in archs_of(space, 2):
        candidate = candidate_of(space, arch)
        module = extract(candidate.net, candidate.arch).train()
        F.cross_entropy(module(candidate.images_BCHW), candidate.labels_B).backward()
        norms = saliency = 0.0
        for weight in weighted(module):
            norms += math.sqrt(float((weight.grad**2).sum()))
            saliency += float((weight.grad * weight.detach()).abs().sum())
        assert PROXIES["grad_norm"](candidate) == pytest.approx(norms, rel=TOLERANCE)
        assert PROXIES["snip"](candidate) == pytest.approx(saliency, rel=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradsign_counts_the_signs_of_one_image_after_the_other(family):
    space = small_space(family)
    candidate = candidate_of(space, space.smallest())
    stats = calibrate(candidate.net, candidate.arch, [candidate.images_BCHW])
    module = extract(candidate.net, candidate.arch, stats)
    signs = []
    for x, y in zip(candidate.images_BCHW, candidate.labels_B, strict=True):
        module.zero_grad()
        F.cross_entropy(module(x[None]), y[None]).backward()
        signs.append(torch.cat([weight.grad.sign().flatten() for weight in weighted(module)]))
    wanted = float(torch.stack(signs).sum(0).abs().sum())
    assert PROXIES["gradsign"](candidate) == pytest.approx(wanted, rel=TOLERANCE)
    assert wanted < len(signs) * len(signs[0])


def test_images_that_are_all_alike_agree_on_every_weight():
    space = small_space("tiny")
    x, y = batch(space, 1)
    found = scores_of(space, space.smallest(), ["gradsign"], x=x.expand(5, -1, -1, -1), y=y.expand(5))["gradsign"]
    other = scores_of(space, space.smallest(), ["gradsign"], x=x.expand(10, -1, -1, -1), y=y.expand(10))["gradsign"]
    assert other == pytest.approx(2 * found, rel=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_jacob_cov_is_the_score_of_the_correlations_of_gradients_by_the_images(family):
    space = small_space(family)
    candidate = candidate_of(space, space.smallest())
    x = candidate.images_BCHW.clone().requires_grad_()
    extract(candidate.net, candidate.arch).train()(x).sum().backward()
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(x.grad.flatten(1).double().numpy()))
    wanted = -np.sum(np.log(eigenvalues + 1e-5) + 1 / (eigenvalues + 1e-5))
    assert PROXIES["jacob_cov"](candidate) == pytest.approx(wanted, rel=TOLERANCE)


def test_jacobians_score_highest_where_they_have_nothing_in_common():
    generator = torch.Generator().manual_seed(0)
    centred = torch.randn(30, 6, dtype=torch.float64, generator=generator)
    orthogonal = torch.linalg.qr(centred - centred.mean(0)).Q.T
    best = jacobian_score(orthogonal)
    assert best == pytest.approx(-6, abs=1e-3)
    # How strong each is says nothing, nor where its mean lies.
    steps = torch.arange(1.0, 7.0)[:, None]
    assert jacobian_score(orthogonal * steps) == pytest.approx(best)
    assert jacobian_score(orthogonal + steps) == pytest.approx(best)
    previous = best
    for share in (0.3, 0.6, 0.9):
        mixed = jacobian_score((1 - share) * orthogonal + share * orthogonal[:1])
        assert mixed < previous
        previous = mixed
    assert jacobian_score(orthogonal[:1].expand(6, -1)) < -1e5
    assert jacobian_score(torch.cat([orthogonal, torch.zeros(1, 30)])) < -9e4


def test_images_that_repeat_lower_jacob_cov():
    space = small_space("tiny")
    x, y = batch(space, 8)
    different = scores_of(space, space.largest(), ["jacob_cov"])["jacob_cov"]
    repeated = scores_of(space, space.largest(), ["jacob_cov"], x=x[[0, 1, 2, 3, 0, 1, 2, 3]], y=y)["jacob_cov"]
    assert repeated < different


def centre_only(net: Supernet, seed: int) -> dict[str, np.ndarray]:
    """Random weights that each read one pixel, so that every layer is a matrix; by layer name."""
    rng = np.random.default_rng(seed)
    matrices = {}
    for layer in network(net.space, net.space.largest()):
        if layer.weight_shape:
            weight = net.get_parameter(f"{layer.name}.weight")
            matrix = rng.standard_normal(layer.weight_shape[:2])
            with torch.no_grad():
                weight.zero_()
                target = weight[:, :, layer.kernel // 2, layer.kernel // 2] if layer.op == "conv" else weight
                target.copy_(torch.from_numpy(matrix))
            matrices[layer.name] = np.abs(target.detach().double().numpy())
    return matrices


def test_synflow_of_one_residual_block_is_what_its_matrices_say():
    sizes = {"resolutions": [4], "channels": [8], "strides": [2], "widths": [1.0], "depths": [1], "expands": [0.5]}
    space = define_space("tiny", in_channels=2, stem=8, num_classes=3, **sizes)
    candidate = candidate_of(space, space.largest())
    m = centre_only(candidate.net, seed=3)
    # Nothing is negative, so ReLU does nothing, and all pixels are alike, so that pooling does nothing either.
    before, after = m["stem.conv"].sum(1), m["head.classifier"].sum(0)
    branch = after @ m["s1.b0.conv2"] @ m["s1.b0.conv1"] @ before
    shortcut = after @ m["s1.b0.shortcut"] @ before
    # All of the flow goes through the stem and the classifier, a part through each convolution of the block.
    wanted = 2 * (branch + shortcut) + 2 * branch + shortcut
    assert synflow(candidate) == pytest.approx(math.log(wanted), rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_synflow_sees_neither_images_nor_norms(family):
    space = small_space(family)
    candidate = candidate_of(space, space.smallest())
    wanted = synflow(candidate)
    with torch.no_grad():
        candidate.images_BCHW.mul_(-3.0)
        for name, parameter in candidate.net.named_parameters():
            if "_norm." in name:
                parameter.add_(5.0)
    assert synflow(candidate) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_a_deeper_and_wider_network_has_more_synflow(family):
    space = small_space(family)
    for seed in range(3):
        smallest, largest = (scores_of(space, arch, ["synflow"], seed) for arch in (space.smallest(), space.largest()))
        assert largest["synflow"] > smallest["synflow"]


def test_synflow_stays_finite_where_single_precision_would_not():
    deep = {"resolutions": [4], "channels": [64] * 3, "strides": [1] * 3, "widths": [1.0], "depths": [8]}
    space = define_space("tiny", expands=[1.0], kernels=[3], **deep)
    score = scores_of(space, space.largest(), ["synflow"])["synflow"]
    assert math.log(np.finfo(np.float32).max) < score < math.log(np.finfo(np.float64).max)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_candidate_is_the_arch_with_weights_drawn_for_its_own_size(family):
    space = small_space(family)
    for arch in archs_of(space, 3):
        candidate = candidate_of(space, arch)
        layers = network(candidate.net.space, candidate.arch)
        assert layers == network(space, arch)
        for layer, weight in zip([layer for layer in layers if layer.weight_shape], candidate.weights, strict=True):
            assert tuple(weight.shape) == layer.weight_shape
            fan = layer.out_shape[0] * layer.kernel**2 / layer.groups
            variance = 2.0 / fan if layer.op == "conv" else 1.0 / layer.weight_shape[1]
            assert float(weight.detach().square().mean()) == pytest.approx(variance, rel=6 / math.sqrt(layer.weights))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_the_batch_does_not_matter(family):
    space = small_space(family)
    x, y = batch(space)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    wanted, found = (scores_of(space, space.largest(), x=a, y=b) for a, b in ((x, y), (x[order], y[order])))
    assert found == pytest.approx(wanted, rel=TOLERANCE)


def test_a_score_is_a_function_of_the_seed_and_the_arch_alone():
    space = small_space("tiny")
    archs = archs_of(space, 4)
    x, y = batch(space)
    found = proxy_scores(space, archs, x, y, NAMES, seed=5)
    back = proxy_scores(space, archs[::-1], x, y, NAMES[::-1], seed=5)
    for name in NAMES:
        np.testing.assert_array_equal(back[name][::-1], found[name])
        assert not np.array_equal(proxy_scores(space, archs, x, y, [name], seed=6)[name], found[name])


def test_every_arch_and_seed_has_weights_of_its_own():
    space = small_space("tiny")
    stems = [
        untrained(space, arch, *batch(space), seed).weights[0]
        for arch in (space.smallest(), space.largest())
        for seed in (0, 1)
    ]
    assert len({stem.shape for stem in stems}) == 1
    assert not any(torch.equal(a, b) for a, b in combinations(stems, 2))


@pytest.mark.parametrize("training", [True, False])
def test_proxies_change_nothing_around_them(training):
    space = small_space("mobilenet_v3")
    net = stirred(space).train(training)
    before = copy.deepcopy(net.state_dict())
    x, y = batch(space)
    x_before, generator, threads = x.clone(), torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        inside = proxy_scores(space, [space.smallest()], x, y, NAMES)
        assert not torch.is_grad_enabled()
    assert inside == proxy_scores(space, [space.smallest()], x, y, NAMES)
    assert net.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(x, x_before)
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_num_threads() == threads


def test_images_of_another_size_are_resized_to_that_of_the_arch():
    space = small_space("tiny")
    arch = space.smallest()
    x = images(space, space.largest(), 8)
    small = resize(x, resolution(arch))
    assert x.shape != small.shape
    assert scores_of(space, arch, x=x) == scores_of(space, arch, x=small)


def test_no_archs_and_no_names_give_no_scores():
    space = small_space("tiny")
    x, y = batch(space)
    assert proxy_scores(space, [space.smallest()], x, y, []) == {}
    assert proxy_scores(space, [], x, y, ["snip"])["snip"].shape == (0,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["snip", "synflo"]}, "unknown proxy 'synflo'; did you mean 'synflow'?"),
        ({"names": ["xyz"]}, "unknown proxy 'xyz'; known are grad_norm, snip, synflow, jacob_cov, gradsign"),
        ({"x": torch.zeros(0, 1, 12, 12), "y": torch.zeros(0, dtype=torch.long)}, "2 or more normalised images"),
        (
            {"x": torch.zeros(1, 1, 12, 12), "y": torch.zeros(1, dtype=torch.long)},
            "not float32 of shape (1, 1, 12, 12)",
        ),
        ({"x": torch.zeros(8, 3, 12, 12)}, "(n, 1, height, width), not float32 of shape (8, 3, 12, 12)"),
        ({"x": torch.zeros(8, 1, 12, 12, dtype=torch.uint8)}, "not uint8 of shape (8, 1, 12, 12)"),
        ({"x": torch.zeros(8, 1, 12)}, "not float32 of shape (8, 1, 12)"),
        ({"y": torch.zeros(7, dtype=torch.long)}, "a label from 0 to 9 for each of 8 images"),
        ({"y": torch.full((8,), 10)}, "a label from 0 to 9 for each of 8 images"),
        ({"y": torch.full((8,), -1)}, "a label from 0 to 9 for each of 8 images"),
    ],
)
def test_what_a_proxy_cannot_work_with_is_refused_in_one_line(changes, message):
    space = small_space("tiny")
    with pytest.raises(SupernetError) as caught:
        scores_of(space, space.smallest(), **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

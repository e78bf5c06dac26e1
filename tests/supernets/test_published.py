"""Checkpoints in the published layout: what they compute as supernets of ours, and what is refused."""

import collections
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from search_spaces import Space, define_space
from supernets.calibrate import resolution
from supernets.checkpoint import load_supernet, save_supernet
from supernets.errors import CheckpointError
from supernets.extract import extract
from supernets.published import LAYOUTS, MEAN, import_supernet, published_tensors
from tests.contracts.supernet_contract import logits, small_space
from tests.supernets.drawn_state import drawn_images, drawn_state

GOLDEN = Path(__file__).parent / "golden"


@cache
def golden(family: str) -> dict:
    return json.loads((GOLDEN / f"ofa_{family}.json").read_bytes())


def space_of(document: dict) -> Space:
    return define_space(document["family"], **document["settings"])


@cache
def state_of(family: str) -> dict[str, torch.Tensor]:
    return drawn_state(golden(family)["shapes"], golden(family)["seed"])


def saved(path: Path, content, *, old: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


def imported(path: Path, family: str):
    return import_supernet(path, space_of(golden(family)), "ofa_x")


def refusal(path: Path, family: str = "mobilenet_v3") -> str:
    with pytest.raises(CheckpointError) as caught:
        imported(path, family)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("family", LAYOUTS)
def test_an_imported_supernet_computes_what_the_published_code_computes(family, tmp_path):
    """Golden logits; benchmarks/ofa_parity.py wrote them, and says how."""
    net, _ = imported(saved(tmp_path / "ofa", {"state_dict": state_of(family)}), family)
    for case in golden(family)["cases"]:
        arch = net.space.arch(case["choices"])
        size = resolution(arch)
        x_BCHW = drawn_images((1, 3, size, size), golden(family)["seed"])
        wanted = torch.tensor([case["logits"]])
        torch.testing.assert_close(logits(net, x_BCHW, arch), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits(extract(net, arch), x_BCHW), wanted, rtol=1e-5, atol=1e-5)


def test_every_published_tensor_is_used(tmp_path):
    for family in LAYOUTS:
        space, state = space_of(golden(family)), state_of(family)
        net, _ = imported(saved(tmp_path / family, state), family)
        sums = sorted(float(t.double().sum()) for n, t in state.items() if not n.endswith("num_batches_tracked"))
        assert sorted(float(t.double().sum()) for t in net.state_dict().values()) == sums
        assert space == net.space


# Files


def once(name: str) -> str:
    """As files are spelled in which nothing that is wrapped is named twice."""
    return re.sub(r"\b(bn|conv|linear)\.(?=\1\.)", "", name)


SPELLINGS = {
    "as it is": lambda name: name,
    "older": lambda name: re.sub(r"(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", name),
    "once": once,
    "of a wrapped network": lambda name: f"module.{name}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_names_is_read(spelling, tmp_path):
    state = {SPELLINGS[spelling](name): tensor for name, tensor in state_of("mobilenet_v3").items()}
    assert len(state) == len(state_of("mobilenet_v3"))
    net, _ = imported(saved(tmp_path / "a", state), "mobilenet_v3")
    other, _ = imported(saved(tmp_path / "b", state_of("mobilenet_v3")), "mobilenet_v3")
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in other.state_dict().items())


def test_every_kind_of_file_is_read(tmp_path):
    state = state_of("proxyless")
    save_file(state, tmp_path / "safe")
    paths = [tmp_path / "safe", saved(tmp_path / "zip", collections.OrderedDict(state))]
    paths.append(saved(tmp_path / "old", {"state_dict": state, "epoch": 3, "best_acc": 76.5}, old=True))
    for path in paths:
        found = published_tensors(path)
        assert len(found) == sum(not name.endswith("num_batches_tracked") for name in state)
        assert torch.equal(found["classifier.linear.weight"], state["classifier.linear.weight"])


def test_an_imported_supernet_is_saved_with_where_it_came_from(tmp_path):
    path = saved(tmp_path / "ofa_x", state_of("resnet50"))
    net, notes = imported(path, "resnet50")
    save_supernet(tmp_path / "supernet.safetensors", net, notes)
    again, kept = load_supernet(tmp_path / "supernet.safetensors", net.space)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in net.state_dict().items())
    assert kept["published"]["name"] == "ofa_x"
    assert kept["published"]["file"] == "ofa_x"
    assert re.fullmatch(r"[0-9a-f]{64}", kept["published"]["sha256"])
    assert kept["mean"] == list(MEAN)


# What is refused


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_pickle_is_not_run(old, tmp_path, capfd):
    path = saved(tmp_path / "code", {"state_dict": state_of("mobilenet_v3"), "more": Code()}, old=old)
    said = refusal(path)
    assert "holds" in said
    assert "print" in said
    assert "save its state dict alone" in said
    assert "this ran" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "wanted a state dict, found list"),
        ({}, "wanted a state dict, found dict"),
        ({"a": 1}, "wanted a state dict of tensors, found int at 'a'"),
        ({1: torch.zeros(1)}, "wanted a state dict"),
        (torch.zeros(3), "wanted a state dict, found Tensor"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, said, tmp_path):
    assert said in refusal(saved(tmp_path / "odd", content))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text").write_text("weights, honestly")
    (tmp_path / "empty").touch()
    for name in ("text", "empty", "absent", "."):
        assert refusal(tmp_path / name).startswith(
            ("neither a checkpoint", "not a readable checkpoint", "cannot be read")
        )


def test_tensors_that_do_not_fit_are_named(tmp_path):
    state = dict(state_of("mobilenet_v3"))
    gone, extra, bent = "first_conv.conv.weight", "tail.weight", "final_expand_layer.conv.weight"
    state[extra] = state.pop(gone)
    state[bent] = state[bent][:8]
    said = refusal(saved(tmp_path / "x", state))
    assert said.startswith(
        f"is no checkpoint of ofa_x: {gone} is missing; {extra} is not of this network; {bent} has shape (8,"
    )
    assert "more" not in said
    del state["first_conv.bn.bias"]
    assert refusal(saved(tmp_path / "x", state)).endswith("and 1 more")


def test_a_checkpoint_of_another_family_is_called_so(tmp_path):
    for own in LAYOUTS:
        path = saved(tmp_path / own, state_of(own))
        for other in set(LAYOUTS) - {own}:
            assert refusal(path, other) == f"looks like a checkpoint of {own}, not of {other} (ofa_x)"


def test_another_number_of_classes_is_refused_with_what_to_do(tmp_path):
    path = saved(tmp_path / "x", state_of("resnet50"))
    with pytest.raises(
        CheckpointError, match="classifier has 7 classes, the space asks for 10; import it with num_classes=7"
    ):
        import_supernet(
            path, define_space("resnet50", **{**golden("resnet50")["settings"], "num_classes": 10}), "ofa_x"
        )


def test_a_family_that_was_not_published_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match="no published checkpoint has family tiny; known are mobilenet_v3, proxyless"
    ):
        import_supernet(tmp_path / "x", small_space("tiny"), "tiny")


@cache
def small_files(folder: Path) -> tuple[bytes, bytes]:
    state = {"first_conv.conv.weight": torch.ones(2, 3), "first_conv.bn.weight": torch.ones(2)}
    return tuple(saved(folder / f"small{old}", {"state_dict": state}, old=old).read_bytes() for old in (False, True))


@given(which=st.integers(0, 1), at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
@settings(deadline=None, max_examples=150)
def test_a_damaged_file_is_read_or_refused_in_one_line(which, at, byte, cut, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(small_files(folder)[which])
    at %= len(content)
    content[at] = byte
    path = folder / "damaged"
    path.write_bytes(content[:at] if cut else content)
    lines = 1
    try:
        published_tensors(path)
    except CheckpointError as error:
        lines = len(str(error).splitlines())
    assert lines == 1

"""Checkpoints: a training goes on after an interruption as if there had been none, or says why not."""

from dataclasses import replace

import pytest

from search_spaces import FAMILIES
from supernets import checkpoint
from supernets import layout as layout_module
from supernets import train as train_module
from supernets.checkpoint import save_supernet
from supernets.errors import CheckpointError, TrainError
from supernets.recipes import EXIT_TRAININGS, RECIPES, schedule
from supernets.settings import Augmentation
from supernets.supernet import Supernet
from supernets.train import train
from tests.supernets.bars import SETTINGS, Outage, bars, interrupt, same, space_of, timeless

# Steps enough for every phase of every recipe to have one.
EVERY_PHASE = replace(SETTINGS, epochs=5)


@pytest.mark.parametrize("name", RECIPES)
def test_training_interrupted_before_and_in_every_phase_ends_with_the_same_state(tmp_path, name):
    moments = schedule_of(replace(EVERY_PHASE, recipe=name), space_of("tiny"))
    names = [moment.phase.name for moment in moments if moment.first]
    assert names == [phase.name for phase in RECIPES[name]]
    check_interrupted(tmp_path, space_of("tiny"), replace(EVERY_PHASE, recipe=name))


@pytest.mark.parametrize(
    ("family", "layout"),
    # Depthwise nets in channels-last fp32 add in the order that the weights lie in, also the teacher's.
    [*((family, "fp32_channels_last") for family in FAMILIES), ("tiny", "fp32"), ("tiny", "bf16_channels_last")],
)
@pytest.mark.parametrize("name", ["sandwich", "progressive_shrinking"])
def test_it_does_so_in_every_family_and_layout(tmp_path, family, name, layout):
    check_interrupted(tmp_path, space_of(family), replace(SETTINGS, recipe=name, epochs=2, layout=layout))


@pytest.mark.parametrize("exits", EXIT_TRAININGS)
def test_it_does_so_with_early_exits(tmp_path, exits):
    check_interrupted(tmp_path, space_of("tiny", exits=["s1"]), replace(SETTINGS, epochs=2, exits=exits))


def schedule_of(settings, space):
    """Of 64 images in batches of 16."""
    return schedule(settings.recipe_for(space), settings.epochs * 4, settings.warmup)


def check_interrupted(folder, space, settings):
    dataset = bars(space)
    whole = train(space, dataset, settings)
    path = folder / "train.safetensors"
    starts = [step for step, moment in enumerate(schedule_of(settings, space)) if moment.first]
    left = {*starts, *(step + 1 for step in starts)} - {0}

    def interrupt_once(done, total, text):
        if done in left:
            left.remove(done)
            raise Outage

    while True:
        try:
            pieces = train(space, dataset, settings, path=path, checkpoint_s=0, progress=interrupt_once)
            break
        except Outage:
            pass
    assert not left
    for net in ("net", "average", "teacher"):
        a, b = getattr(whole, net), getattr(pieces, net)
        assert (a is None and b is None) or same(a, b), net
    recipe = RECIPES[settings.recipe]
    assert (whole.teacher is None) == all(phase.teacher != "frozen" for phase in recipe)
    assert (whole.gap is None) == (not any(phase.attentive for phase in recipe))
    if whole.gap is not None:
        assert (whole.gap.gram == pieces.gap.gram).all()
        assert (whole.gap.moment == pieces.gap.moment).all()
    assert timeless(pieces) == timeless(whole)
    assert pieces.loss == whole.loss


def test_training_goes_on_from_an_old_checkpoint_for_many_steps(tmp_path):
    space = space_of("tiny")
    dataset = bars(space)
    path, kept = tmp_path / "train.safetensors", tmp_path / "kept.safetensors"

    def keep_the_seventh(done, total, text):
        if done == 7:
            kept.write_bytes(path.read_bytes())

    settings = replace(SETTINGS, recipe="progressive_shrinking", epochs=5)
    whole = train(space, dataset, settings, path=path, checkpoint_s=0, progress=keep_the_seventh)
    seen = []
    again = train(space, dataset, settings, path=kept, progress=lambda done, total, text: seen.append((done, total)))
    assert seen == [(done, 20) for done in range(8, 21)]
    assert same(whole.average, again.average)


def test_a_finished_training_is_not_trained_further(tmp_path):
    space = space_of("tiny")
    dataset, path = bars(space), tmp_path / "train.safetensors"
    first = train(space, dataset, SETTINGS, path=path)
    again = train(space, dataset, SETTINGS, path=path, progress=interrupt)
    assert same(first.average, again.average)
    assert again.step == first.step
    assert again.history == first.history


def test_checkpoints_come_as_often_as_asked(tmp_path, monkeypatch):
    space = space_of("tiny")
    saves = []
    monkeypatch.setattr(train_module, "save_state", lambda state, *rest: saves.append(state.step))
    train(space, bars(space), replace(SETTINGS, epochs=1), path=tmp_path / "a", checkpoint_s=3600)
    assert saves == [4]
    saves.clear()
    train(space, bars(space), replace(SETTINGS, epochs=1), path=tmp_path / "a", checkpoint_s=0)
    assert saves == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2},
        {"learning_rate": 0.04},
        {"recipe": "progressive_shrinking"},
        {"augment": Augmentation(shift_px=2)},
        {"seed": 1},
        {"exits": "joint"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, change):
    space = space_of("tiny")
    path = tmp_path / "train.safetensors"
    train(space, bars(space), replace(SETTINGS, epochs=1), path=path)
    content = path.read_bytes()
    with pytest.raises(TrainError, match=r"train\.safetensors: was trained with other settings or data; resume with"):
        train(space, bars(space), replace(SETTINGS, **{"epochs": 1} | change), path=path)
    assert path.read_bytes() == content


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    space = space_of("tiny")
    path = tmp_path / "train.safetensors"
    train(space, bars(space), replace(SETTINGS, epochs=1), path=path)
    with pytest.raises(TrainError, match=r"train\.safetensors: was trained with other settings or data; resume with"):
        train(space, bars(space, seed=1), replace(SETTINGS, epochs=1), path=path)


def test_a_checkpoint_of_another_space_is_refused(tmp_path):
    space, other = space_of("tiny"), space_of("tiny", stem=16)
    path = tmp_path / "train.safetensors"
    train(space, bars(space), replace(SETTINGS, epochs=1), path=path)
    with pytest.raises(CheckpointError, match=rf"supernet of space {space.id} \(tiny\), not of {other.id}"):
        train(other, bars(other), replace(SETTINGS, epochs=1), path=path)


def test_a_supernet_file_is_no_checkpoint_of_a_training(tmp_path):
    space = space_of("tiny")
    path = tmp_path / "net.safetensors"
    save_supernet(path, Supernet(space), {})
    with pytest.raises(TrainError, match=r"net\.safetensors: was trained with other settings or data"):
        train(space, bars(space), SETTINGS, path=path)


def test_the_number_of_evaluations_may_change_between_runs(tmp_path):
    space = space_of("tiny")
    path = tmp_path / "train.safetensors"
    whole = train(space, bars(space), SETTINGS)
    with pytest.raises(Outage):
        train(space, bars(space), SETTINGS, path=path, checkpoint_s=0, progress=interrupt)
    assert same(train(space, bars(space), replace(SETTINGS, evaluations=5), path=path).average, whole.average)


def test_the_layout_is_chosen_once_and_kept(tmp_path, monkeypatch):
    space = space_of("tiny")
    path, settings = tmp_path / "train.safetensors", replace(SETTINGS, layout="auto")
    asked = []

    def choose(net, batch):
        asked.append(batch)
        return "bf16_channels_last"

    monkeypatch.setattr(layout_module, "fastest_layout", choose)
    with pytest.raises(Outage):
        train(space, bars(space), settings, path=path, checkpoint_s=0, progress=interrupt)
    assert checkpoint.read(path).notes["layout"] == "bf16_channels_last"
    # On a busy machine another layout may seem faster now; the weights would differ.
    state = train(space, bars(space), settings, path=path)
    assert state.layout == "bf16_channels_last"
    assert asked == [16]
    assert same(state.average, train(space, bars(space), replace(settings, layout="bf16_channels_last")).average)


def test_a_training_in_a_layout_that_is_not_here_goes_on_in_the_one_that_is_asked_for(tmp_path):
    space, path = space_of("tiny"), tmp_path / "train.safetensors"
    settings = replace(SETTINGS, layout="fp32")
    with pytest.raises(Outage):
        train(space, bars(space), settings, path=path, checkpoint_s=0, progress=interrupt)
    begun = checkpoint.read(path, space)
    checkpoint.write(path, replace(begun, notes={**begun.notes, "layout": "fp16_channels_last"}))
    assert train(space, bars(space), settings, path=path).layout == "fp32"
    checkpoint.write(path, replace(begun, notes={**begun.notes, "layout": "fp16_channels_last"}))
    with pytest.raises(TrainError, match=r"train\.layout fp16_channels_last needs a GPU; on this cpu set auto or fp32"):
        train(space, bars(space), replace(settings, layout="fp16_channels_last"), path=path)

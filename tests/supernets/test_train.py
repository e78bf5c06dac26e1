"""Training: it learns, it repeats, and it goes on after an interruption as if there had been none."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from search_spaces import FAMILIES, Space
from supernets import checkpoint
from supernets import train as train_module
from supernets.augment import Augmentation
from supernets.batches import Batches, batch_of, calibration_batches
from supernets.calibrate import accuracy, calibrate
from supernets.checkpoint import save_supernet
from supernets.dataset import Dataset, Images
from supernets.errors import CheckpointError, SupernetError, TrainError
from supernets.layout import LAYOUTS
from supernets.recipes import RECIPES, Phase, schedule
from supernets.supernet import Supernet
from supernets.train import TrainSettings, sub_networks, train
from tests.contracts.supernet_contract import small_space

CLASSES = 4


class Outage(Exception):
    """The machine goes down."""


def interrupt(done: int, total: int, text: str) -> None:
    raise Outage


def bars(space: Space, count: int = 64, seed: int = 0) -> Dataset:
    """Noisy images with a bright bar whose height is the class: bars may be shifted aside and mirrored."""
    channels, size = space.settings["in_channels"], space.settings["resolutions"][-1]
    rng = np.random.default_rng(seed)

    def drawn(n: int) -> Images:
        labels = np.arange(n, dtype=np.int64) % CLASSES
        pixels = rng.integers(0, 120, (n, channels, size, size)).astype(np.uint8)
        for i, label in enumerate(labels):
            pixels[i, :, label * size // CLASSES : (label + 1) * size // CLASSES] += 120
        return Images(pixels, labels)

    return Dataset.of(drawn(count), drawn(24), drawn(24), tuple("abcd"), "bars")


def space_of(family: str, **changes) -> Space:
    return small_space(family, num_classes=CLASSES, **changes)


SETTINGS = TrainSettings(
    epochs=3,
    batch=16,
    learning_rate=0.05,
    warmup=0.1,
    label_smoothing=0.0,
    ema_decay=0.9,
    augment=Augmentation(shift_px=1, mirror=True),
    layout="fp32_channels_last",
    evaluations=1,
)


def timeless(state) -> list[dict[str, float]]:
    """The history without the clock."""
    return [{field: value for field, value in row.items() if field != "seconds"} for row in state.history]


def same(a: Supernet, b: Supernet) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


def judged(state, dataset, arch) -> float:
    """On test images, with statistics of its own."""
    stats = calibrate(state.average, arch, calibration_batches(dataset, SETTINGS.augment, seed=0))
    return accuracy(state.average, arch, stats, Batches.of(dataset.test, dataset))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_falls_and_sub_networks_of_all_sizes_learn(monkeypatch, family):
    monkeypatch.setitem(RECIPES, "plain", (Phase("all", 1.0, ("largest", "random", "smallest"), teacher="none"),))
    space = space_of(family)
    dataset = bars(space, 128)
    settings = replace(SETTINGS, recipe="plain", epochs=5, batch=32, learning_rate=0.1, evaluations=5)
    state = train(space, dataset, settings)
    losses = [row["loss"] for row in state.history]
    assert losses[-1] < 0.6 * losses[0]
    assert judged(state, dataset, space.largest()) > 0.9
    assert judged(state, dataset, space.smallest()) > 2 / CLASSES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns(name):
    space = space_of("tiny")
    dataset = bars(space, 128)
    state = train(space, dataset, replace(SETTINGS, recipe=name, epochs=12, batch=32, learning_rate=0.1))
    assert judged(state, dataset, space.largest()) > 0.9


@pytest.mark.parametrize(
    ("family", "layout"),
    # Depthwise nets in channels-last fp32 add in the order that the weights lie in, also the teacher's.
    [*((family, "fp32_channels_last") for family in FAMILIES), ("tiny", "fp32"), ("tiny", "bf16_channels_last")],
)
@pytest.mark.parametrize("name", RECIPES)
def test_training_interrupted_after_every_step_ends_with_the_same_weights(tmp_path, family, name, layout):
    space = space_of(family)
    dataset = bars(space)
    settings = replace(SETTINGS, recipe=name, epochs=2, evaluations=2, layout=layout)
    whole = train(space, dataset, settings)
    path = tmp_path / "train.safetensors"
    interruptions = 0
    while True:
        try:
            pieces = train(space, dataset, settings, path=path, checkpoint_s=0, progress=interrupt)
            break
        except Outage:
            interruptions += 1
    assert interruptions == whole.step == 2 * 4
    for net in ("net", "average", "teacher"):
        a, b = getattr(whole, net), getattr(pieces, net)
        assert (a is None and b is None) or same(a, b), net
    assert (whole.teacher is None) == all(phase.teacher != "frozen" for phase in RECIPES[name])
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


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = space_of("tiny")
    train(space, bars(space), replace(SETTINGS, epochs=1), checkpoint_s=0)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_come_as_often_as_asked(tmp_path, monkeypatch):
    space = space_of("tiny")
    saves = []
    monkeypatch.setattr(train_module, "_save", lambda state, *rest: saves.append(state.step))
    train(space, bars(space), replace(SETTINGS, epochs=1), path=tmp_path / "a", checkpoint_s=3600)
    assert saves == [4]
    saves.clear()
    train(space, bars(space), replace(SETTINGS, epochs=1), path=tmp_path / "a", checkpoint_s=0)
    assert saves == [1, 2, 3, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_decides_the_result(family):
    space = space_of(family)
    dataset = bars(space)
    settings = replace(SETTINGS, epochs=1)
    first = train(space, dataset, settings)
    torch.manual_seed(12345)
    np.random.seed(12345)
    assert same(train(space, dataset, settings).average, first.average)
    assert not same(train(space, dataset, replace(settings, seed=1)).average, first.average)


def test_training_starts_from_the_weights_that_the_seed_draws():
    space = space_of("tiny")
    settings = replace(SETTINGS, epochs=1, learning_rate=1e-8, weight_decay=0.0, seed=3)
    trained = train(space, bars(space), settings).net
    for parameter, wanted in zip(trained.parameters(), Supernet(space, 3).parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted, atol=1e-6, rtol=0)


@dataclass(frozen=True)
class Recorder:
    """No augmentation, but a list of what it could have been drawn from."""

    seeds: list[int]

    def __call__(self, x_BCHW, generator):
        self.seeds.append(generator.initial_seed())
        return x_BCHW


def test_every_step_of_every_seed_augments_in_its_own_way(monkeypatch):
    monkeypatch.setattr(train_module, "validation_scores", lambda *_: {})
    monkeypatch.setattr(train_module, "_line", lambda *_: "")
    space = space_of("tiny")
    recorders = [Recorder([]) for _ in range(3)]
    for seed, recorder in zip((0, 0, 1), recorders, strict=True):
        train(space, bars(space), replace(SETTINGS, epochs=2, augment=recorder, seed=seed))
    assert recorders[0] == recorders[1]
    assert len({*recorders[0].seeds, *recorders[2].seeds}) == 16


def test_a_bf16_layout_trains_in_bf16():
    space = space_of("tiny")
    results = [
        train(space, bars(space), replace(SETTINGS, epochs=1, layout=layout)).net
        for layout in ("fp32_channels_last", "bf16_channels_last")
    ]
    assert not same(*results)
    assert all(parameter.dtype == torch.float32 for net in results for parameter in net.parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_a_frozen_teacher_is_the_average_from_before_the_first_phase_that_has_one(tmp_path, name):
    space = space_of("tiny")
    path = tmp_path / "train.safetensors"
    seen = {}

    def keep(done, total, text):
        seen[done] = checkpoint.read(path).tensors

    train(space, bars(space), replace(SETTINGS, recipe=name, epochs=5), path=path, checkpoint_s=0, progress=keep)
    teacher = {}
    for step, moment in enumerate(schedule(RECIPES[name], 20, SETTINGS.warmup)):
        if moment.phase.teacher == "frozen" and not teacher:
            teacher = {key.removeprefix("average."): t for key, t in seen[step].items() if key.startswith("average.")}
        found = {key.removeprefix("teacher."): t for key, t in seen[step + 1].items() if key.startswith("teacher.")}
        assert list(found) == list(teacher)
        assert all(torch.equal(tensor, teacher[key]) for key, tensor in found.items())


def test_the_result_is_an_average_over_time_of_the_weights():
    space = space_of("tiny")
    state = train(space, bars(space), SETTINGS)
    assert not same(state.average, state.net)
    assert all(tensor.isfinite().all() for tensor in state.average.state_dict().values())
    # A decay of zero averages over nothing.
    state = train(space, bars(space), replace(SETTINGS, ema_decay=0.0))
    assert same(state.average, state.net)


# Checkpoints


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2},
        {"learning_rate": 0.04},
        {"recipe": "progressive_shrinking"},
        {"augment": Augmentation(shift_px=2)},
        {"seed": 1},
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

    monkeypatch.setattr(train_module, "fastest_layout", choose)
    with pytest.raises(Outage):
        train(space, bars(space), settings, path=path, checkpoint_s=0, progress=interrupt)
    assert checkpoint.read(path).notes["layout"] == "bf16_channels_last"
    # On a busy machine another layout may seem faster now; the weights would differ.
    state = train(space, bars(space), settings, path=path)
    assert state.layout == "bf16_channels_last"
    assert asked == [16]
    assert same(state.average, train(space, bars(space), replace(settings, layout="bf16_channels_last")).average)


def test_the_layout_that_is_found_is_a_known_one():
    space = space_of("tiny")
    assert train(space, bars(space), replace(SETTINGS, layout="auto", epochs=1)).layout in LAYOUTS


# Failures


def test_a_loss_that_is_no_number_stops_with_step_and_arch_and_keeps_the_last_checkpoint(tmp_path):
    space = space_of("tiny")
    # Weight decay alone multiplies the weights by -99 at each step.
    settings = replace(SETTINGS, learning_rate=100.0, weight_decay=1.0, warmup=0.0, epochs=25)
    path = tmp_path / "train.safetensors"
    with pytest.raises(TrainError) as caught:
        train(space, bars(space), settings, path=path, checkpoint_s=0)
    found = re.fullmatch(
        r"the loss is (nan|inf) at step (\d+) in sub-network ([0-9a-f]{12}); lower train\.learning_rate",
        str(caught.value),
    )
    assert found, str(caught.value)
    step = int(found[2])
    moment = schedule(RECIPES[settings.recipe], 25 * 4, settings.warmup)[step]
    archs = sub_networks(space, moment.phase, np.random.default_rng((settings.seed, 3, step)))
    assert found[3] in {arch.id for arch in archs}
    assert checkpoint.read(path, space).notes["step"] == step > 0


def test_a_weight_that_is_no_number_is_noticed_at_the_next_step(tmp_path, monkeypatch):
    space = space_of("tiny")
    path = tmp_path / "train.safetensors"

    def poison(state, decay):
        if state.step == 2:
            with torch.no_grad():
                state.net.get_submodule("head.classifier").bias.fill_(float("nan"))

    monkeypatch.setattr(train_module, "_update_average", poison)
    with pytest.raises(TrainError, match="the loss is nan at step 3 in sub-network"):
        train(space, bars(space), SETTINGS, path=path, checkpoint_s=3600)
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "sandwhich"}, "unknown recipe 'sandwhich'; known are sandwich, progressive_shrinking"),
        ({"layout": "fp64"}, "unknown layout 'fp64'; known are auto, fp32, fp32_channels_last, bf16_channels_last"),
        ({"epochs": 0}, "train.epochs must be from 1 to 100000, not 0"),
        ({"batch": 1}, "train.batch must be from 2 to 65536, not 1"),
        ({"learning_rate": float("nan")}, "train.learning_rate must be from 1e-08 to 100.0, not nan"),
        ({"momentum": 1.0}, "train.momentum must be from 0.0 to 0.9999, not 1.0"),
        ({"warmup": -0.1}, "train.warmup must be from 0.0 to 0.9, not -0.1"),
        ({"evaluations": 0}, "train.evaluations must be from 1 to 1000, not 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(SupernetError, match=re.escape(message)):
        replace(SETTINGS, **change)


# History and progress


def test_history_has_a_row_an_evaluation_with_all_its_fields():
    space = space_of("tiny")
    state = train(space, bars(space), replace(SETTINGS, epochs=5, evaluations=4))
    assert [row["step"] for row in state.history] == [5, 10, 15, 20]
    assert [row["epoch"] for row in state.history] == [1.25, 2.5, 3.75, 5.0]
    rates = [moment.learning_rate for moment in schedule(RECIPES[SETTINGS.recipe], 20, SETTINGS.warmup)]
    for row in state.history:
        assert list(row) == [
            "step",
            "epoch",
            "seconds",
            "loss",
            "learning_rate",
            "largest_val_accuracy",
            "smallest_val_accuracy",
        ]
        assert row["learning_rate"] == rates[int(row["step"]) - 1]
        assert 0 <= row["smallest_val_accuracy"] <= 1
        assert 0 <= row["largest_val_accuracy"] <= 1
        assert row["loss"] > 0
    assert state.seconds > 0


def test_more_evaluations_than_steps_evaluate_at_every_step():
    space = space_of("tiny")
    state = train(space, bars(space), replace(SETTINGS, epochs=1, evaluations=50))
    assert [row["step"] for row in state.history] == [1, 2, 3, 4]


def test_the_loss_of_a_row_is_smoothed_over_the_steps(monkeypatch):
    losses = iter([4.0, 2.0, 2.0, 7.0])
    monkeypatch.setattr(train_module, "_step", lambda *_: next(losses))
    space = space_of("tiny")
    state = train(space, bars(space), replace(SETTINGS, epochs=1, evaluations=4))
    assert [row["loss"] for row in state.history] == pytest.approx([4.0, 3.8, 3.62, 3.958])


def test_progress_counts_the_steps_and_says_how_it_goes():
    space = space_of("tiny")
    seen = []
    train(space, bars(space), replace(SETTINGS, epochs=1, evaluations=1), progress=lambda *now: seen.append(now))
    assert [(done, total) for done, total, _ in seen] == [(i, 4) for i in range(1, 5)]
    assert re.fullmatch(r"loss \d+\.\d\d", seen[0][2])
    assert re.fullmatch(r"loss \d+\.\d\d, validation \d+\.\d% largest, \d+\.\d% smallest", seen[-1][2])


# Batches


def test_every_epoch_takes_every_image_once_in_an_order_of_its_own():
    images = Images(
        np.arange(24, dtype=np.uint8).reshape(24, 1, 1, 1).repeat(4, 2).repeat(4, 3), np.arange(24, dtype=np.int64)
    )
    epochs = []
    for epoch in range(3):
        batches = [batch_of(images, 6, step, seed=5) for step in range(4 * epoch, 4 * epoch + 4)]
        for pixels, labels in batches:
            assert pixels.dtype == torch.uint8
            assert pixels[:, 0, 0, 0].tolist() == labels.tolist()
        epochs.append([sorted(labels.tolist()) for _, labels in batches])
        assert sorted(label for labels in epochs[-1] for label in labels) == list(range(24))
    assert epochs[0] != epochs[1] != epochs[2]
    assert batch_of(images, 6, 0, seed=5)[1].tolist() != batch_of(images, 6, 0, seed=6)[1].tolist()


def test_fewer_images_than_a_batch_are_trained_all_at_once():
    space = space_of("tiny")
    assert train(space, bars(space, count=8), replace(SETTINGS, epochs=2)).step == 2


def test_calibration_batches_are_augmented_training_images_and_always_the_same():
    dataset = bars(space_of("tiny"))
    first, again = (calibration_batches(dataset, SETTINGS.augment, seed=3) for _ in range(2))
    assert len(first) == 4
    assert all(map(torch.equal, first, again))
    other = calibration_batches(dataset, SETTINGS.augment, seed=4)
    assert not torch.equal(first[0], other[0])
    clean = calibration_batches(dataset, Augmentation(0, False), seed=3)
    assert not torch.equal(first[0], clean[0])
    # Over the images of an epoch, normalised pixels have mean 0 and deviation 1.
    assert abs(float(clean[0].mean())) < 1e-3
    assert abs(float(clean[0].std()) - 1) < 1e-3


def test_evaluation_batches_are_all_images_in_order():
    dataset = bars(space_of("tiny"), count=600)
    batches = Batches.of(dataset.train, dataset)
    assert [len(labels) for _, labels in batches] == [256, 256, 88]
    assert torch.cat([labels for _, labels in batches]).tolist() == dataset.train.labels.tolist()
    scaled = torch.from_numpy(dataset.train.pixels).double() / 255
    wanted = (scaled - dataset.mean[0]) / dataset.std[0]
    torch.testing.assert_close(torch.cat([x for x, _ in batches]).double(), wanted, atol=1e-5, rtol=1e-5)
    # They can be gone through again and again.
    assert len(batches) == len(list(batches)) == 3
    assert [len(labels) for _, labels in Batches.of(dataset.train, dataset, limit=300)] == [256, 44]

"""What a user may write for a space, a device, a time, a share and a shape."""

import json

import pytest

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from nas.errors import JobError
from nas.words import device_of, seconds_of, shape_of, share_of, space_of
from search_spaces import FAMILY_NAMES, SpaceError, define_space


def test_a_space_is_named_by_its_family_with_settings():
    assert space_of("tiny") == define_space("tiny")
    assert space_of("ofa_resnet50", ["resolutions=[96]"]) == define_space("resnet50", resolutions=[96])
    assert space_of("tiny", ["resolutions=[8]", "stem=16"]) == define_space("tiny", resolutions=[8], stem=16)


def test_a_space_is_read_from_its_own_file_and_from_a_job(tmp_path):
    space = define_space("tiny", resolutions=[8, 16], num_classes=3)
    (tmp_path / "space.json").write_text(json.dumps(space.to_json()))
    assert space_of(str(tmp_path / "space.json")) == space
    (tmp_path / "job.yaml").write_text("name: x\nspace: {family: tiny, resolutions: [8, 16]}\n")
    assert space_of(str(tmp_path / "job.yaml"), ["num_classes=3"]) == space


@pytest.mark.parametrize(
    ("word", "settings", "said"),
    [
        ("tinny", [], f"tinny is neither a family ({FAMILY_NAMES}) nor a file"),
        ("tiny", ["resolutions"], "--set 'resolutions' is not of the form key=value"),
        ("tiny", ["resolutions=[8"], "is not of the form key=value"),
        ("{list}", [], "wanted a mapping, found list"),
        ("{broken}", [], "not valid JSON or YAML"),
        ("{nothing}", [], "has no space.family"),
        ("{space}", ["stem=8"], "is a finished space, which takes no --set"),
    ],
)
def test_a_space_that_cannot_be_read_is_one_clear_line(tmp_path, word, settings, said):
    files = {"list": "[1]", "broken": "a: [", "nothing": "a: 1", "space": json.dumps(define_space("tiny").to_json())}
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    given = word.format(**{name: tmp_path / f"{name}.yaml" for name in files})
    with pytest.raises(JobError) as caught:
        space_of(given, settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_setting_that_the_family_does_not_have_is_refused():
    with pytest.raises(SpaceError, match="depthz"):
        space_of("tiny", ["depthz=[1]"])


def test_a_device_is_named_by_its_settings():
    assert device_of("cpu_t2") == Device("cpu_t2", threads=2)
    assert device_of("cpu_t1_b8") == Device("cpu_t1_b8", batch=8)
    assert device_of("cuda_t1_fp32_b4").provider == "CUDAExecutionProvider"


def test_a_device_is_read_from_a_file_and_named_after_it(tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text("threads: 4\nbatch: 2\n")
    assert device_of(str(path)) == Device("board", threads=4, batch=2)
    path.write_text("name: other\nthreads: 4\n")
    assert device_of(str(path)) == Device("other", threads=4)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("cpu", "cpu is neither a device such as cpu_t1"),
        ("cpu_t0", "threads must be a whole number from 1"),
        ("abacus_t1", "onnxruntime knows no provider 'abacus'; it knows"),
        ("cpu_t1_int3", "precision must be one of"),
    ],
)
def test_a_device_that_cannot_be_is_one_clear_line(word, said):
    with pytest.raises((JobError, LatencyError)) as caught:
        device_of(word)
    assert said in str(caught.value)


def test_times_shares_and_shapes_are_read():
    assert [seconds_of(word) for word in ("90", "90s", "2m", "1.5h")] == [90.0, 90.0, 120.0, 5400.0]
    assert [share_of(word) for word in ("5%", "0.05", "12.5 %")] == [0.05, 0.05, 0.125]
    assert shape_of("input=1,3,224,224") == ("input", (1, 3, 224, 224))
    assert shape_of("batch=8") == ("batch", (8,))


@pytest.mark.parametrize(
    ("read", "word"),
    [
        *((seconds_of, word) for word in ("", "0", "-1s", "2 min", "1d", "nan")),
        *((share_of, word) for word in ("", "5", "100%", "0", "-5%", "1.0", "x%")),
        *((shape_of, word) for word in ("", "input", "input=", "=1", "input=1,0", "input=1,x", "input=-1", "a=1,,2")),
    ],
)
def test_what_is_no_time_share_or_shape_is_refused(read, word):
    with pytest.raises(JobError, match="is not a"):
        read(word)

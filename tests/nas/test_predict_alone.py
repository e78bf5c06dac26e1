"""`predict.py` of an export needs three packages, and nothing of ours."""

import json
from pathlib import Path

import pytest
from PIL import Image

from nas.folder import RunFolder
from supernets.dataset import load
from tests.nas.agent.test_install import environment, ran

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of a virtual environment with what the script names, and no more."""
    return environment(tmp_path_factory.mktemp("clean"), "onnxruntime", "numpy", "pillow") / "bin/python"


def test_the_script_of_an_export_runs_where_nothing_of_ours_is(finished, python, tmp_path):
    assert ran(python, "-c", "import nas", folder=tmp_path).returncode == 1
    folder = RunFolder.open(finished)
    test = load(folder.job.source, cache=folder.cache).test
    Image.fromarray(test.pixels[0][0]).resize((31, 40)).save(tmp_path / "digit.png")
    found = ran(python, finished / "models/one-knee/predict.py", "digit.png", folder=tmp_path)
    assert found.returncode == 0, found.stderr
    classes = json.loads((finished / "models/one-knee/numbers.json").read_text())["data"]["classes"]
    assert found.stdout.startswith("digit.png: ")
    assert found.stdout.split()[1] in classes
    assert found.stdout.endswith("%\n")

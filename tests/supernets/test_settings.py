"""Settings of training are plain data."""

import subprocess
import sys


def test_settings_and_recipes_are_read_without_torch():
    code = "import sys, supernets.settings, supernets.recipes; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"

"""What a result says of its machine, for people and as JSON."""

import json
import platform
from dataclasses import asdict

from alexstream.core import machine
from alexstream.core.limits import count_cores
from alexstream.core.machine import Machine


def test_a_machine_is_told_in_one_line_and_as_json():
    here = Machine.here()
    told = json.loads(json.dumps(asdict(here)))
    assert told["cores"] == count_cores() and told["packages"]["numpy"] and told["python"] in here.to_text()
    assert here.to_text().startswith(("Commit ", "Alexstream ")) and "\n" not in here.to_text()


def test_code_outside_a_checkout_of_its_own_is_told_by_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert Machine.here().code.startswith("alexstream ")


def test_what_is_not_installed_or_not_there_is_left_out(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setenv("PATH", "")
    here = Machine.here()
    assert list(here.packages) == ["numpy"] and here.gpus == () and "GPU: none" in here.to_text()
    assert f"Python {platform.python_version()}" in here.to_text()

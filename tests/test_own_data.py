"""The recorded session of docs/own-data.md happens again: photographs, shards, a report, a timm network fine-tuned.

After a change that is meant to show: ``ALEXSTREAM_RECORD=1 pytest tests/test_own_data.py`` records it anew.
"""

import os
import re
import runpy
import shlex
import shutil
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from alexstream.sharding.sample_set import write_sample_set
from tests import test_quickstart as transcripts
from tests.support import ROOT

PAGE = ROOT / "docs" / "own-data.md"
SCRIPT = ROOT / "docs" / "examples" / "finetune_timm.py"


@pytest.fixture(scope="module")
def timm():
    """timm, which needs torchvision's operators to be declared where its build does not fit torch's; none is used."""
    if find_spec("timm") is None:
        pytest.skip("timm is not installed (extra: dev)")
    operators = torch.library.Library("torchvision", "FRAGMENT")
    try:
        import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module("timm"), operators  # the names last as long as ``operators``


def answer(command, capsys, monkeypatch):
    """What a command says on stdout; the example runs in this process, which has loaded torch already."""
    if not command.startswith("python "):
        return transcripts.answer(command)
    _, script, *words = shlex.split(command)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [script, *words])
        runpy.run_path(script, run_name="__main__")
    return capsys.readouterr().out


def test_from_photographs_to_a_network_of_ones_own(timm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_sample_set(tmp_path / "drawn", train_per_class=20, val_per_class=1, quiet=True)
    shutil.move(tmp_path / "drawn" / "train", tmp_path / "photos")
    shutil.copy(SCRIPT, tmp_path)
    text = PAGE.read_text()
    recorded = list(transcripts.session(text))
    happened = [(command, answer(command, capsys, monkeypatch)) for command, _ in recorded]
    assert torch.load("finetuned.pt", weights_only=True)["loader"]["step"] == 3 * (147 // 16)
    if os.environ.get("ALEXSTREAM_RECORD"):
        answers = iter(happened)
        page = transcripts.BLOCK.sub(lambda block: transcripts.written(block[1].count("\n$ ") + 1, answers), text)
        PAGE.write_text(page)
        return
    classes = sorted(path.name for path in (tmp_path / "photos").iterdir() if path.is_dir())
    for (command, then), (_, now) in zip(recorded, happened, strict=True):
        assert transcripts.form(command, then, classes) == transcripts.form(command, now, classes), command


def test_an_interrupted_fine_tuning_has_the_batches_of_an_undisturbed_one(timm, tmp_path, monkeypatch, capsys):
    """Two epochs and one more, of which the page speaks, end in the parameters of three."""
    monkeypatch.chdir(tmp_path)
    write_sample_set(tmp_path / "photos", train_per_class=4, val_per_class=1, quiet=True)
    transcripts.answer("alexstream shard --src photos --out shards --encode keep")
    shutil.copy(SCRIPT, tmp_path)
    for run, epochs in (("whole", (2,)), ("halves", (1, 2))):
        for count in epochs:
            words = f"--model test_resnet --epochs {count} --checkpoint {run}.pt"
            answer(f"python finetune_timm.py shards {words}", capsys, monkeypatch)
    whole, halves = (torch.load(f"{run}.pt", weights_only=True)["model"] for run in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_the_page_names_the_example_and_asks_for_no_download():
    text = PAGE.read_text()
    assert "(examples/finetune_timm.py)" in text
    assert not any("--pretrained" in command for command, _ in transcripts.session(text))
    assert re.search(r"^\$ python finetune_timm.py .*--picture", text, re.MULTILINE)

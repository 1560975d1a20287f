"""Which sections a report has, and the file it becomes: called by ``cli.py report``."""

from __future__ import annotations

from pathlib import Path

from report import augmentation, dataset, network, reproduce, training
from report.blocks import Note, Section
from report.page import render
from report.subject import Request, Run, Subject, opened
from sharding.errors import OutputError
from sharding.layout import is_dataset
from sharding.storage import publish
from trainer.metrics import METRICS, Metrics

NAME = "report.html"


def write(request: Request, out: Path | None) -> tuple[Path, int]:
    """Write the report; its place and size in bytes. The file appears whole or not at all.

    Raises OutputError if it cannot be written, and as ``subject.opened`` and the sections do.
    """
    subject, path = opened(request), out or default_place(request.folder)
    check_place(path)
    content = render(subject.title, sections(subject)).encode()
    publish(path, content)
    return path, len(content)


def default_place(folder: Path) -> Path:
    """``report.html`` in the folder; beside a split, in which ``verify`` would name it; here, if it is in a store."""
    if not isinstance(folder, Path):
        return Path(NAME)
    return folder.with_name(f"{folder.resolve().name}-{NAME}") if is_dataset(folder) else folder / NAME


def check_place(path: Path) -> None:
    """Raise OutputError unless a file can be there: asked before the work that it would show.

    A split is refused: it holds what its manifest says, and nothing else.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir():
        raise OutputError(f"--out: received {str(path)!r}, expected a file in a folder that exists")
    if is_dataset(folder):
        raise OutputError(f"--out: {folder} is a split, in which verify would name {path.name}; give another folder")


def sections(subject: Subject) -> list[Section]:
    """All sections of a report, in their order."""
    made = []
    if subject.run is not None:
        made += _of_run(subject.run, subject)
    if subject.splits:
        made.append(dataset.section(subject.splits, subject.request.source))
    elif subject.missing:
        note = Note(text=f"Not shown: {subject.missing}.", strong=True)
        made.append(Section(name="data", title="The data set", intro="", blocks=[note]))
    if subject.stream is not None:
        made.append(augmentation.section(subject.stream, subject.splits[0]))
    return [*made, reproduce.section(subject)]


def _of_run(run: Run, subject: Subject) -> list[Section]:
    made = []
    if (run.folder / METRICS).is_file():
        made.append(training.section(run, Metrics.read(run.folder)))
    if run.network is not None:
        made.append(network.section(run.network, subject.stream, subject.missing, subject.request))
    return made

"""Choose the sections of a report and write its file. Called by ``cli.py report``."""

from __future__ import annotations

from pathlib import Path

from alexstream.core.errors import OutputError
from alexstream.core.extras import require_extra
from alexstream.core.storage import check_target, publish_file
from alexstream.report import augmentation, dataset, network, reproduce, training
from alexstream.report.blocks import Note, Section
from alexstream.report.page import render
from alexstream.report.subject import ReportRequest, Run, Subject, open_subject
from alexstream.sharding.dataset_v1.layout import is_dataset
from alexstream.trainer.checkpoint import describe_write_error
from alexstream.trainer.metrics import METRICS_FILE, Metrics

REPORT_NAME = "report.html"


def write_report(request: ReportRequest, out: Path | None) -> tuple[Path, int]:
    """Write the report, atomically; return its path and size in bytes.

    Raises AlexstreamError without the extra ``report``, OutputError if it cannot be written, and as ``open_subject``
    and the sections do.
    """
    require_extra("report", "reports")
    subject, path = open_subject(request), out or default_path(request.folder)
    check_output_path(path)
    content = render(subject.title, build_sections(subject)).encode()
    try:
        publish_file(path, content)
    except OutputError as error:
        why = describe_write_error(error)
        raise OutputError(f"cannot write {path}: {why}; make room, or name another file as `out`") from error
    return path, len(content)


def default_path(folder: Path) -> Path:
    """Return where a report is written by default: ``report.html`` in the folder.

    For a split, beside it, since ``verify`` would report the file within it as unknown; for a folder in an object
    store, in the working directory.
    """
    if not isinstance(folder, Path):
        return Path(REPORT_NAME)
    return folder.with_name(f"{folder.resolve().name}-{REPORT_NAME}") if is_dataset(folder) else folder / REPORT_NAME


def check_output_path(path: Path) -> None:
    """Raise OutputError unless a report can be written to ``path``; called before the report is computed.

    A path within a split is refused, since a split holds only the files of its manifest.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir():
        raise OutputError(f"`out`: received {str(path)!r}, expected a file in a folder that exists")
    if is_dataset(folder):
        raise OutputError(f"`out`: {folder} is a split, in which verify would report {path.name}; give another folder")
    check_target(path)


def build_sections(subject: Subject) -> list[Section]:
    """Build all sections of a report, in their order."""
    made = []
    if subject.run is not None:
        made += _build_run_sections(subject.run, subject)
    if subject.splits:
        made.append(dataset.build_section(subject.splits, subject.request.source))
    elif subject.missing:
        note = Note(text=f"Not shown: {subject.missing}.", strong=True)
        made.append(Section(name="data", title="The data set", intro="", blocks=[note]))
    if subject.stream is not None:
        made.append(augmentation.build_section(subject.stream, subject.splits[0]))
    return [*made, reproduce.build_section(subject)]


def _build_run_sections(run: Run, subject: Subject) -> list[Section]:
    made = []
    if (run.folder / METRICS_FILE).is_file():
        made.append(training.build_section(run, Metrics.read(run.folder)))
    if run.network is not None:
        made.append(network.build_section(run.network, subject.stream, subject.missing, subject.request))
    return made

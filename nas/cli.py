"""The `nas` command. Everything heavy is imported inside the commands, so that `nas --help` answers at once.

Exit codes: 0 done, 1 something broke, 2 the input was wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from nas.folder import RunFolder
    from nas.job import Job

UNWRITABLE = (ENOSPC, EDQUOT, EFBIG, EROFS, EACCES, EPERM)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hardware-aware neural architecture search: train one supernet, measure every device, search, export ONNX.",
)

JobFile = Annotated[Path | None, typer.Argument(metavar="JOB.yaml", help="The job file; see examples/.")]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder, as `nas train` left it.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the new run [default: runs/NAME].", show_default=False)]
Jobs = Annotated[
    int, typer.Option(min=1, show_default="all cores", help="Evaluators side by side, on Ray; 1 works without Ray.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, and count them.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job, as train.epochs=2; may be repeated."),
]
Again = Annotated[bool, typer.Option("--again", help="Run the stage again, and forget the ones after it.")]


@app.command(epilog="Example: nas run examples/digits.yaml --out runs/digits")
def run(
    job: JobFile = None,
    demo: Annotated[bool, typer.Option("--demo", help="Run the built-in job on scikit-learn's digits.")] = False,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with an interrupted run.")] = None,
    out: Out = None,
    jobs: Jobs = CORES,
    overrides: Set = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Train, profile, search and export: a whole job."""
    if (job is not None) + demo + (resume is not None) != 1:
        _fail("give one of: a job file, --demo, or --resume DIR")
    if resume and (out or overrides or skip_bad):
        _fail("--resume goes on with the job as it was begun, so it takes no --out, --set or --skip-bad")
    with reported():
        from nas import pipeline

        context = _resumed(resume, jobs) if resume else _started(job, demo, out, jobs, overrides or [], skip_bad)
        with _at_work(context.folder, new=resume is None):
            summary = pipeline.run(context)
        if as_json:
            print(json.dumps(summary))
        else:
            _print_tables(summary, context.folder)


@app.command(epilog="Example: nas train examples/digits.yaml --out runs/digits")
def train(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file; see examples/.")],
    out: Out = None,
    overrides: Set = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Start a run: read the images and train the supernet."""
    with reported():
        context = _started(job, False, out, 1, overrides or [], skip_bad)
        _stage(context, "train", False, as_json, new=True)


@app.command(epilog="Example: nas profile runs/digits")
def profile(folder: RunArgument, again: Again = False, as_json: AsJson = False) -> None:
    """Measure networks of the space on each device with ONNX Runtime, and fit its latency predictor."""
    with reported():
        _stage(_resumed(folder, 1), "profile", again, as_json)


@app.command(epilog="Example: nas search runs/digits --jobs 2")
def search(folder: RunArgument, jobs: Jobs = CORES, again: Again = False, as_json: AsJson = False) -> None:
    """Look for the architectures that are Pareto-optimal on each device."""
    with reported():
        _stage(_resumed(folder, jobs), "search", again, as_json)


@app.command(epilog="Example: nas export runs/digits")
def export(folder: RunArgument, again: Again = False, as_json: AsJson = False) -> None:
    """Export the picks of each front to ONNX, check and re-measure them, and write the summary and the report."""
    with reported():
        context = _resumed(folder, 1)
        _stage(context, "export", again, as_json)
        if not as_json:
            _print_tables(context.folder.read_json(context.folder.summary.name), context.folder)


@contextmanager
def reported() -> Iterator[None]:
    """Turn wrong input into one line on standard error and exit code 2."""
    try:
        from latency_tables.errors import LatencyError
        from nas.errors import JobError
        from search_spaces import SpaceError
        from supernets.errors import SupernetError
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed; install with: pip install 'hwnas[search]'")
    try:
        yield
    except (JobError, SpaceError, SupernetError, LatencyError) as error:
        _fail(" ".join(str(error).split()))
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed; install with: pip install 'hwnas[search]'")
    except OSError as error:
        # NumPy reports a full disk without an errno, as "8192 requested and 100 written".
        if error.errno not in UNWRITABLE and "requested and" not in str(error):
            raise
        _fail(f"{error.filename or 'the folder of the run'} cannot be written: {error.strerror or error}")


def main() -> None:
    """Entry point of the `nas` script."""
    app()


def _fail(message: str, code: int = 2) -> NoReturn:
    print(f"nas: {message}", file=sys.stderr)
    raise typer.Exit(code)


def _started(path: Path | None, demo: bool, out: Path | None, jobs: int, overrides: list[str], skip_bad: bool) -> Any:
    """A new run of a job file or of the demo, which replaces the demo before it."""
    from nas import pipeline
    from nas.folder import RunFolder
    from nas.job import read_job
    from nas.progress import display

    file = Path(__file__).with_name("demo.yaml") if demo or path is None else path
    job = read_job(file, [*overrides, *(["data.skip_bad=true"] if skip_bad else [])])
    root = out or Path("runs") / job.name
    if demo and out is None and _is_run_of(root, job):
        shutil.rmtree(root)
    return pipeline.Run(RunFolder.create(root, job), job, jobs, display())


def _is_run_of(root: Path, job: Job) -> bool:
    try:
        return bool(json.loads((root / "job.json").read_text())["job"]["name"] == job.name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _resumed(root: Path, jobs: int) -> Any:
    from nas import pipeline
    from nas.folder import RunFolder
    from nas.progress import display

    folder = RunFolder.open(root)
    return pipeline.Run(folder, folder.job, jobs, display())


@contextmanager
def _at_work(folder: RunFolder, new: bool) -> Iterator[None]:
    """Say how to go on after Ctrl-C, and remove the folder of a new run that failed before it had anything to keep."""
    try:
        yield
    except KeyboardInterrupt:
        _fail(f"interrupted; go on with `nas run --resume {folder.root}`", 130)
    except Exception:
        if new:
            folder.discard_if_barren()
        raise


def _stage(context: Any, name: str, again: bool, as_json: bool, new: bool = False) -> None:
    from nas import pipeline

    if again:
        context.folder.reopen(name)
    with _at_work(context.folder, new):
        pipeline.run_stage(context, name)
    if as_json:
        print(json.dumps(context.folder.result(name)))


def _print_tables(summary: dict[str, Any], folder: RunFolder) -> None:
    """One table a device, and where the rest is."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 140)
    for device in summary["devices"]:
        quality = device["predictor"]
        title = (
            f"{device['name']}: {len(device['front'])} networks on the front; predictor error {100 * quality['mape']:.1f}% "
            f"on {quality['n_test']} held-out networks"
        )
        table = Table(title=title, title_justify="left")
        for name in ("pick", "val %", "test %", "predicted ms", "measured ms", "MACs", "params", "file"):
            table.add_column(name, justify="left" if name in ("pick", "file") else "right", no_wrap=True)
        rows = {row["arch_id"]: row for row in device["front"]}
        for made in device["exports"]:
            row = rows[made["arch_id"]]
            table.add_row(
                made["pick"],
                f"{100 * row['val_accuracy']:.1f}",
                f"{100 * row['test_accuracy']:.1f}",
                f"{row['latency_ms_predicted']:.3f}",
                f"{row['latency_ms_measured']:.3f}",
                f"{row['macs'] / 1e6:.2f} M",
                f"{row['params'] / 1e3:.1f} k",
                made["file"],
            )
        console.print(table)
    supernet, total = summary["supernet"], sum(summary["stages"].values())
    console.print(
        f"supernet on test images: {100 * supernet['largest_test_accuracy']:.1f}% largest, "
        f"{100 * supernet['smallest_test_accuracy']:.1f}% smallest; {summary['search']['unique']} networks evaluated; "
        f"{total:.0f} s in all",
        highlight=False,
    )
    console.print(f"report: {folder.report}", highlight=False)

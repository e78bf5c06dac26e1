"""The `nas` command. Everything heavy is imported inside the commands, so that `nas --help` answers at once.

Exit codes: 0 done, 1 something broke, 2 the input was wrong.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas import agent_cli, service_cli
from nas.console import AsJson, fail, reported
from nas.device_cli import Asked, devices, measure_onnx, profile_space
from nas.jobs_cli import jobs as service_jobs
from nas.supernets_cli import supernets

if TYPE_CHECKING:
    from nas.folder import RunFolder
    from nas.job import Job
    from nas.pipeline import Run

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hardware-aware neural architecture search: train one supernet, measure every device, search, export ONNX.",
)

app.add_typer(devices, name="devices")
app.add_typer(service_jobs, name="jobs")
app.add_typer(service_cli.users, name="users")
app.add_typer(service_cli.tokens, name="tokens")
app.add_typer(supernets, name="supernets")

JobFile = Annotated[Path | None, typer.Argument(metavar="JOB.yaml", help="The job file; see examples/.")]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder, as `nas train` left it.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the new run [default: runs/NAME].", show_default=False)]
Jobs = Annotated[
    int, typer.Option(min=1, show_default="all cores", help="Evaluators side by side, on Ray; 1 works without Ray.")
]
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
        fail("give one of: a job file, --demo, or --resume DIR")
    if resume and (out or overrides or skip_bad):
        fail("--resume goes on with the job as it was begun, so it takes no --out, --set or --skip-bad")
    with reported():
        from nas import pipeline

        context = _resumed(resume, jobs) if resume else _started(job, demo, out, jobs, overrides or [], skip_bad)
        with _at_work(context.folder, new=resume is None):
            summary = pipeline.run(context)
        if as_json:
            print(json.dumps(summary))
        else:
            from nas.terminal import print_result

            print_result(summary, context.folder)


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


@app.command(
    epilog="Example: nas profile runs/digits\n\nExample: nas profile --space mobilenet_v3 --device cpu_t1\n\n"
    "Example: nas profile --onnx model.onnx --shape input=1,3,224,224"
)
def profile(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="The run's folder, as `nas train` left it.", show_default=False),
    ] = None,
    again: Again = False,
    space: Annotated[
        str | None, typer.Option(help="Profile this space instead: a family, a space.json or a job file.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(metavar="FILE", help="Measure this ONNX file instead.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="As cpu_t1 or cpu_t2_int8_b8 (see `nas devices list`), or a file with its keys [default: cpu_t1].",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the family, as resolutions=[32,64]; for a run, as profile.networks=80.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the table, which is gone on with where it is there [default: profiles].", show_default=False
        ),
    ] = None,
    networks: Annotated[
        int | None, typer.Option(min=1, help="Networks to measure at most [default: 100].", show_default=False)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Time to measure at most, as 90s, 2m or 1h [default: 10m].", show_default=False
        ),
    ] = None,
    target_error: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Stop once the predictor is no further off, as 5%.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Half the 95% interval of a median at which it is settled [default: 2%].",
            show_default=False,
        ),
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="TABLE", help="Carry over from this table of another device; two or more."),
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NAME=N,...",
            help="Shape of an input, or value of a named dimension, that the file leaves open.",
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--image", metavar="FILE", help="Time decode, resize, normalise and inference of these images, too."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a device with ONNX Runtime: for a run, for a space, or one ONNX file."""
    if (folder is not None) + (space is not None) + (onnx is not None) != 1:
        fail("give one of: the folder of a run, --space, or --onnx")
    alone = {"--device": device, "--budget": budget, "--precision": precision}
    of_space = {
        "--out": out,
        "--networks": networks,
        "--target-error": target_error,
        "--from": known,
    }
    of_file = {"--shape": shapes, "--image": images}
    with reported():
        if folder is not None:
            _refuse("a run", {**alone, **of_space, **of_file})
            _stage(_resumed(folder, 1), "profile", again, as_json, overrides=overrides)
            return
        _refuse(
            "--space" if space else "--onnx",
            {"--again": again or None, **(of_file if space else {**of_space, "--set": overrides})},
        )
        asked = Asked(device or "cpu_t1", networks or 100, budget or "10m", target_error, precision or "2%")
        if space is not None:
            profile_space(space, overrides or [], out or Path("profiles"), known or [], asked, as_json)
        elif onnx is not None:
            measure_onnx(onnx, shapes or [], images or [], asked, as_json)


@app.command(epilog="Example: nas search runs/digits --jobs 2\n\nExample: nas search runs/digits --extend 100")
def search(
    folder: RunArgument,
    jobs: Jobs = CORES,
    again: Again = False,
    extend: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Go on with a search for N more evaluations.", show_default=False),
    ] = None,
    overrides: Set = None,
    as_json: AsJson = False,
) -> None:
    """Look for the architectures that are Pareto-optimal on each device."""
    if extend is not None and (again or overrides):
        fail("--extend goes on with the search as it was begun, so it takes no --again or --set")
    with reported():
        context = _resumed(folder, jobs)
        if extend is not None:
            more = [f"search.evaluations={context.job.search.evaluations + extend}"]
            _stage(context, "search", True, as_json, overrides=more)
        else:
            _stage(replace(context, anew=again), "search", again, as_json, overrides=overrides)


@app.command(epilog="Example: nas studies runs/digits --storage sqlite:///runs/optuna.db")
def studies(
    folder: RunArgument,
    storage: Annotated[str, typer.Option(metavar="URL", help="An Optuna storage, as sqlite:///optuna.db.")],
    as_json: AsJson = False,
) -> None:
    """Write a run's search as Optuna studies, one a device, for Optuna's plots and for optuna-dashboard."""
    with reported():
        from nas.folder import RunFolder
        from nas.optuna_studies import write_studies

        names = write_studies(RunFolder.open(folder), storage)
    print(json.dumps(names) if as_json else "\n".join(f"{storage}: {name}" for name in names))


@app.command(
    epilog="Example: nas export runs/digits\n\nExample: nas export runs/digits --pick latency_ms<=0.02 --out deployed"
)
def export(
    folder: RunArgument,
    picks: Annotated[
        list[str] | None,
        typer.Option(
            "--pick",
            metavar="PICK",
            help="fastest, knee, most-accurate, a limit as 'latency_ms <= 3', or an arch_id; in place of the job's; may be "
            "repeated.",
        ),
    ] = None,
    pair: Annotated[
        bool,
        typer.Option(
            "--pair", help="A fast and an accurate network as well: the second is asked where the first is not sure."
        ),
    ] = False,
    exits: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="The space's early exits as well: in a graph that puts out what each says (outputs), or that goes on only "
            "where one is not sure (if).",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--finetune",
            min=1,
            metavar="EPOCHS",
            help="Train each network alone before it goes out.",
            show_default=False,
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="FILE",
            help="image: takes images of 8 bits and any size, fp16: in half precision, ort: in ORT format; may be repeated.",
        ),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="The most accuracy that 8-bit integers may cost, as 0.5%; beyond it they are trained for.",
        ),
    ] = None,
    merge: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Merge convolutions until each network takes at most this share of its latency, as 0.8; then train it.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the folders here, and leave the run as it is [default: its models/].", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace exports that lie in --out already.")] = False,
    again: Again = False,
    overrides: Set = None,
    as_json: AsJson = False,
) -> None:
    """Export picks of each front: checked and measured ONNX files with their cards; write the summary and the report."""
    if force and out is None:
        fail("--force replaces exports in the folder that --out names; for those of the run say --again")
    if again and out is not None:
        fail("--out leaves the run as it is, so it takes no --again")
    changes = [*(overrides or []), *([f"export.picks={json.dumps(picks)}"] if picks else [])]
    changes += ["export.pair=true"] if pair else []
    changes += [f"export.exits={json.dumps(exits)}"] if exits else []
    changes += [f"export.finetune={epochs}"] if epochs else []
    changes += [f"export.also={json.dumps(also)}"] if also else []
    changes += [f"export.merge={merge}"] if merge is not None else []
    with reported():
        from nas.words import share_of

        changes += [f"export.max_drop={share_of(max_drop)}"] if max_drop else []
        context = _resumed(folder, 1)
        if out is not None:
            _export_into(context, out, force, changes, as_json)
            return
        _stage(context, "export", again, as_json, overrides=changes)
        if not as_json:
            from nas.terminal import print_result

            print_result(context.folder.read_json(context.folder.summary.name), context.folder)


app.command(epilog="Example: nas serve --data nas-data")(service_cli.serve)
app.command(epilog="Example: nas worker --data nas-data")(service_cli.worker)
app.command(epilog="Example: nas agent --server https://nas.example.org --enrol CODE")(agent_cli.agent)
app.command(epilog="Example: nas backup nas.tar --data nas-data")(service_cli.backup)
app.command(epilog="Example: nas restore nas.tar --data other-data")(service_cli.restore)


def main() -> None:
    """Entry point of the `nas` script."""
    app()


def _started(path: Path | None, demo: bool, out: Path | None, jobs: int, overrides: list[str], skip_bad: bool) -> Run:
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


def _refuse(what: str, options: dict[str, Any]) -> None:
    given = next((name for name, value in options.items() if value is not None), None)
    if given is not None:
        fail(f"{given} does not go with {what}; see nas profile --help")


def _resumed(root: Path, jobs: int) -> Run:
    from nas import pipeline
    from nas.folder import RunFolder
    from nas.progress import display

    folder = RunFolder.open(root)
    return pipeline.Run(folder, folder.job, jobs, display())


@contextmanager
def _at_work(folder: RunFolder, new: bool) -> Iterator[None]:
    """Hold the folder; say how to go on after Ctrl-C, and remove it if a new run failed before it had anything to keep."""
    try:
        with folder.held():
            yield
    except KeyboardInterrupt:
        fail(f"interrupted; go on with `nas run --resume {folder.root}`", 130)
    except Exception:
        if new:
            folder.discard_if_barren()
        raise


def _stage(
    context: Run, name: str, again: bool, as_json: bool, *, new: bool = False, overrides: list[str] | None = None
) -> None:
    from nas import pipeline

    folder = context.folder
    if overrides and not again and name in folder.stages():
        fail(f"{folder.root}: the {name} stage is finished; add --again to run it anew under another job")
    with _at_work(folder, new):
        if overrides:
            context = _changed(context, name, overrides)
            folder.change(context.job)
            folder.enter(context.job.space_for(folder.space.settings["num_classes"]))
        if again:
            folder.reopen(name)
        pipeline.run_stage(context, name)
    if as_json:
        print(json.dumps(folder.result(name)))


def _changed(context: Run, stage: str, changes: list[str]) -> Run:
    """The same under another job, which is checked before anything is done for it."""
    from nas.job import changed_job
    from nas.specialising.specialise import check_versions

    job = changed_job(context.job, stage, changes)
    check_versions(job.export)
    return replace(context, job=job)


def _export_into(context: Run, out: Path, force: bool, changes: list[str], as_json: bool) -> None:
    from nas import pipeline

    context = _changed(context, "export", changes)
    with context.folder.held():
        devices = pipeline.export_into(context, out, force)
    made = [each["file"] for device in devices for each in device["exports"]]
    made += [device["pair"]["folder"] for device in devices if device["pair"]]
    print(json.dumps({"devices": devices}) if as_json else "\n".join(made))

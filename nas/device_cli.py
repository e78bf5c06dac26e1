"""`nas devices`, and the parts of `nas profile` that need no run. Imports what is heavy inside the commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.console import AsJson, fail, reported
from nas.jobs_cli import Server

devices = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="What this machine and those of a service can be measured as, what is known of a device, and what fronts cost "
    "elsewhere.",
)

Machine = Annotated[str, typer.Argument(metavar="NAME", help="The machine's name in the service.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """What to measure with, in the words of the command line."""

    device: str
    networks: int
    budget: str
    target_error: str | None
    precision: str


@devices.command("list", epilog="Example: nas devices list\n\nExample: nas devices list --server http://127.0.0.1:8023")
def list_devices(
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="List the enrolled machines of this service instead.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The devices that this machine offers: providers, threads, precisions, batches."""
    if server is not None:
        from nas.farm_cli import print_machines

        print_machines(server, as_json)
        return
    with reported():
        from latency_tables.device import fingerprint
        from latency_tables.offers import offered_devices

        offers, here = offered_devices(), fingerprint()
        if as_json:
            print(
                json.dumps(
                    {
                        "fingerprint": here.to_json(),
                        "devices": [{"full_name": d.full_name(here), **d.to_json()} for d in offers.devices],
                        "refused": list(offers.refused),
                    }
                )
            )
            return
        print(f"{here.cpu}, {here.cores} cores, {here.memory_gib} GiB, {here.os}, onnxruntime {here.onnxruntime}")
        for device in offers.devices:
            print(f"  {device.name:<24} {device.full_name(here)}")
        for reason in offers.refused:
            print(f"  not here: {reason}")


@devices.command(epilog="Example: nas devices show board")
def show(name: Machine, server: Server = None, as_json: AsJson = False) -> None:
    """One enrolled machine of a service: what it is and offers, its canary, its tables."""
    from nas.farm_cli import print_machine

    print_machine(name, server, as_json)


@devices.command(epilog="Example: nas devices enrol board")
def enrol(name: Machine, server: Server = None, as_json: AsJson = False) -> None:
    """A code with which one machine becomes NAME of a service, and the command to run there."""
    from nas.farm_cli import print_enrolment

    print_enrolment(name, server, as_json)


@devices.command(epilog="Example: nas devices remove board")
def remove(name: Machine, server: Server = None) -> None:
    """Remove a machine from a service: it is refused from now on, and its open tasks fail."""
    from nas.farm_cli import remove_machine

    remove_machine(name, server)


@devices.command(epilog="Example: nas devices report runs/demo/tables/cpu_t1.json --html cpu_t1.html")
def report(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A latency table, as `nas profile` leaves it.")],
    known: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="TABLE", help="Judge a predictor carried over from these tables; two or more."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as an HTML page, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """How far to trust a device's latencies and predictions, and where the time goes."""
    with reported():
        from latency_tables.predicting.judge import judge, judge_carried
        from latency_tables.table import load
        from nas.device_report import device_report
        from nas.lab import known_predictors

        found = load(table)
        judgement = judge_carried(found, known_predictors(found.space, known)) if known else judge(found)
        _show(device_report(found, judgement), html, as_json)


@devices.command(epilog="Example: nas devices compare runs/demo --table profiles/board.table.json")
def compare(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run that has searched.")],
    tables: Annotated[
        list[Path] | None,
        typer.Option("--table", metavar="TABLE", help="A further device over the same space; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What the front searched for one device costs on another: the cross-device matrix."""
    with reported():
        from latency_tables.predicting.judge import fitted
        from latency_tables.predicting.predictor import load_predictor
        from latency_tables.table import load
        from nas.compare import compare as compare_fronts
        from nas.folder import RunFolder

        folder = RunFolder.open(run)
        space = folder.space
        searched = {device["name"]: device["front"] for device in folder.result("search")["devices"]}
        predictors = {name: load_predictor(folder.predictor(name), space=space) for name in searched}
        for path in tables or []:
            found = load(path, space=space)
            name = found.device.full_name(found.fingerprint)
            if name in predictors:
                fail(f"{path}: device {name} is given twice")
            predictors[name] = fitted(found)
        matrix = compare_fronts(space, searched, predictors)
        if as_json:
            print(json.dumps(matrix))
        else:
            _print_matrix(matrix)


def profile_space(word: str, settings: list[str], out: Path, known: list[Path], asked: Asked, as_json: bool) -> None:
    """`nas profile --space`."""
    from nas.lab import profile_space as measured_space
    from nas.progress import display
    from nas.words import device_of, space_of

    space, device = space_of(word, settings), device_of(asked.device)
    try:
        found = measured_space(space, device, out, _effort(asked), known, display())
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on with the table", 130)
    page = Path(found["table"]).with_name(Path(found["table"]).name.replace(".table.json", ".report.html"))
    _show(found, page, as_json)
    if not as_json:
        print(f"table: {found['table']}\npredictor: {found['predictor_file']}\nreport: {page}")


def measure_onnx(path: Path, shapes: list[str], images: list[Path], asked: Asked, as_json: bool) -> None:
    """`nas profile --onnx`."""
    from nas.model_lab import measure_onnx as measured_file
    from nas.progress import display
    from nas.words import device_of, shape_of

    given = dict(map(shape_of, shapes))
    found = measured_file(path, device_of(asked.device), given, images, _effort(asked), display())
    if as_json:
        print(json.dumps(found))
        return
    print(f"{path} on {found['full_name']}")
    _print_measurement("inference", found["measurement"])
    if found["end_to_end"] is not None:
        _print_measurement("decode, resize, normalise, inference", found["end_to_end"])


def _effort(asked: Asked) -> Any:
    from nas.model_lab import Effort
    from nas.words import seconds_of, share_of

    target = None if asked.target_error is None else share_of(asked.target_error)
    return Effort(asked.networks, seconds_of(asked.budget), target, share_of(asked.precision))


def _show(found: dict[str, Any], html: Path | None, as_json: bool) -> None:
    from nas.device_page import device_page
    from nas.device_report import device_text
    from search_spaces.files import write_bytes

    if html is not None:
        write_bytes(html, device_page(found).encode())
    print(json.dumps(found) if as_json else device_text(found))


def _print_measurement(what: str, found: dict[str, Any]) -> None:
    from nas.tables import amount, percent, significant

    def ms(name: str) -> str:
        return significant(found[name] / 1e3)

    print(
        f"  {what}: median {ms('p50')} ms (± {percent(found['precision'])}), mean {ms('mean')}, min {ms('min')}, "
        f"p90 {ms('p90')}, p95 {ms('p95')}, p99 {ms('p99')}; {found['count']} runs in {found['rounds']} rounds, "
        f"noise floor {percent(found['noise_floor'])}, ended by {found['ended']}"
    )
    rejected = ", ".join(f"{count} for {reason}" for reason, count in found["rejected"].items() if count)
    if rejected:
        print(f"  rejected rounds: {rejected}")
    footprint, energy = found["footprint"], found["energy"]
    if footprint is not None:
        print(
            f"  model {amount(footprint['model_bytes'])}B, peak memory {amount(footprint['peak_bytes'])}B, loads in "
            f"{significant(footprint['load_ms'])} ms, first run {significant(footprint['first_run_ms'])} ms"
        )
    if energy is not None:
        print(f"  energy: {energy}")


def _print_matrix(matrix: dict[str, Any]) -> None:
    """Rows are fronts, columns devices."""
    from rich.console import Console
    from rich.table import Table

    from nas.tables import percent

    console = Console(width=140)
    titles = {
        "hypervolume_share": "what a front (row) keeps of the best hypervolume on a device (column)",
        "extra_latency": "how much slower its networks are there than the best at equal accuracy",
    }
    for key, title in titles.items():
        drawn = Table("front of", *matrix["devices"], title=title, title_justify="left")
        for name, row in zip(matrix["fronts"], matrix[key], strict=True):
            drawn.add_row(name, *(percent(value, sign=key == "extra_latency") for value in row))
        console.print(drawn)
    drawn = Table(
        "", *matrix["devices"], title="rank correlation of latencies over random networks", title_justify="left"
    )
    for name, row in zip(matrix["devices"], matrix["rank_correlation"], strict=True):
        drawn.add_row(name, *("–" if value is None else f"{value:.3f}" for value in row))
    console.print(drawn)

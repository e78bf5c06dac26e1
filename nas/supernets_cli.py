"""`nas supernets ...`: supernets that come from elsewhere, and how good those are that were trained here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nas.console import AsJson, fail, reported

if TYPE_CHECKING:
    from rich.console import Console

supernets = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Bring in supernets that others have trained, and tell how far those of runs can be trusted.",
)

RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder, as `nas train` left it.")]


@supernets.command("import", epilog="Example: nas supernets import downloaded.pth --as ofa_resnet50")
def import_published(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The checkpoint, as it was downloaded.")],
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="What it was published as, such as ofa_resnet50; or a space.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The supernet to write.")] = Path("supernet.safetensors"),
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the space, as num_classes=100."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a published once-for-all checkpoint into a supernet of ours."""
    if out.exists():
        fail(f"{out} is there already; name another file with --out, or remove it")
    with reported():
        from nas.words import space_of
        from search_spaces import arch_cost
        from supernets.checkpoint import save_supernet
        from supernets.published import import_supernet

        space = space_of(name, overrides or [])
        net, notes = import_supernet(file, space, name)
        save_supernet(out, net, notes)
        params = sum(parameter.numel() for parameter in net.parameters())
        ends = [arch_cost(space, arch).macs / 1e6 for arch in (space.smallest(), space.largest())]
        if as_json:
            print(json.dumps({"file": str(out), "space": space.id, "params": params, "notes": notes}))
            return
        print(f"{out}: {name}, space {space.id} of {space.family}, {params / 1e6:.2f} M parameters")
        print(f"{space.size:.2g} architectures, {ends[0]:.0f} to {ends[1]:.0f} M multiply-accumulates")
        print(f"from {file}, SHA-256 {notes['published']['sha256']}")


@supernets.command(epilog="Example: nas supernets evaluate runs/digits --arch largest --arch front --split test")
def evaluate(
    path: Annotated[
        Path, typer.Argument(metavar="DIR|FILE", help="A run's folder, a supernet, or the checkpoint of a training.")
    ],
    archs: Annotated[
        list[str] | None,
        typer.Option(
            "--arch",
            metavar="NAME",
            help="largest, median, smallest, nested (the chain that the recipe sorted trains), front (all of the run's "
            "fronts) or an id; may be repeated "
            "[default: largest, median, smallest].",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        Literal["validation", "test"], typer.Option(help="Which images of the run to evaluate on.")
    ] = "validation",
    images_of: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run whose images to take, where FILE does not lie in its folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy, recall of every class and calibration of sub-networks, each with batch norm of its own."""
    with reported():
        from nas.progress import display
        from nas.supernet_report import evaluation_json, evaluation_tables
        from nas.trained import ENDS, open_trained

        trained = open_trained(path, images_of)
        with display().stage("evaluate") as progress:
            found = evaluation_json(trained, archs or ENDS, split, progress)
        if as_json:
            print(json.dumps(found))
            return
        console = _console()
        for table in evaluation_tables(found):
            console.print(table)


@supernets.command(epilog="Example: nas supernets study runs/digits --archs 8 --budget 20m")
def study(
    folder: RunArgument,
    archs: Annotated[int, typer.Option(min=3, metavar="N", help="Networks to train alone, spread over MACs.")] = 8,
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="Time to train for, by all networks, as 90s, 20m or 2h.")
    ] = "20m",
    seed: Annotated[int, typer.Option(min=0, help="Of the networks drawn, and of their trainings.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the study, which is gone on with where it is there [default: DIR/study].",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Whether the supernet orders networks as trainings of their own do: some are trained from scratch and compared."""
    with reported():
        from nas.progress import display
        from nas.supernet_report import study_lines, study_table
        from nas.supernet_study import FILE, verdict
        from nas.supernet_study import study as studied
        from nas.trained import open_trained
        from nas.words import seconds_of

        where = out or folder / "study"
        try:
            found = studied(open_trained(folder), where, archs, seconds_of(budget), seed, display())
        except KeyboardInterrupt:
            fail("interrupted; go on with the same command", 130)
        if as_json:
            print(json.dumps(found))
            return
        console = _console()
        console.print(study_table(found))
        for line in (*study_lines(found), verdict(found["result"]), f"in full: {where / FILE}"):
            console.print(line, highlight=False, markup=False)


@supernets.command(epilog="Example: nas supernets conflicts runs/digits --batches 8")
def conflicts(
    folder: RunArgument,
    archs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Random networks beside the largest and the smallest, a batch.")
    ] = 4,
    batches: Annotated[
        int, typer.Option(min=1, metavar="K", help="Batches of training images, as large as the training's.")
    ] = 8,
    as_json: AsJson = False,
) -> None:
    """How far sub-networks pull their shared weights the same way: cosines between their gradients."""
    with reported():
        from nas.progress import display
        from nas.supernet_report import conflict_table, conflicts_json
        from nas.trained import open_trained

        trained = open_trained(folder)
        with display().stage("gradients") as progress:
            found = conflicts_json(trained, archs, batches, progress)
        if as_json:
            print(json.dumps(found))
        else:
            _console().print(conflict_table(found))


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140)

"""What is submitted, from files: a job or a spec in YAML, keys changed on the command line, images of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.connection import ClientError

Json = Any


@dataclass(frozen=True, slots=True)
class Images:
    """A Parquet file to upload, and the name of what was in it."""

    file: Path
    name: str


def read_yaml(path: Path) -> dict[str, Json]:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ClientError("reading YAML needs pyyaml; pip install pyyaml, or submit a mapping") from error
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClientError(f"{path}: cannot be read ({error.strerror})", 422, "invalid") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ClientError(f"{path}: not valid YAML ({' '.join(str(error).split())})", 422, "invalid") from error
    if not isinstance(document, dict):
        raise ClientError(f"{path}: wanted a job file, got {type(document).__name__}", 422, "invalid")
    return document


def override(document: dict[str, Json], text: str) -> None:
    """Change a key, as `train.epochs=2`: of the whole job, or among what is to be changed of an earlier one."""
    import yaml

    key, equals, given = text.partition("=")
    if not equals or not key:
        raise ClientError(f"--set {text!r} is not of the form key.sub=value", 422, "invalid")
    try:
        value = yaml.safe_load(given)
    except (yaml.YAMLError, ValueError) as error:
        raise ClientError(f"--set {text!r}: not valid YAML", 422, "invalid") from error
    if "job" not in document:
        document.setdefault("set", {})[key] = value
        return
    place, (*path, leaf) = document["job"], key.split(".")
    for part in path:
        place = place.setdefault(part, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise ClientError(f"--set {text!r}: {'.'.join(path)} has no keys of its own", 422, "invalid")
    place[leaf] = value


def local_images(data: Mapping[str, Json], folder: Path, scratch: Path) -> dict[str, Images]:
    """What of a job's `data` lies on this machine, by key (`path`, `test_path`): each one Parquet file, made in `scratch` where
    it is a folder."""
    from nas.packing import pack, pack_parquet, split_folders

    if data.get("kind") not in ("parquet", "folder"):
        return {}
    found, packer = places(data, folder), pack_parquet
    if data["kind"] == "folder":
        packer = pack
        found = {
            **(split_folders(found["path"]) if "path" in found else {}),
            **{k: v for k, v in found.items() if k != "path"},
        }
    images = {}
    for key, path in found.items():
        file = path
        if path.is_dir():
            file = scratch / f"{key}.parquet"
            packer(path, file)
        images[key] = Images(file, path.name if file is path else f"{path.name}.parquet")
    return images


def places(data: Mapping[str, Json], folder: Path) -> dict[str, Path]:
    """Which keys of `data` name files of this machine, relative to the job's folder."""
    found = {}
    for name in ("path", "test_path"):
        given = data.get(name)
        if isinstance(given, str) and not given.startswith(("upload:", "data:")):
            path = folder / Path(given).expanduser()
            if not path.exists():
                raise ClientError(f"data.{name}: {path} does not exist", 422, "invalid")
            found[name] = path
    return found

"""A stand-in for the `datasets` package: what our reader calls of it, over plain lists."""

from types import ModuleType, SimpleNamespace

from tests.supernets.pictures import rows


class Table:
    def __init__(self, columns: dict[str, list], names: list[str] | None = None) -> None:
        self.columns = columns
        self.names = names

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    @property
    def features(self) -> dict[str, SimpleNamespace]:
        # A ClassLabel has names; a plain value has none.
        label = SimpleNamespace(names=self.names) if self.names else SimpleNamespace()
        return {name: label if name == "label" else SimpleNamespace() for name in self.columns}

    def __getitem__(self, name: str) -> list:
        return self.columns[name]

    def __iter__(self):
        return (dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True))

    def select_columns(self, names: list[str]) -> "Table":
        return Table({name: self.columns[name] for name in names})

    def cast_column(self, name: str, feature: SimpleNamespace) -> "Table":
        assert name in self.columns
        assert feature.decode is False
        return self


def table(count: int, names: list[str] | None = None, seed: int = 0) -> Table:
    found = rows(count, seed=seed)
    images = [{"bytes": picture, "path": None} for picture, _ in found]
    return Table({"image": images, "label": [label for _, label in found]}, names)


def fake_datasets(answer) -> ModuleType:
    """A module `datasets` whose `load_dataset` gives this answer, or raises it."""
    module = ModuleType("datasets")

    def load_dataset(name: str):
        if isinstance(answer, Exception):
            raise answer
        return answer

    module.load_dataset = load_dataset
    module.Image = lambda decode: SimpleNamespace(decode=decode)
    return module

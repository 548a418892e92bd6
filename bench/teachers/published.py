"""Teachers that others publish: their cards, and how a file becomes one of ours."""

from __future__ import annotations

import inspect
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, model_validator

from tractbench.diffusion.processes import load_process, process_of
from tractbench.errors import ConfigError, DamagedFileError, StoreError, TractbenchError, nearest_name, one_line
from tractbench.io.files import file_sha256, write_atomic
from tractbench.nets.architectures import architecture
from tractbench.nets.build import Argument, meta_network, network_class
from tractbench.registry import load_dataset
from tractbench.teachers.card import PUBLISHED, SHIPPED, Origin, TeacherCard, imported_folder, read_card, to_toml
from tractbench.teachers.load import card_process, load_card
from tractbench.teachers.readers.foreign import Foreign, fit, read_foreign, write_safetensors
from tractbench.teachers.reported import Reported

GRID = 1024
"""Steps of the grid on which a teacher is tried."""


class Published(BaseModel):
    """A teacher that others publish.

    A card names the teacher's ``architecture``, which gives network and arguments; ``arguments`` are then further ones.

    Attributes:
        name: what users call it, and what the imported card is called.
        summary: one line.
        dataset: data set it was trained on.
        process: process that it denoises.
        network: name of the network.
        arguments: the network's arguments, without what only training needs.
        parameterisation: how its output becomes x0.
        parameters: number of parameters of that network.
        format: kind of file: flax, edm_pickle or state_dict.
        url: where the authors publish it; None if nobody does.
        sha256: the file's hash where it is known; otherwise the first file imported counts from then on.
        licence: of the weights.
        note: what else one should know.
        figures: what its authors report of it, the figure that they stand for first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    dataset: str
    process: str
    network: str
    arguments: dict[str, Argument]
    parameterisation: str
    parameters: int
    format: str
    licence: str
    url: str | None = None
    sha256: str | None = None
    note: str | None = None
    figures: tuple[Reported, ...] = ()

    @property
    def fid(self) -> float | None:
        """The FID that its authors report."""
        return self.figures[0].value if self.figures else None

    @property
    def fid_source(self) -> str | None:
        """Where, and how it was made."""
        return f"{self.figures[0].source}; {self.figures[0].sampler}" if self.figures else None

    @model_validator(mode="before")
    @classmethod
    def _of_its_architecture(cls, written: dict[str, object]) -> dict[str, object]:
        if "architecture" not in written:
            return written
        named = architecture(str(written["architecture"]))
        further = written.get("arguments", {})
        arguments = {**named.arguments, **(further if isinstance(further, dict) else {})}
        rest = {key: value for key, value in written.items() if key != "architecture"}
        return {**rest, "network": named.network, "arguments": arguments}


def published_teachers() -> dict[str, Published]:
    """Return every published teacher's card by name."""
    cards = (
        Published.model_validate(tomllib.loads(p.read_text(encoding="utf-8-sig"))) for p in PUBLISHED.glob("*.toml")
    )
    return {card.name: card for card in sorted(cards, key=lambda card: card.name)}


def published_teacher(name: str) -> Published:
    """Return a published teacher's card; a ConfigError names the nearest one."""
    cards = published_teachers()
    if name not in cards:
        raise ConfigError(f"no teacher {name!r} is published{nearest_name(name, cards)}")
    return cards[name]


def reported_figures(card: TeacherCard) -> tuple[Reported, ...]:
    """Return what is reported of a teacher on this machine: by its own card, else by whoever publishes it."""
    published = published_teachers().get(card.origin.published or "") if card.origin else None
    return card.figures or (published.figures if published else ())


def local_cards(tell: Callable[[str], None] = lambda text: None) -> dict[str, tuple[TeacherCard, Path]]:
    """Return the teachers on this machine, shipped and imported, and the folder of each.

    Args:
        tell: told of each card that cannot be read, which is left out.
    """
    found: dict[str, tuple[TeacherCard, Path]] = {}
    for path in (p for folder in (SHIPPED, imported_folder()) for p in sorted(folder.glob("*.toml"))):
        try:
            if "parameterisation" in tomllib.loads(path.read_text(encoding="utf-8-sig")):
                found[path.stem] = read_card(str(path), TeacherCard)
        except (TractbenchError, OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            tell(f"{path} is left out: {one_line(str(error))}; delete it, or import that teacher again")
    return found


@dataclass(frozen=True)
class Trial:
    """A teacher's answer to a standard question: half noise, half way.

    Attributes:
        shape: of the denoised images.
        mean_absolute: mean of their absolute values.
    """

    shape: tuple[int, ...]
    mean_absolute: float


@torch.no_grad()
def try_teacher(card: TeacherCard, folder: Path) -> Trial:
    """Load a teacher and denoise two images of fixed noise with it.

    Raises:
        DamagedFileError: its weights are not what the card promises, or give numbers that are not finite.
    """
    denoiser = load_card(card, folder, card_process(card, load_process(card.process, GRID)))
    channels, size = (_whole(card.arguments, key) for key in ("channels", "size"))
    noise = torch.randn((2, channels, size, size), generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, dtype=torch.int64) if card.arguments.get("classes") else None
    x0 = denoiser(noise, torch.full((2,), 0.5, dtype=torch.float64), labels)
    if not bool(torch.isfinite(x0).all()):
        raise DamagedFileError(f"{folder / card.file} makes images that are not finite; fetch it again")
    return Trial(tuple(x0.shape), float(x0.abs().mean()))


def _whole(arguments: Mapping[str, Argument], key: str) -> int:
    value = arguments.get(key)
    if not isinstance(value, int):
        raise ConfigError(f"network argument {key} = {value!r} is not a whole number")
    return value


def import_teacher(
    path: Path,
    published: Published | None = None,
    *,
    name: str | None = None,
    dataset: str | None = None,
    licence: str = "unknown",
    key: str | None = None,
) -> tuple[TeacherCard, Trial]:
    """Read a foreign checkpoint, check it, and write it into the cache as safetensors with a card.

    Nothing in the file is executed. Weights get their name after they were loaded and tried once, and the card is
    written last: a teacher of the same name works until then, and afterwards if anything is wrong.

    Args:
        path: the file.
        published: the published teacher that it is.
        name: the imported teacher's name; the published one's, or the file's.
        dataset: data set it was trained on, where no published card says.
        licence: of the weights, likewise.
        key: which of several weights in the file.

    Raises:
        ConfigError: the file does not say what network it is or which of its weights are meant, and nothing else does;
            or there is no such data set, or its images have another shape.
        DamagedFileError: it is not what the card promises, or does not fit its network.
    """
    data = load_dataset(dataset) if dataset is not None and published is None else None
    digest = _checked_hash(path, published)
    foreign = read_foreign(path, key)
    name = name or (published.name if published else path.stem)
    if Path(name).name != name or (SHIPPED / f"{name}.toml").exists():
        raise ConfigError(f"name {name!r}: it is a shipped teacher's or no file name; choose another with --name")
    network, arguments, parameterisation = _recipe(foreign, path, published)
    dataset = published.dataset if published else dataset
    if dataset is None:
        raise ConfigError(f"{path} does not say what it was trained on; add --dataset NAME or --card NAME")
    if data is not None:
        channels, size = (_whole(arguments, key) for key in ("channels", "size"))
        if (channels, size, size) != data.shape:
            raise ConfigError(
                f"{path} makes images of shape {(channels, size, size)}, data set '{data.name}' has {data.shape}; "
                "name the data set that it was trained on"
            )
    folder = imported_folder()
    state = fit(foreign.state, meta_network(network, arguments), str(path))
    names = {name for name, _ in meta_network(network, arguments).named_parameters()}
    parameters = sum(tensor.numel() for name, tensor in state.items() if name in names)
    if published and parameters != published.parameters:
        raise DamagedFileError(
            f"{path} has {parameters:,} parameters, '{published.name}' has {published.parameters:,}; it is another file"
        )
    extra = {"u": foreign.u} if foreign.u is not None else {}
    with _staging(folder) as staging:
        write_safetensors(state | extra, staging / WEIGHTS)
        card = TeacherCard(
            name=name,
            summary=published.summary if published else f"imported from {path.name}",
            dataset=dataset,
            network=network,
            arguments=arguments,
            parameters=parameters,
            file=WEIGHTS,
            sha256=file_sha256(staging / WEIGHTS),
            licence=published.licence if published else licence,
            command=f"tractbench teacher import {path.name}"
            + (f" --card {published.name}" if published else "")
            + (f" --key {key}" if key else ""),
            process=process_of(parameterisation).name,
            parameterisation=parameterisation,
            settings=foreign.settings,
            origin=Origin(
                file=path.name,
                sha256=digest,
                format=foreign.format,
                published=published.name if published else None,
                fid=published.fid if published else None,
                fid_source=published.fid_source if published else None,
                taken=foreign.taken,
            ),
        )
        del foreign, state  # else both copies are in memory during the trial
        trial = try_teacher(card, staging)
        return _keep(card, staging, folder), trial


WEIGHTS = "weights.safetensors"


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Give a folder beside the teachers that is gone afterwards.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".import-") as name:
            yield Path(name)
    except OSError as error:
        raise StoreError(
            f"cannot write {folder} ({error.strerror}); choose another cache with TRACTBENCH_CACHE"
        ) from error


def _keep(card: TeacherCard, staging: Path, folder: Path) -> TeacherCard:
    """Give tried weights and their card their names; whoever is killed in between leaves the teacher before."""
    path = folder / f"{card.name}.toml"
    before = read_card(str(path), TeacherCard)[0].file if path.exists() else None
    file = f"{card.name}.safetensors"
    if before is not None:
        file = before if file_sha256(folder / before) == card.sha256 else f"{card.name}-{card.sha256[:12]}.safetensors"
    kept = card.model_copy(update={"file": file})
    (staging / WEIGHTS).replace(folder / file)
    write_atomic(path, to_toml(kept))
    if before not in (None, file):
        (folder / str(before)).unlink(missing_ok=True)
    return kept


def _checked_hash(path: Path, published: Published | None) -> str:
    """Return a file's sha256, after comparing it with the published one or with the one imported first."""
    if path.is_dir():
        return ""  # the reader says what it is
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise DamagedFileError(f"cannot read {path} ({error.strerror}); give the path of a checkpoint") from error
    if published is None:
        return digest
    expected = expected_hash(published)
    if expected and digest != expected:
        raise DamagedFileError(
            f"{path} is not '{published.name}': sha256 {digest[:12]}, expected {expected[:12]}; fetch it again, or "
            "import it without --card"
        )
    return digest


def expected_hash(published: Published) -> str | None:
    """Return the hash that a published teacher's file must have: its card's, or that of the first import of any name.

    Args:
        published: the teacher.
    """
    if published.sha256:
        return published.sha256
    for card, _ in local_cards().values():
        if card.origin is not None and card.origin.published == published.name:
            return card.origin.sha256
    return None


def _recipe(foreign: Foreign, path: Path, published: Published | None) -> tuple[str, dict[str, Argument], str]:
    """Return network, arguments and parameterisation, from the file, the card or both if they agree."""
    if published is None:
        if foreign.network is None or foreign.parameterisation is None or not foreign.complete:
            raise ConfigError(f"{path} does not say all of its network; name the published one that it is with --card")
        return foreign.network, foreign.arguments, foreign.parameterisation
    differing = []
    if foreign.network not in (None, published.network):
        differing.append(f"network {foreign.network}, not {published.network}")
    else:
        defaults = inspect.signature(network_class(published.network)).parameters
        for key, value in foreign.arguments.items():
            said = published.arguments.get(key, defaults[key].default)
            if said != value:
                differing.append(f"{key} {value}, not {said}")
        if foreign.complete:
            for key, said in published.arguments.items():
                if key not in foreign.arguments and said != defaults[key].default:
                    differing.append(f"{key} {defaults[key].default}, not {said}")
    if foreign.parameterisation not in (None, published.parameterisation):
        differing.append(f"parameterisation {foreign.parameterisation}, not {published.parameterisation}")
    if differing:
        raise DamagedFileError(
            f"{path} is not '{published.name}': it has {', '.join(differing)}; fetch it again, or import it without "
            "--card"
        )
    return published.network, published.arguments, published.parameterisation

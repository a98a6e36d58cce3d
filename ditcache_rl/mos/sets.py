"""A set of pages to be rated: blind, as files and pages are named by chance."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.files import read_bytes, read_json, replacing_folder, write_json
from ditcache_rl.policy.manifest import read_fields

#: The five levels of degradation category rating, ITU-T P.910.
LEVELS: Mapping[int, str] = {
    5: "imperceptible",
    4: "perceptible, but not annoying",
    3: "slightly annoying",
    2: "annoying",
    1: "very annoying",
}
#: What a reference is called that is rated as if it were an image of a method.
HIDDEN = "hidden reference"
_SCHEMA_VERSION, _SET, _IMAGES = 1, "set.json", "images"
_MOST_SET_BYTES, _MOST_IMAGE_BYTES = 1 << 22, 1 << 26
_ID_BYTES = 8


class Shown(NamedTuple):
    """An image that goes into a set, with its reference."""

    image: NDArray[np.uint8]
    """(H, W, 3)."""
    reference: NDArray[np.uint8]
    prompt: str
    seed: int
    method: str
    target: str
    speedup: float
    quality: Mapping[str, float]
    """By metric, against the reference."""


@dataclass(frozen=True, slots=True)
class RatedPage:
    """A page of a test.

    Attributes:
        page: Its name, which tells nothing.
        image: File of what is rated, below the set.
        reference: File of what it is compared with.
        prompt: Of both.
        seed: Of both.
        method: What made the image; `HIDDEN` for a reference.
        target: Its setting.
        speedup: As it was measured.
        quality: By metric, against the reference.
    """

    page: str
    image: str
    reference: str
    prompt: str
    seed: int
    method: str
    target: str
    speedup: float
    quality: dict[str, float]

    @property
    def condition(self) -> tuple[str, str]:
        """Method and setting: what scores are given for."""
        return self.method, self.target


@dataclass(frozen=True, slots=True)
class RatingSet:
    """A folder of pages.

    Attributes:
        folder: Where it lies.
        pages: In the order in which they were written.
        facts: What it was made of: command, machine, versions.
    """

    folder: Path
    pages: tuple[RatedPage, ...]
    facts: Mapping[str, Any]

    @classmethod
    def write(
        cls, folder: Path, shown: Sequence[Shown], *, facts: Mapping[str, Any], seed: int
    ) -> RatingSet:
        """Write a set, with a hidden reference for every reference.

        Args:
            folder: Must not exist: ratings belong to the set that they were given in.
            shown: What is rated.
            facts: Passed on.
            seed: Of names and order.

        Raises:
            ConfigError: If the folder exists or nothing is shown.
        """
        if folder.exists():
            raise ConfigError(f"expected a folder that does not exist, received {folder}")
        if not shown:
            raise ConfigError("expected at least one image to be rated, received none")
        generator = np.random.default_rng(seed)
        references = {(one.prompt, one.seed): one for one in shown}
        hidden = [
            one._replace(image=one.reference, method=HIDDEN, target="", speedup=1.0, quality={})
            for one in references.values()
        ]
        pages = []
        with replacing_folder(folder) as partial:
            (partial / _IMAGES).mkdir(parents=True)

            def kept(picture: NDArray[np.uint8]) -> str:
                name = f"{_IMAGES}/{generator.bytes(_ID_BYTES).hex()}.png"
                Image.fromarray(picture).save(partial / name)
                return name

            files = {key: kept(one.reference) for key, one in references.items()}
            every = [*shown, *hidden]
            for place in generator.permutation(len(every)):
                one = every[place]
                pages.append(
                    RatedPage(
                        generator.bytes(_ID_BYTES).hex(),
                        kept(one.image),
                        files[one.prompt, one.seed],
                        one.prompt,
                        one.seed,
                        one.method,
                        one.target,
                        one.speedup,
                        dict(one.quality),
                    )
                )
            write_json(
                partial / _SET,
                {
                    "schema_version": _SCHEMA_VERSION,
                    "facts": dict(facts),
                    "pages": [asdict(page) for page in pages],
                },
            )
        return cls(folder, tuple(pages), facts)

    @classmethod
    def read(cls, folder: Path) -> RatingSet:
        """Open a set.

        Raises:
            ArtifactError: If it is damaged, or none.
        """
        where = folder / _SET
        raw = read_json(where, most_bytes=_MOST_SET_BYTES)
        pages = raw.get("pages")
        if raw.get("schema_version") != _SCHEMA_VERSION or not isinstance(pages, list) or not pages:
            raise ArtifactError(
                f"{where}: expected schema_version {_SCHEMA_VERSION} and pages; prepare it again"
            )
        made = tuple(read_fields(RatedPage, page, str(where)) for page in pages)
        for name in (name for one in made for name in (one.image, one.reference)):
            if Path(name).parent != Path(_IMAGES):
                raise ArtifactError(
                    f"{where}: expected a file in {_IMAGES}/, received {name!r:.80}"
                )
        return cls(folder, made, raw.get("facts") or {})

    def picture(self, name: str) -> NDArray[np.uint8]:
        """Read an image of a page: (H, W, 3).

        Raises:
            ArtifactError: If it is damaged.
        """
        path = self.folder / name
        data = read_bytes(path, _MOST_IMAGE_BYTES)
        try:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ArtifactError(f"{path}: expected an image, received {error}") from error

    def order(self, rater: str) -> list[RatedPage]:
        """Return the pages in a rater's own order, the same each time.

        No prompt follows itself as long as there is another.
        """
        digest = hashlib.blake2b(f"{self.pages[0].page}{rater}".encode(), digest_size=8).digest()
        generator = np.random.default_rng(int.from_bytes(digest))
        left = [self.pages[place] for place in generator.permutation(len(self.pages))]
        ordered: list[RatedPage] = []
        while left:
            others = (n for n, one in enumerate(left) if one.prompt != ordered[-1].prompt)
            ordered.append(left.pop(next(others, 0) if ordered else 0))
        return ordered

"""What is asked and answered, in the words of OpenAI's images API and some of ours."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ditcache_rl.errors import as_written
from ditcache_rl.inference import Target
from ditcache_rl.metrics import PSNR_CAP_DB
from ditcache_rl.types import MOST_SEED, MOST_STEPS

_SIZE = re.compile(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}")
#: Far above what any text encoder reads.
_LONGEST_PROMPT = 4000
#: Of all images of a request.
_MOST_IMAGES = 16
#: A day.
_LONGEST_S = 86_400.0


def _size(text: str) -> str:
    if text != "auto" and not _SIZE.fullmatch(text):
        raise ValueError(f"expected width x height in pixels as '64x64', or 'auto', got {text!r}")
    return text


def _prompt(text: str) -> str:
    if not text.strip():
        raise ValueError("expected some text, got none")
    return text


Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=_LONGEST_S, allow_inf_nan=False)]


class ImageRequest(BaseModel):
    """Images of a prompt."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(max_length=_LONGEST_PROMPT), AfterValidator(_prompt)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=_MOST_IMAGES)] | None = 1
    size: Annotated[str, AfterValidator(_size)] | None = None
    response_format: Literal["b64_json"] | None = "b64_json"
    user: str | None = None
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] | None = None
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    speedup: Positive | None = None
    min_psnr: Annotated[float, Field(gt=0, le=PSNR_CAP_DB)] | None = None
    min_ssim: Annotated[float, Field(gt=0, le=1)] | None = None
    budget: Annotated[float, Field(gt=0, le=1)] | None = None
    deadline_s: Seconds | None = None
    max_latency_s: Seconds | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(self._asked()) > 1:
            raise ValueError(f"expected one target at most, got {as_written(self._asked())}")
        if self.deadline_s is not None and self.max_latency_s is not None:
            raise ValueError("expected deadline_s or max_latency_s, which are the same, got both")
        return self

    @property
    def target(self) -> Target | None:
        """What is asked for beside time; None for nothing."""
        asked = self._asked()
        return Target(**asked) if asked else None

    @property
    def within_s(self) -> float | None:
        """Seconds that it may take; None where it does not say."""
        return self.max_latency_s if self.deadline_s is None else self.deadline_s

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height; None where it does not say."""
        if self.size is None or self.size == "auto":
            return None
        width, height = self.size.split("x")
        return int(width), int(height)

    def seeds(self) -> Sequence[int]:
        """Return a seed for each image: one after the other, from the one that was given."""
        first = secrets.randbelow(MOST_SEED) if self.seed is None else self.seed
        return [(first + place) % (MOST_SEED + 1) for place in range(self.n or 1)]

    def _asked(self) -> dict[str, Any]:
        names = ("speedup", "min_psnr", "min_ssim", "budget")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


class ImageData(BaseModel):
    """An image, and how it was made."""

    b64_json: str
    seed: int
    target: str
    modes: str
    compute_share: float
    queue_s: float
    seconds: float


class ImageResponse(BaseModel):
    """Images of a request."""

    created: int = Field(default_factory=lambda: int(time.time()))
    data: list[ImageData]


class ErrorFacts(BaseModel):
    """Why there is no answer."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """An error, as OpenAI's clients read it."""

    error: ErrorFacts


class ModelFacts(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "ditcache-rl"


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelFacts]


class StateResponse(BaseModel):
    """How a server is."""

    status: str

"""Film rollouts: the clean image that every step predicts, and under it what the step decided."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ditcache_rl.bench import Board, Case, Drawn
from ditcache_rl.control import Controller
from ditcache_rl.errors import ConfigError
from ditcache_rl.files import replacing
from ditcache_rl.machine import require
from ditcache_rl.rl.rollout import Finished, Rollout
from ditcache_rl.rl.view import View
from ditcache_rl.types import Mode, Modes, StepInfo

#: What a film may be; the ending of its file says which.
ENDINGS = (".mp4", ".gif")
#: Steps a second, and how many frames the finished image stays.
_FPS, _HELD = 4, 8
#: Width of an image: small ones are enlarged, in whole pixels.
_LEAST_PX, _MOST_PX = 256, 512
_MARGIN_PX, _TEXT_PX, _STRIP_PX = 12, 14, 28
_PAPER, _INK, _AHEAD = (255, 255, 255), (34, 37, 43), (228, 230, 233)
#: Of cells, by what a site does.
_COLORS = {
    Mode.COMPUTE: (210, 35, 80),
    Mode.REUSE: (176, 181, 189),
    Mode.FORECAST1: (79, 143, 214),
    Mode.FORECAST2: (31, 94, 168),
}
_LEGEND = "red computed, blue forecast, gray reused"


class Take(NamedTuple):
    """One image coming into being."""

    title: str
    frames: NDArray[np.uint8]
    """(steps, H, W, 3) the clean image that each step predicts, the last being the image."""
    modes: Modes
    """(steps, sites) effective."""
    psnr_db: float
    """Of the image, against full compute."""

    @property
    def computed_share(self) -> NDArray[np.float64]:
        """(steps,) of full compute, spent so far."""
        return np.asarray((self.modes == Mode.COMPUTE).mean(axis=1).cumsum() / len(self.modes))


def take(board: Board, case: Case, controller: Controller, *, title: str) -> Take:
    """Draw an image under a controller, and look at what every step predicts.

    Args:
        board: Pipeline and step count.
        case: What to draw.
        controller: Of a policy, a schedule, or of one's own; by no clock, as looking takes time.
        title: Of the picture.
    """
    board.prepare([case])
    view, frames = View(board.pipe, board.call), list[Tensor]()

    def call(waiting: Controller) -> Drawn:
        with view.watching(board.pipe.scheduler):
            return board.draw([case], waiting)

    with closing(Rollout(call)) as rollout:
        event = rollout.start()
        assert isinstance(event, StepInfo), "a pipeline asks for a decision before it ends"
        controller.reset(event.run)
        while isinstance(event, StepInfo):
            levels = event.sigma, event.sigma_next
            event = rollout.advance(controller.decide(event))
            if isinstance(event, StepInfo):
                predicted = view.show([case], *levels)
                assert predicted is not None, "a step was made"
                frames.append(predicted[0])
    assert isinstance(event, Finished)
    images, log, _ = event.result
    assert log is not None, "a controller makes one"
    pixels = np.stack([_pixels(frame) for frame in (*frames, images[0])])
    quality = board.judge(images, [case])
    return Take(title, pixels, log.modes[:, 0], float(quality.psnr_db[0]))


def write_film(path: Path, scenes: Sequence[tuple[str, Sequence[Take]]]) -> None:
    """Write a film: scenes one after the other, the takes of each beside each other.

    Args:
        path: File to write, which ends in `.mp4` or `.gif`.
        scenes: Each a prompt and takes of as many steps, of which the first is the reference.

    Raises:
        ConfigError: As `check_film`.
    """
    check_film(path)
    import imageio.v3 as imageio

    frames = [frame for prompt, takes in scenes for frame in _scene(prompt, takes)]
    own: dict[str, Any] = {"duration": 1000 / _FPS, "loop": 0}
    if path.suffix == ".mp4":
        own = {"fps": _FPS, "macro_block_size": 2}  # colours have half the resolution
    with replacing(path) as partial:
        imageio.imwrite(partial, np.stack(frames), **own)


def check_film(path: Path) -> None:
    """Refuse what no film can be written to.

    Raises:
        ConfigError: If it ends otherwise, or what writes films is not installed.
    """
    if path.suffix not in ENDINGS:
        raise ConfigError(f"expected a film to end in {' or '.join(ENDINGS)}, received {path}")
    require("train", "imageio", "imageio_ffmpeg")


def _scene(prompt: str, takes: Sequence[Take]) -> list[NDArray[np.uint8]]:
    """Draw all frames of a prompt."""
    steps = len(takes[0].frames)
    return [_frame(prompt, takes, min(step, steps - 1)) for step in range(steps + _HELD)]


def _frame(prompt: str, takes: Sequence[Take], step: int) -> NDArray[np.uint8]:
    """Draw what is seen after a step."""
    pictures = [_sized(Image.fromarray(one.frames[step])) for one in takes]
    width, height = pictures[0].size
    line = _TEXT_PX + 6
    column = width + _MARGIN_PX
    top = _MARGIN_PX + 2 * line
    size = (_MARGIN_PX + column * len(takes), top + height + 2 * line + _STRIP_PX + 2 * _MARGIN_PX)
    sheet = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT_PX)
    room = sheet.width - 2 * _MARGIN_PX
    while pen.textlength(prompt, font) > room and len(prompt) > 1:
        prompt = prompt.rstrip("…")[:-1] + "…"
    pen.text((_MARGIN_PX, _MARGIN_PX), prompt, _INK, font)
    for place, (one, picture) in enumerate(zip(takes, pictures, strict=True)):
        left = _MARGIN_PX + place * column
        pen.text((left, _MARGIN_PX + line), one.title, _INK, font)
        sheet.paste(picture, (left, top))
        done = f"step {step + 1}/{len(one.modes)}, computed {one.computed_share[step]:.0%}"
        if place and step == len(one.modes) - 1:
            done += f", {one.psnr_db:.1f} dB"
        below = top + height + 4
        pen.text((left, below), done, _INK, font)
        _strip(pen, one.modes, step, box=(left, below + line, width, _STRIP_PX))
    pen.text((_MARGIN_PX, sheet.height - _MARGIN_PX - _TEXT_PX), _LEGEND, _INK, font)
    return np.asarray(sheet)


def _strip(
    pen: ImageDraw.ImageDraw, modes: Modes, step: int, *, box: tuple[int, int, int, int]
) -> None:
    """Draw a cell per step and site, sites downwards; what is ahead is pale."""
    left, top, width, height = box
    steps, sites = modes.shape
    across = np.linspace(left, left + width, steps + 1).round().astype(int).tolist()
    down = np.linspace(top, top + height, sites + 1).round().astype(int).tolist()
    for x in range(steps):
        for y in range(sites):
            color = _AHEAD if x > step else _COLORS[Mode(int(modes[x, y]))]
            right, bottom = max(across[x], across[x + 1] - 2), max(down[y], down[y + 1] - 2)
            pen.rectangle((across[x], down[y], right, bottom), color)


def _sized(picture: Image.Image) -> Image.Image:
    """Bring an image to a width that can be looked at."""
    if picture.width < _LEAST_PX:
        factor = -(-_LEAST_PX // picture.width)
        return picture.resize(
            (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
        )
    share = min(1.0, _MOST_PX / picture.width)
    return picture.resize((round(picture.width * share), round(picture.height * share)))


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    pixels = (image.movedim(0, -1).clamp(0, 1).numpy() * 255).round()
    return np.asarray(pixels, dtype=np.uint8)

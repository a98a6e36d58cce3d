import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from ditcache_rl.bench import Board, Case
from ditcache_rl.cli import main
from ditcache_rl.control import AllCompute, StaticSchedule
from ditcache_rl.errors import ConfigError
from ditcache_rl.policy import save_policy
from ditcache_rl.rl.film import take, write_film
from ditcache_rl.schedules import Schedule
from tests.kit.environment import untrained_policy

CASE = Case("a small plain red disc at left on a white background", 3)
MODES = np.array([[0], [1], [0], [2]], dtype=np.int8)


@pytest.fixture
def board(tiny_pipe: Any, tiny_call: dict[str, Any]) -> Board:
    return Board(tiny_pipe, 4, sites=1, call=tiny_call)


def test_a_take_ends_in_the_image_and_says_what_was_done(board: Board) -> None:
    controller = StaticSchedule(Schedule(MODES))

    taken = take(board, CASE, controller, title="static")

    image = board.draw([CASE], controller).images[0]
    pixels = (image.movedim(0, -1).numpy() * 255).round().astype(np.uint8)
    assert taken.frames.shape == (4, *pixels.shape)
    np.testing.assert_array_equal(taken.frames[-1], pixels)
    np.testing.assert_array_equal(taken.modes, MODES)
    assert taken.computed_share.tolist() == [0.25, 0.25, 0.5, 0.5]
    assert taken.psnr_db == pytest.approx(board.judge(image[None], [CASE]).psnr_db[0])


def test_predictions_come_nearer_to_the_image_step_by_step(board: Board) -> None:
    taken = take(board, CASE, AllCompute(), title="reference")

    distance = abs(taken.frames.astype(float) - taken.frames[-1]).mean(axis=(1, 2, 3))
    assert distance[-1] == 0
    assert (np.diff(distance) <= 0).all()


def frames_of(film: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Decode a film at its four frames a second."""
    typed = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(film), "-r", "4"]
    raw = subprocess.run([*typed, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True)
    return np.frombuffer(raw.stdout, dtype=np.uint8).reshape(-1, *shape)


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_a_film_has_a_frame_per_step_and_its_decisions_below_the_image(
    board: Board, tmp_path: Path, ending: str
) -> None:
    takes = [
        take(board, CASE, AllCompute(), title="reference"),
        take(board, CASE, StaticSchedule(Schedule(MODES)), title="static"),
    ]
    film = tmp_path / "new" / f"film{ending}"

    write_film(film, [(CASE.prompt, takes)])

    height, width = 400, 12 + 2 * (256 + 12)
    frames = frames_of(film, (height, width, 3))
    assert len(frames) == 4 + 8  # the image stays for two seconds
    strip = frames[-1][height - 12 - 14 - 12 - 14][:, :3]  # in the middle of the cells
    left = 12 + 256 + 12
    cells = [strip[left + 32 + 64 * step].astype(int) for step in range(4)]
    colors = [(210, 35, 80), (176, 181, 189), (210, 35, 80), (79, 143, 214)]
    for cell, color in zip(cells, colors, strict=True):
        np.testing.assert_allclose(cell, color, atol=12)  # as far as the codec goes
    ahead = frames[0][height - 12 - 14 - 12 - 14][left + 32 + 64, :3].astype(int)
    np.testing.assert_allclose(ahead, (228, 230, 233), atol=12)


def test_a_film_that_ends_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"end in .mp4 or .gif, received .*film.avi"):
        write_film(tmp_path / "film.avi", [])


def test_the_command_films_a_policy_online_beside_its_schedule_and_its_reference(
    tiny_env: Path,
    tiny_pipe: Any,
    tiny_call: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_policy(
        untrained_policy(tiny_pipe, tiny_call, adaptive={"4": [2]}), tmp_path / "policy", card=""
    )
    shown: list[list[str]] = []

    def write(path: Path, scenes: Any) -> None:
        shown.extend([one.title for one in takes] for _, takes in scenes)
        write_film(path, scenes)

    monkeypatch.setattr("ditcache_rl.rl.film.write_film", write)
    film = tmp_path / "film.gif"
    typed = ["rollout", str(tmp_path / "policy"), "--env", str(tiny_env), "--out", str(film)]

    assert main([*typed, "--budget", "0.5", "--prompts", "1", "--quiet"]) == 0

    assert shown == [["reference", "its schedule", "policy, online"]]
    assert film.exists()
    assert str(film) in capsys.readouterr().out

import itertools
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ditcache_rl.cli import main
from ditcache_rl.errors import ArtifactError, ConfigError
from ditcache_rl.mos import HIDDEN, Ratings, RatingSet
from tests.kit.opinions import write_set


def test_a_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = write_set(tmp_path / "set")

    assert RatingSet.read(tmp_path / "set") == made
    assert len(made.pages) == 12
    assert sum(one.method == HIDDEN for one in made.pages) == 3


def test_a_hidden_reference_is_the_reference_under_another_name(tmp_path: Path) -> None:
    made = write_set(tmp_path / "set")

    for one in made.pages:
        alike = np.array_equal(made.picture(one.image), made.picture(one.reference))
        assert alike == (one.method == HIDDEN)
        assert one.image != one.reference


def test_an_image_that_is_damaged_or_vast_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_set(tmp_path / "set")
    broken, vast = made.pages[0].image, made.pages[1].image
    data = (tmp_path / "set" / broken).read_bytes()
    (tmp_path / "set" / broken).write_bytes(data[:60])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)

    for name in (broken, vast):
        with pytest.raises(ArtifactError, match=f"{name}: expected an image"):
            made.picture(name)


def test_names_tell_nothing(tmp_path: Path) -> None:
    made = write_set(tmp_path / "set")

    names = [name for one in made.pages for name in (one.page, one.image, one.reference)]
    assert not [name for name in names if set(name) - set("0123456789abcdef/images.png")]
    assert len({one.image for one in made.pages}) == 12


def test_every_rater_has_an_order_of_their_own_in_which_no_prompt_follows_itself(
    tmp_path: Path,
) -> None:
    made = write_set(tmp_path / "set")

    orders = [[one.page for one in made.order(rater)] for rater in ("x", "y", "x")]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(one.page for one in made.pages)
    prompts = [one.prompt for one in made.order("x")][:9]
    assert all(a != b for a, b in itertools.pairwise(prompts))


def test_a_set_is_never_replaced(tmp_path: Path) -> None:
    write_set(tmp_path / "set")

    with pytest.raises(ConfigError, match="does not exist"):
        write_set(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("image", "../../etc/passwd", "expected a file in images/"),
        ("speedup", "fast", "speedup must be float"),
        ("page", 7, "page must be str"),
    ],
)
def test_a_set_that_was_altered_is_refused(
    name: str, value: object, said: str, tmp_path: Path
) -> None:
    write_set(tmp_path / "set")
    file = tmp_path / "set" / "set.json"
    raw = json.loads(file.read_text())
    raw["pages"][0][name] = value
    file.write_text(json.dumps(raw))

    with pytest.raises(ArtifactError, match=said):
        RatingSet.read(tmp_path / "set")


def test_the_first_rating_of_a_page_stands_in_every_thread(tmp_path: Path) -> None:
    ratings = Ratings(tmp_path / "ratings.sqlite")

    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(lambda score: ratings.rate("a", "p", score), [4, 3, 2, 1] * 4))

    assert new.count(True) == 1
    assert len(ratings.every()) == 1
    assert Ratings(tmp_path / "ratings.sqlite").pages_of("a") == {"p"}


@pytest.mark.parametrize(("rater", "score"), [("", 3), ("a" * 65, 3), ("a\n", 3), ("a", 6)])
def test_a_rating_that_is_none_is_refused(rater: str, score: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Ratings(tmp_path / "ratings.sqlite").rate(rater, "p", score)


@pytest.mark.parametrize("damage", ["text", "table"])
def test_a_damaged_file_of_ratings_is_a_sentence(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "set")
    file = tmp_path / "set" / "ratings.sqlite"
    if damage == "text":
        file.write_bytes(b"no database" * 100)
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE ratings (thesis TEXT)")
        connection.close()

    assert main(["mos", "report", str(tmp_path / "set")]) == 2

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "expected ratings, received: " in said
    assert "restore a copy" in said


def test_speed_ups_are_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "set")

    # Neither is there a test prompt more than 32, which is said once the pipeline is open.
    assert main(["mos", "prepare", "--out", out, "--speedups", "1", "--prompts", "99"]) == 2

    assert "--speedups must be above 1, received [1.0]" in capsys.readouterr().err


def test_a_report_of_a_set_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    made, ratings = write_set(tmp_path / "set"), Ratings.of(tmp_path / "set")
    for rater in ("x", "[/] y"):
        for one in made.pages:
            score = 5 if one.method == HIDDEN else round(one.quality["psnr_db"] / 10)
            ratings.rate(rater, one.page, score)

    file = tmp_path / "report.json"
    assert main(["mos", "report", str(tmp_path / "set"), "--json", str(file)]) == 0

    out = capsys.readouterr().out
    assert "agreement with psnr_db: pearson +0.9" in out
    assert "[/] y" in out, "a name is shown as it was given"
    report = json.loads(file.read_text())
    assert [(line["method"], line["target"], line["mos"]) for line in report["scores"]] == [
        (HIDDEN, "", 5.0),
        ("a", "2x", 4.0),
        ("a", "4x", 3.0),
        ("b", "2x", 2.0),
    ]

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from ditcache_rl.page import compare, document, escaped, picture_uri, plot, strip, table

NOISE = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_picture_that_fits_is_kept_to_the_bit() -> None:
    small = NOISE[:64, :48]

    assert np.array_equal(np.asarray(opened(picture_uri(small))), small)


def test_a_picture_takes_no_more_bytes_than_it_may() -> None:
    uri = picture_uri(NOISE, most_bytes=50_000)

    assert len(uri) < 50_000 * 4 / 3 + 100
    assert opened(uri).width / opened(uri).height == pytest.approx(4 / 3, abs=0.02)


def test_text_stays_text() -> None:
    evil = "</p><script>alert('x')</script>"

    parts = [
        compare(NOISE[:8, :8], NOISE[:8, :8], evil, names=(evil, evil)),
        strip("CR12.", label=evil),
        table((evil,), [(evil, evil)], label=evil),
        escaped(evil),
    ]

    assert "<script" not in document(evil, parts)


@pytest.mark.parametrize("evil", ["</script><b>", "<!--<script>", "a < b"])
def test_data_neither_end_their_script_nor_keep_it_open(evil: str) -> None:
    markup = plot({"data": [{"name": evil}], "layout": {}}, name="x", label="y")

    data = markup.partition('data-plot="x">')[2].removesuffix("</script>")
    assert "<" not in data
    assert json.loads(data)["data"] == [{"name": evil}]


def test_a_strip_has_a_cell_for_every_step_and_a_line_for_every_site() -> None:
    markup = strip("CR1 | C2.")

    assert markup.count("<i ") == 6
    assert markup.count("<div>") == 2
    assert "computed at 0" in markup

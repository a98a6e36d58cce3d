from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.shapes.reader import (
    HELD_OUT_SEED,
    WEIGHTS,
    Reader,
    load_reader,
    load_report,
    measure,
    read,
)
from ditcache_rl.errors import ArtifactError, ShapeError
from ditcache_rl.shapes.recipe.scenes import ATTRIBUTES, sample_scenes

FILE = WEIGHTS["shapes"]
READER = load_reader(FILE)
# Away from the scenes of the reader's own report, which start at HELD_OUT_SEED.
SEED = HELD_OUT_SEED + 500_000


def test_the_committed_reader_reads_held_out_renders() -> None:
    accuracy = measure(READER, 200, torch.Generator().manual_seed(SEED))

    assert accuracy.keys() == ATTRIBUTES.keys()
    assert min(accuracy.values()) >= 0.95, accuracy


def test_a_soft_picture_is_read_like_a_sharp_one() -> None:
    truth, images = sample_scenes(100, torch.Generator().manual_seed(SEED))
    soft = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)

    assert (read(soft, READER) == truth).double().mean(0).min() >= 0.95


def test_reading_does_not_depend_on_the_batch() -> None:
    _, images = sample_scenes(4, torch.Generator().manual_seed(SEED))

    together, alone = (
        read(images, READER),
        torch.cat([read(image[None], READER) for image in images]),
    )

    assert together.shape == (4, len(ATTRIBUTES))
    assert together.dtype == torch.int64
    assert torch.equal(together, alone)


def test_the_report_keeps_what_training_measured() -> None:
    report = load_report(FILE)

    assert report.accuracy.keys() == ATTRIBUTES.keys()
    assert min(report.accuracy.values()) >= 0.97
    assert report.scenes == 2000
    assert FILE.stat().st_size < 1_000_000
    assert sum(value.numel() for value in Reader().parameters()) < 400_000


def test_images_of_another_size_are_refused_with_the_size_that_fits() -> None:
    with pytest.raises(ShapeError, match=r"must be \(B, 3, 64, 64\), received \(1, 3, 32, 32\)"):
        read(torch.zeros(1, 3, 32, 32), READER)


def test_a_reader_of_other_attributes_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "reader.safetensors"
    save_file(load_file(FILE), foreign, {"format": "ditcache-rl.reader.v1", "attributes": "{}"})

    with pytest.raises(ArtifactError, match="train it again"):
        load_reader(foreign)

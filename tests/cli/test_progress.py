import argparse
import io
import json

import pytest
from rich.console import Console

from ditcache_rl.cli.options import add_display
from ditcache_rl.cli.progress import Bar, JsonLines, Lines, shown_progress
from ditcache_rl.types import Progress


class Clock:
    """Stands still, until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def work(bar: Progress, clock: Clock) -> None:
    """Two stages of three minutes each, with a word every ten seconds."""
    with bar:
        bar.expect(36)
        for second in range(0, 360, 10):
            clock.now = float(second)
            if second % 180 == 0:
                bar.stage("search" if second else "references")
            bar.say(f"at second {second}")
            bar.advance(1)
        bar.note("curves: tensorboard --logdir runs")


def options(*typed: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_display(parser)
    return parser.parse_args(typed)


def test_a_bar_shows_how_far_the_work_is_and_keeps_notes_above() -> None:
    shown = io.StringIO()

    with Bar("search", Console(file=shown, width=120)) as bar:
        bar.expect(4)
        bar.advance(1)
        bar.reach(2)
        bar.note("left out [dp]: no reason")
        bar.say("climb [at] 3 steps")

    note, line = shown.getvalue().splitlines()
    assert note == "left out [dp]: no reason"
    assert line.startswith("search ")
    assert " 50% " in line
    assert line.rstrip().endswith("climb [at] 3 steps")


def test_without_a_terminal_there_is_a_line_per_stage_and_per_minute() -> None:
    out, clock = io.StringIO(), Clock()

    work(Lines("train", out, clock=clock), clock)

    assert out.getvalue().splitlines() == [
        "train 0:00:00   0%  references",
        "train 0:01:00  17%  at second 60",
        "train 0:02:00  33%  at second 120",
        "train 0:03:00  50%  search",
        "train 0:04:00  67%  at second 240",
        "train 0:05:00  83%  at second 300",
        "curves: tensorboard --logdir runs",
        "train 0:05:50  done",
    ]


def test_programs_read_an_object_a_line() -> None:
    out, clock = io.StringIO(), Clock()

    work(JsonLines("train", out, clock=clock), clock)

    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert all(line["command"] == "train" for line in lines)
    assert [line["stage"] for line in lines if line["event"] == "stage"] == ["references", "search"]
    assert lines[1] == {
        "event": "progress",
        "command": "train",
        "stage": "references",
        "text": "at second 10",
        "share": 1 / 36,
        "seconds": 10.0,
    }
    assert (lines[-1]["event"], lines[-1]["text"], lines[-1]["share"]) == ("end", "done", 1.0)


@pytest.mark.parametrize(
    ("error", "word"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")]
)
def test_the_last_line_tells_how_it_ended(error: type[BaseException], word: str) -> None:
    out = io.StringIO()

    with pytest.raises(error), Lines("search", out, clock=Clock()):
        raise error

    assert out.getvalue() == f"search 0:00:00  {word}\n"


def test_what_is_shown_is_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert type(shown_progress("train", options("--quiet"))) is Progress
    assert type(shown_progress("train", options("--log-json"))) is JsonLines
    assert type(shown_progress("train", options())) is Lines  # stderr is no terminal here
    with pytest.raises(SystemExit):
        options("--quiet", "--log-json")
    assert "not allowed with" in capsys.readouterr().err

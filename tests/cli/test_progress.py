import io

from rich.console import Console

from ditcache_rl.cli.progress import Bar


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

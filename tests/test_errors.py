from ditcache_rl.errors import closest


def test_a_near_miss_is_answered_with_the_name_that_was_meant() -> None:
    assert closest("shape", ["shapes", "flux"]) == " Did you mean 'shapes'?"


def test_nothing_is_suggested_when_nothing_is_near() -> None:
    assert closest("zzz", iter(["shapes", "flux"])) == ""

from dataclasses import replace

from ditcache_rl.config import find_policy
from ditcache_rl.policy import load_policy
from ditcache_rl.policy.card import write_card
from ditcache_rl.schedules import Expectation


def test_a_card_speaks_of_a_network_where_there_is_one() -> None:
    policy = load_policy(find_policy("shapes-ppo"))
    bare = replace(policy, network=None)

    assert "## Network against static schedule" in write_card(policy)
    assert "network" not in write_card(bare).lower()
    assert "controller" not in write_card(bare)


def test_a_card_leaves_out_what_was_not_measured() -> None:
    policy = load_policy(find_policy("shapes-ppo"))

    card = write_card(replace(policy, network=None, safe={}, metrics={"train_minutes": "many"}))

    assert "| not measured | | | |" in card
    assert "minutes" not in card


def test_a_card_says_how_far_off_what_is_expected_is() -> None:
    policy = load_policy(find_policy("shapes-ppo"))
    table = policy.safe[28]
    line = Expectation(30.0, 2.34, ((1.0, 0.0, 0.0),) * 28)
    known = table.with_lines({4: table[4]._replace(expectation=line)})
    never = table.with_lines({4: table[4]._replace(expectation=None)})

    assert "| ± 2.3 dB |" in write_card(replace(policy, safe={28: known}))
    assert "| 0.9862 | unknown |" in write_card(replace(policy, safe={28: never}))

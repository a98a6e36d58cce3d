from dataclasses import replace

from ditcache_rl.config import find_policy
from ditcache_rl.policy import load_policy
from ditcache_rl.rl.card import write_card


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

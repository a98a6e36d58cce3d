"""How far a training has come, in one file: all that what comes after depends on.

A training that goes on from it learns the same network, to the bit, as one that was never
interrupted. Nothing in the file is unpickled.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ditcache_rl.files import replacing
from ditcache_rl.rl.scenario import Scenario

#: Numbers of a model that change while it learns, if it has them.
_COUNTS = ("num_timesteps", "_n_updates", "_n_calls", "exploration_rate")
#: What an algorithm that learns from the past keeps of it, if it has it.
_PAST = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
#: Files in that of Stable-Baselines3.
_BASELINES, _REPLAY = "baselines.json", "replay.npz"


def save_checkpoint(model: BaseAlgorithm, scenario: Scenario, file: Path) -> None:
    """Write weights, counts, what is learned from, and known baselines: as a whole or not at all.

    Baselines are kept as they are drawn together with others that are missing, which shows in
    their last bits.
    """
    with replacing(file) as partial:
        model.save(partial)
        with ZipFile(partial, "a") as archive:
            archive.writestr(_BASELINES, json.dumps(scenario.baselines))
            if isinstance(model, OffPolicyAlgorithm):
                archive.writestr(_REPLAY, _replay_of(model))


def restore(model: BaseAlgorithm, scenario: Scenario, file: Path) -> None:
    """Bring a model and the baselines of its scenario to where they were."""
    model.set_parameters(str(file))
    with ZipFile(file) as archive:
        counts = json.loads(archive.read("data"))
        for name in _COUNTS:
            if name in counts:
                setattr(model, name, counts[name])
        known = json.loads(archive.read(_BASELINES))
        scenario.baselines |= {name: (psnr_db, ssim) for name, (psnr_db, ssim) in known.items()}
        if isinstance(model, OffPolicyAlgorithm):
            _refill(model, archive.read(_REPLAY))


def _replay_of(model: OffPolicyAlgorithm) -> bytes:
    buffer, file = model.replay_buffer, io.BytesIO()
    assert buffer is not None, "made with the model"
    kept = {name: getattr(buffer, name)[: buffer.size()] for name in _PAST if hasattr(buffer, name)}
    np.savez_compressed(file, allow_pickle=False, pos=np.array(buffer.pos), **kept)
    return file.getvalue()


def _refill(model: OffPolicyAlgorithm, data: bytes) -> None:
    buffer = model.replay_buffer
    assert buffer is not None, "made with the model"
    with np.load(io.BytesIO(data)) as saved:
        arrays = dict(saved)
    buffer.pos = int(arrays.pop("pos"))
    for name, past in arrays.items():
        getattr(buffer, name)[: len(past)] = past
    buffer.full = len(arrays["rewards"]) == buffer.buffer_size

"""Linear equations of fits: what unknowns do to cases, and what these lack."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ditcache_rl.types import Floats

#: Squared errors below this count as this.
_TINY = 1e-12


def squares(wrong: Tensor) -> Tensor:
    """Return the mean square of what every case lacks: (cases,), never zero."""
    return wrong.square().mean(dim=1).clamp_min(_TINY)


def normal_equations(effect: Tensor, wrong: Tensor) -> tuple[Floats, Floats]:
    """Return both sides of normal equations in which every case counts by its relative error.

    Args:
        effect: (cases, features, unknowns) what a unit of each unknown does.
        wrong: (cases, features) what is lacking.
    """
    share = 1 / squares(wrong)
    gram = torch.einsum("rdk,rdl,r->kl", effect, effect, share)
    moment = torch.einsum("rdk,rd,r->k", effect, wrong, share)
    return gram.cpu().numpy(), moment.cpu().numpy()


def solve(gram: Floats, moment: Floats, ridge: float) -> Floats:
    """Solve the normal equations, each unknown damped by a share of its own curvature."""
    return np.asarray(np.linalg.solve(gram + np.diag(ridge * np.diag(gram) + _TINY), moment))

"""What people see: sets of image pairs to be rated, the ratings, and scores with intervals.

The method is degradation category rating: a reference and an image beside it, and how much worse
it is on five levels; among the images are references, which tell attentive raters from others.
"""

from ditcache_rl.mos.ratings import Ratings
from ditcache_rl.mos.scores import (
    OpinionReport,
    Screened,
    opinion,
    opinion_report,
    screen,
)
from ditcache_rl.mos.sets import HIDDEN, LEVELS, RatedPage, RatingSet, Shown

__all__ = [
    "HIDDEN",
    "LEVELS",
    "OpinionReport",
    "RatedPage",
    "RatingSet",
    "Ratings",
    "Screened",
    "Shown",
    "opinion",
    "opinion_report",
    "screen",
]

"""A profile of this machine, a store's place and the user's data: limits, stages, and what to change."""

from kacas.upkeep.profile.figures import Profile
from kacas.upkeep.profile.run import profile

__all__ = ["Profile", "profile"]

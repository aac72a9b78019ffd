"""Pictures from noise: DDPM and DDIM, their schedules, grids, solvers and networks.

Post: 9152, 9181
"""

from tianwen.diffusion.grids import times_of
from tianwen.diffusion.oracle import GaussianOracle
from tianwen.diffusion.sampling import one_by_one, sample
from tianwen.diffusion.schedule import Schedule

__all__ = ["GaussianOracle", "Schedule", "one_by_one", "sample", "times_of"]

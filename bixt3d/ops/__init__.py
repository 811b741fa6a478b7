"""Point operations: sampling, neighbours, interpolation, grouping and bi-directional attention."""

from bixt3d.ops.attention import attention_symmetry, bidirectional_attention
from bixt3d.ops.grid import grid_sample
from bixt3d.ops.grouping import affine_group, linear_of_affine_group
from bixt3d.ops.kdtree import SearchTree
from bixt3d.ops.measures import attention_diversity, attention_freedom
from bixt3d.ops.neighbors import gather_points, interpolate, knn
from bixt3d.ops.sampling import farthest_point_sample, random_sample

__all__ = [
    "SearchTree",
    "affine_group",
    "attention_diversity",
    "attention_freedom",
    "attention_symmetry",
    "bidirectional_attention",
    "farthest_point_sample",
    "gather_points",
    "grid_sample",
    "interpolate",
    "knn",
    "linear_of_affine_group",
    "random_sample",
]

import numpy as np

from lesionclick.network.preprocessing import to_network_grid


def test_to_network_grid_keeps_voxel_centres():
    # 8 voxels become 4: centres of the first two at 0 and 1 share the new voxel 0, whose centre is at 0.5
    moved = to_network_grid(np.array([[0, 0, 0], [1, 1, 1], [7, 7, 7]]), [(0, 8)] * 3, (4, 8, 16), "centre")
    np.testing.assert_allclose(moved, [[0, 0, 0.5], [0.25, 1, 2.5], [3, 7, 14.5]])


def test_to_network_grid_by_corners_rounds_half_to_even_after_the_crop():
    points = np.array([[11, 11, 11], [13, 12, 30], [5, 12, 12]])
    moved = to_network_grid(points, [(10, 20), (10, 20), (10, 20)], (5, 10, 15), "corner")
    # (1, 1, 1) -> (0.5, 1, 1.5) -> (0, 1, 2); (3, 2, 9 clamped) -> (1.5, 2, 13.5) -> (2, 2, 14); (0 clamped, 2, 2)
    np.testing.assert_array_equal(moved, [[0, 1, 2], [2, 2, 14], [0, 2, 3]])

"""Pictures: grids of images, animations, interactive pages and plots."""

from blurcli.visualize.animations import Timing, check_animation, save_animation
from blurcli.visualize.grids import Images, picture, save_grid, tile, write_grid, write_npz
from blurcli.visualize.image_folder import ImageFolder

__all__ = [
    "ImageFolder",
    "Images",
    "Timing",
    "check_animation",
    "picture",
    "save_animation",
    "save_grid",
    "tile",
    "write_grid",
    "write_npz",
]

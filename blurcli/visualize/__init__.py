"""Pictures: grids of images, animations, interactive pages and plots."""

from blurcli.visualize.animations import Timing, check_animation, save_animation
from blurcli.visualize.grids import grid_picture, grid_scale, picture, save_grid, tile
from blurcli.visualize.image_files import ArrayFile, GridFile, ImageWriter, image_writer
from blurcli.visualize.image_folder import ImageFolder

__all__ = [
    "ArrayFile",
    "GridFile",
    "ImageFolder",
    "ImageWriter",
    "Timing",
    "check_animation",
    "grid_picture",
    "grid_scale",
    "image_writer",
    "picture",
    "save_animation",
    "save_grid",
    "tile",
]

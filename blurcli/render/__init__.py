"""Pictures: grids of images, animations, pages to be scrubbed through, and previews for the terminal."""

from blurcli.render.animations import check_animation, save_animation, save_frames
from blurcli.render.grids import Images, picture, save_grid, tile, write_folder, write_grid, write_npz

__all__ = [
    "Images",
    "check_animation",
    "picture",
    "save_animation",
    "save_frames",
    "save_grid",
    "tile",
    "write_folder",
    "write_grid",
    "write_npz",
]

"""Export to other libraries: a folder that diffusers loads without blurdiff installed, because it contains the code.

`unet.py`, `process.py` and `pipeline.py` are the code of such a folder. They import diffusers and only those modules of blurcli
that need nothing but PyTorch and NumPy. `bundle` writes each with its imports into one file, because diffusers loads the code
of a component from a single file; `folder` writes the folder.
"""

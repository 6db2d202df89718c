"""Models for other libraries: a folder that diffusers loads, with our own code in it, and without blurdiff installed.

`unet.py`, `process.py` and `pipeline.py` are the code of such a folder. They import diffusers and, of blurcli, only what needs
no more than PyTorch and NumPy. `bundle` writes each into one file with all that it imports, because diffusers loads the code
of a component from a single file; `folder` writes the whole.
"""

"""blurdiff: train, sample, animate and score blurring diffusion models."""

__version__ = "0.1.0"

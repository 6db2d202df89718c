"""Restoration of photos: what is known of the damage, what is estimated from the photo, and the restored images."""

from blurcli.restoring.options import RestoreOptions, measurement_of
from blurcli.restoring.restorer import Restored, Restorer

__all__ = ["RestoreOptions", "Restored", "Restorer", "measurement_of"]

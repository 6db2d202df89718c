"""Weights on the Hugging Face hub: references such as hf://user/repo, downloads and uploads. Its library is imported lazily."""

from blurcli.hub.download import fetch, is_as_published
from blurcli.hub.licenses import check_license
from blurcli.hub.references import HubReference, check_branch, check_repository, is_reference, parse
from blurcli.hub.upload import Destination, find_destination, upload

__all__ = [
    "Destination",
    "HubReference",
    "check_branch",
    "check_license",
    "check_repository",
    "fetch",
    "find_destination",
    "is_as_published",
    "is_reference",
    "parse",
    "upload",
]

"""Fetch weights from the hub into its library's cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from blurcli.base import downloads, files
from blurcli.base.errors import UserError
from blurcli.hub import client
from blurcli.hub.references import DEFAULT_FILE, HubReference, choose_file, parse

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling


def fetch(text: str, notify: Callable[[str], None] = lambda text: None) -> Path:
    """The weights file of a reference, in the cache of the hub's library ($HF_HOME), downloaded if it is missing.

    A reference without a file means the repository's only .safetensors file, or its `model.safetensors`. If the hub cannot be
    reached, or $HF_HUB_OFFLINE is set, the file in the cache is used.

    Args:
        text: hf://user/repo[@revision][/file], or an address of the hub.
        notify: receives the commit that is used.

    Raises:
        UsageError: a malformed reference; a repository without that file, without weights, or with several.
        UserError: the package is missing, the hub does not answer or refuses, a broken download, a full disk.
    """
    reference = parse(text)
    api = client.api(text)
    with client.explained(text):
        try:
            info = api.model_info(
                reference.repository, revision=reference.revision, files_metadata=True, timeout=client.TIMEOUT_SEC
            )
        except Exception as error:
            if client.is_answer(error):
                raise
            why = client.reason(error)
            path = _cached(reference, why)
            notify(f"{text}: {why}; using the copy in the cache")
            return path
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        name = choose_file(reference, list(siblings))
        notify(f"using {name} of {reference.repository}, commit {str(info.sha)[:8]}")
        return _downloaded(api, reference, siblings[name], info.sha)


def is_as_published(path: Path) -> bool:
    """Whether a file in the cache has the published SHA-256, which is the name of its copy there."""
    return path.resolve().name == downloads.file_sha256(path)


def _downloaded(api: HfApi, reference: HubReference, entry: RepoSibling, commit: str | None) -> Path:
    """The file of a repository, in the cache, with the published SHA-256."""
    from huggingface_hub import constants, try_to_load_from_cache

    name, repository = entry.rfilename, reference.repository
    if entry.size and not isinstance(try_to_load_from_cache(repository, name, revision=commit), str):
        files.check_space(Path(constants.HF_HUB_CACHE) / name, entry.size)
    # By the name of the revision, not its commit, so that it can be found in the cache offline.
    path = Path(api.hf_hub_download(repository, name, revision=reference.revision))
    # The library compares sizes only.
    if entry.lfs is not None and downloads.file_sha256(path) != entry.lfs.sha256:
        for copy in (path.resolve(), path):
            copy.unlink(missing_ok=True)
        raise UserError(f"{reference.text}: {name} has other bytes than were published (SHA-256); {path} is deleted: try again")
    return path


def _cached(reference: HubReference, why: str) -> Path:
    """The file of a reference in the cache.

    Without a name only `model.safetensors` is found: only the hub knows whether another file is the only one.
    """
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(reference.repository, reference.file or DEFAULT_FILE, revision=reference.revision)
    if not isinstance(path, str):
        hint = "" if reference.file else f"; name the file where it is not {DEFAULT_FILE}"
        raise UserError(f"{reference.text}: {why}, and it is not in the cache{hint}")
    return Path(path)

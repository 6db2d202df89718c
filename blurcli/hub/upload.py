"""Upload a folder to the hub, in one commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base.errors import UsageError, UserError, option
from blurcli.hub import client

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
"""The file that the hub shows as the model card."""


@dataclass(frozen=True)
class Destination:
    """The destination of an upload; the right to write there is checked.

    Attributes:
        repository: user/repo.
        branch: None for the main branch.
        private: whether a new repository is private.
        exists: whether there is such a repository.
        commit: the newest commit of the branch; None if the repository or the branch is missing.
        card: the text of its model card; None if there is none.
    """

    repository: str
    branch: str | None
    private: bool
    exists: bool
    commit: str | None
    card: str | None

    @property
    def url(self) -> str:
        """Its page."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repository}" + (f"/tree/{self.branch}" if self.branch else "")


def find_destination(repository: str, branch: str | None, private: bool) -> Destination:
    """Check that the user may write to a repository, which need not exist; nothing is written.

    Args:
        repository: user/repo.
        branch: name of a branch, which need not exist; None for the main branch.
        private: whether the repository must be private.

    Raises:
        UsageError: the repository belongs to another user, or is public although it must be private.
        UserError: the package or the token is missing, the hub does not answer or refuses.
    """
    api = client.api(repository)
    with client.explained(repository):
        _check_token(repository, api.whoami())
        try:
            info = api.model_info(repository, timeout=client.TIMEOUT_SEC)
        except Exception as error:
            if _status(error) not in (401, 404):
                raise
            return Destination(repository, branch, private, False, None, None)
        if private and not info.private:
            raise UsageError(
                f"{option('private')}: {repository} exists and is public; make it private in its settings, or use another name"
            )
        if branch is not None:
            try:
                info = api.model_info(repository, revision=branch, timeout=client.TIMEOUT_SEC)
            except Exception as error:
                if _status(error) != 404:
                    raise
                return Destination(repository, branch, private, True, None, _card(api, repository, None, info))
        return Destination(repository, branch, private, True, info.sha, _card(api, repository, branch, info))


def upload(destination: Destination, folder: Path, message: str) -> str:
    """Upload all files of a folder in one commit; a missing repository or branch is created.

    The commit is refused if the branch has changed since `find_destination`.

    Args:
        destination: the repository.
        folder: the files.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        UserError: the hub does not answer or refuses; the branch is unchanged.
    """
    from huggingface_hub import CommitOperationAdd

    repository, branch = destination.repository, destination.branch
    api = client.api(repository)
    new = "" if destination.exists else "; the new repository may be there, and empty"
    with client.explained(f"{repository}: nothing is uploaded{new}"):
        if not destination.exists:
            api.create_repo(repository, private=destination.private or None, exist_ok=True)
        if branch is not None and destination.commit is None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        commit = destination.commit or api.model_info(repository, revision=branch, timeout=client.TIMEOUT_SEC).sha
        operations = [CommitOperationAdd(path.name, str(path)) for path in sorted(folder.iterdir())]
        done = api.create_commit(repository, operations, commit_message=message, revision=branch, parent_commit=commit)
        return done.commit_url


def _check_token(repository: str, user: dict[str, Any]) -> None:
    """Refuse a token without the right to write to this repository."""
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"{repository}: the token may only read; create one that may write, and {client.LOG_IN}")
    owner = repository.partition("/")[0]
    names = [str(user.get("name")), *(str(group.get("name")) for group in user.get("orgs", []))]
    if owner.lower() not in (name.lower() for name in names):
        raise UsageError(f"{repository}: the token belongs to {names[0]}, who may write to: {', '.join(names)}")


def _card(api: HfApi, repository: str, branch: str | None, info: Any) -> str | None:
    if CARD not in [sibling.rfilename for sibling in info.siblings or []]:
        return None
    return Path(api.hf_hub_download(repository, CARD, revision=branch)).read_text(encoding="utf-8", errors="replace")


def _status(error: Exception) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0))

"""The hub's library: its import, its settings, and its errors as one line each."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING

from blurcli.base.downloads import causes, network_reason
from blurcli.base.errors import UserError, importing, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

TIMEOUT_SEC = 10.0  # the library's own value, for requests without a timeout
LOG_IN = "log in with: hf auth login, or set $HF_TOKEN"

_NO_TOKEN = re.compile(r"[^\w.~+/=-]|=(?=[^=])", re.ASCII)  # RFC 6750
_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


def api(text: str) -> HfApi:
    """The hub's client, with its log silenced, and with progress bars only where `console` draws bars.

    Args:
        text: beginning of the error: what needs the hub.

    Raises:
        UserError: the package is missing or broken, or the token is malformed.
    """
    with importing("huggingface_hub", text):
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import logging
        from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars
    from blurcli.base import console
    from blurcli.base.version import __version__

    if not constants.HF_HUB_OFFLINE:
        _check_token(Path(constants.HF_TOKEN_PATH))
    if "HF_HUB_VERBOSITY" not in os.environ:
        logging.set_verbosity(ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about $HF_HUB_DISABLE_PROGRESS_BARS taking precedence
        (enable_progress_bars if console.draws() else disable_progress_bars)()
    return HfApi(library_name="blurdiff", library_version=__version__)


def _check_token(file: Path) -> None:
    """Refuse a token with invalid characters. HTTP clients refuse it with other messages, some of which show the token."""
    variable = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), "")
    token, place, again = os.environ.get(variable, "").strip(), f"${variable}", "set it again, or unset it and log in"
    if not token:
        place, again = str(file), "log in again"
        try:
            token = file.read_bytes().decode(errors="replace").strip()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{file}: the token of the hub cannot be read ({error.strerror}); {LOG_IN}") from None
    if found := _NO_TOKEN.search(token):
        character = found[0]
        kind = "a line end" if character in "\r\n" else "white space" if character.isspace() else f"the character {character!a}"
        raise UserError(
            f"{place}: cannot be a token of the hub: it has {kind} at position {found.start() + 1}; {again} with: hf auth login"
        )


@contextmanager
def explained(text: str) -> Iterator[None]:
    """Turn errors of the library into a UserError of one line that begins with `text`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # of the library, its HTTP client, or hf_xet
        raise UserError(f"{text}: {reason(error)}") from error


def is_answer(error: Exception) -> bool:
    """Whether the hub has answered that something does not exist or is not allowed; the cache must not hide that."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return 400 <= status < 500 and status not in (408, 429)


def reason(error: BaseException) -> str:
    """The cause and the fix of an error, in one line."""
    from huggingface_hub import constants, errors

    for one in causes(error):
        if isinstance(one, errors.OfflineModeIsEnabled):
            return "the hub's library is offline ($HF_HUB_OFFLINE)"
        if isinstance(one, errors.LocalTokenNotFoundError):
            return f"needs a token: {LOG_IN}"
        if isinstance(one, errors.HfHubHTTPError):
            return _answer(one)
        if isinstance(one, OSError) and one.errno in _NOT_WRITABLE:
            where = one.filename or constants.HF_HUB_CACHE
            return f"{where} cannot be written ({one.strerror}): free disk space, or choose another folder with $HF_HOME"
    if why := network_reason(error):
        return f"{constants.ENDPOINT} cannot be reached ({why}); check the network connection, or try again later"
    return f"{_first_line(error) or type(error).__name__}"


def _answer(error: HfHubHTTPError) -> str:
    """The meaning of an error status of the hub."""
    from huggingface_hub import constants, errors

    status = error.response.status_code
    server_message = one_line((error.server_message or "").strip().partition("\n")[0])
    detail = f" ({server_message})" if server_message else ""
    if isinstance(error, errors.GatedRepoError):
        return f"access must be granted by its owner: ask for it on {constants.ENDPOINT}, and {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.EntryNotFoundError):
        return "the repository has no such file"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no such repository, or a private one that this token may not read; {LOG_IN}"
    if status == 401:
        return f"the hub does not accept the token; {LOG_IN}"
    if status == 403:
        return f"forbidden{detail}: the token does not have the right; choose another one: {LOG_IN}"
    if status in (409, 412):
        return f"the repository has changed in the meantime{detail}; run the command again"
    if status == 429 or status >= 500:
        return f"the hub answered {status}{detail}; try again later"
    return f"the hub answered {status} ({server_message or _first_line(error)})"


def _first_line(error: BaseException) -> str:
    """The first line of an error, without the library's request number."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return re.sub(r" \((Request|Amzn Trace|Amz CF) ID: [^)]*\)", "", one_line(lines[0].strip())) if lines else ""

"""`blurdiff push`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from blurcli.base.errors import UsageError
from blurcli.cli.common import DeviceOption, JsonOption, PrecisionOption, show
from blurcli.workflows.session import load_torch


def push(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, for its newest weights, or a weights file.")],
    repository: Annotated[str, typer.Argument(metavar="USER/REPO", help="Repository on the hub; created if missing.")],
    license_: Annotated[
        str | None, typer.Option("--license", help="License of the weights, as the hub names it: mit, cc-by-4.0, ... Required.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is private; a public one is refused.")] = False,
    message: Annotated[str | None, typer.Option("--message", help="Commit message. [default: the training steps]")] = None,
    branch: Annotated[
        str | None, typer.Option("--revision", help="Branch; created from the main branch if missing. [default: main]")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=400, help="Images in the grid of samples.")] = 36,
    animation: Annotated[
        bool, typer.Option("--animation/--no-animation", help="Add the reverse process of a few images, as a GIF.")
    ] = True,
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Replace an edited model card instead of keeping it.")
    ] = False,
    dry_run: Annotated[
        Path | None, typer.Option("--dry-run", help="Write the files into this new folder instead; needs no network.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Share a trained model on the Hugging Face hub.

    Weights in 16 bits, preset, samples and a model card, in one commit. Others use it with --weights hf://user/repo. The
    location of the training images is not shared. The token comes from hf auth login, or $HF_TOKEN.
    """
    from blurcli import hub
    from blurcli.base import console, files

    if hub.is_reference(repository):
        named = hub.parse(repository)
        if named.file is not None or (branch or named.revision) != (named.revision or branch):
            raise UsageError(
                f"{repository}: names a file, or another revision; write user/repo, and the branch with --revision"
            )
        repository, branch = named.repository, branch or named.revision
    hub.check_repository(repository)
    license_ = hub.check_license(license_)
    if branch is not None:
        hub.check_branch(branch, f"--revision {branch}")
    if message is not None and not message.strip():
        raise UsageError("--message: is empty; leave it out for the default")
    if dry_run is not None:
        files.check_new_folder(dry_run)
    reference = f"hf://{repository}" + (f"@{branch.replace('/', '%2F')}" if branch else "")

    load_torch()
    from blurcli.base.runs import resolve_run
    from blurcli.evaluate import recorded
    from blurcli.model.inference import choose_device
    from blurcli.model.weights import load_weights
    from blurcli.workflows import model_card

    chosen = choose_device(device)
    run = resolve_run(source) if not source.is_file() else None
    path = run.newest_weights() if run is not None else source
    destination = None if dry_run is not None else hub.find_destination(repository, branch, private)
    weights = load_weights(path)
    if weights.step < weights.config.train.steps:
        console.notify(f"{path}: step {weights.step:,} of {weights.config.train.steps:,}; the training is not finished")
    scores = tuple(recorded(run.evaluations_path)) if run is not None else ()
    share = model_card.SharingOptions(reference, license_, n, animation, scores, precision)

    with tempfile.TemporaryDirectory() if dry_run is None else files.new_folder(dry_run) as temporary:
        folder = Path(temporary)
        with console.progress("sampling", model_card.sampled_images(weights, share)) as update:
            model_card.write_shared(weights, share, folder, chosen, update)
        kept, address = False, None
        if destination is not None:
            kept = destination.card is not None and not (replace_card or model_card.is_unedited(destination.card))
            if kept:
                (folder / model_card.CARD).unlink()
                console.notify(
                    f"{repository}: its {model_card.CARD} was not written by blurdiff push, or has been edited: it is kept, "
                    "with its license; --replace-card replaces it"
                )
        names = sorted(file.name for file in folder.iterdir())
        if destination is not None:
            address = hub.upload(destination, folder, message or f"blurdiff weights after {weights.step:,} steps")
    result = {
        "repository": repository,
        "revision": branch,
        "weights": str(path),
        "files": names,
        "card_kept": kept,
        "commit": address,
        "folder": None if dry_run is None else str(dry_run),
    }
    show(result, f"{dry_run or f'{reference} ({address})'}: {', '.join(names)}", as_json)

"""Classes of images from a `dataset.json`, the format of NVIDIA's StyleGAN and EDM."""

from __future__ import annotations

import json

from blurcli.base.errors import UserError

LABELS_FILE = "dataset.json"


def parse_labels(content: bytes, origin: str) -> dict[str, str] | None:
    """The class of each file by its name, from `{"labels": [["00000/img00000000.png", 6], ...]}`; None if it has no labels.

    Args:
        content: of the file.
        origin: its name, for messages.

    Raises:
        UserError: the content has another form.
    """
    try:
        labels = json.loads(content)["labels"]
        if labels is None:
            return None
        parsed = {}
        for name, label in labels:
            if not isinstance(name, str) or not isinstance(label, int | str):
                raise TypeError(f"{name!r}: {label!r} is not the number or name of a class")
            parsed[name.replace("\\", "/")] = str(label)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        wanted = '{"labels": [["name.png", 0], ...]}'
        raise UserError(f"{origin}: not a list of labels ({error}); it must be {wanted}: repair or remove it") from None
    return parsed


def class_names(labels: set[str]) -> tuple[str, ...]:
    """The classes in order: by number where all are numbers, else by name."""
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))

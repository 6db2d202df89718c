"""The license identifiers of the hub."""

from blurcli.base.errors import UsageError, did_you_mean

# All of the hub's, except those for models of others, and `unknown`.
_LICENSES = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause
bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0
cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
openrail openrail++ osl-3.0 other pddl postgresql unlicense wtfpl zlib
"""
LICENSES = frozenset(_LICENSES.split())
"""License identifiers of the hub's cards."""


def check_license(identifier: str | None) -> str:
    """A license identifier of the hub, in lower case.

    Raises:
        UsageError: it is missing or unknown.
    """
    common = "mit, apache-2.0, cc-by-4.0, cc-by-nc-4.0, openrail, other"
    if identifier is None:
        raise UsageError(
            f"--license: name the terms under which others may use the weights, such as {common}; those of the training "
            "images may restrict your choice. Identifiers: https://huggingface.co/docs/hub/repositories-licenses"
        )
    if identifier.lower() not in LICENSES:
        hint = did_you_mean(identifier.lower(), LICENSES)
        raise UsageError(
            f"--license {identifier}: not an identifier of the hub{hint} (such as {common}; all of them: "
            "https://huggingface.co/docs/hub/repositories-licenses)"
        )
    return identifier.lower()

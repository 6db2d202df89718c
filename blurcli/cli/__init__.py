"""The command line: parses, calls, prints. Heavy modules are imported only when a command needs them."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from blurcli.base import memory, threads
from blurcli.base.errors import UsageError, UserError
from blurcli.base.version import __version__
from blurcli.cli import helptext
from blurcli.cli.advice import correction, normalize_arguments
from blurcli.cli.animate import animate
from blurcli.cli.bench import bench
from blurcli.cli.data import data
from blurcli.cli.diagnose import diagnose
from blurcli.cli.distill import distill
from blurcli.cli.export import export
from blurcli.cli.fid import fid
from blurcli.cli.import_ import import_
from blurcli.cli.likelihood import likelihood
from blurcli.cli.plot import plot
from blurcli.cli.prefetch import prefetch
from blurcli.cli.presets import presets
from blurcli.cli.push import push
from blurcli.cli.report import report
from blurcli.cli.restore import restore
from blurcli.cli.results import results
from blurcli.cli.sample import sample
from blurcli.cli.streams import escape_unprintable
from blurcli.cli.study import study
from blurcli.cli.sweep import sweep
from blurcli.cli.train import train
from blurcli.workflows.session import started_by_torchrun

app = typer.Typer(
    name="blurdiff",
    cls=helptext.CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    train,
    distill,
    sample,
    restore,
    animate,
    fid,
    results,
    plot,
    report,
    likelihood,
    sweep,
    study,
    diagnose,
    data,
    bench,
    presets,
    prefetch,
    export,
    import_,
    push,
):
    app.command(command.__name__.rstrip("_"), cls=helptext.Command)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"blurdiff {__version__}")
        raise typer.Exit


_DISTRIBUTED = ("train", "distill", "sample", "fid")


@app.callback()
def _global_options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only results and errors; allowed anywhere.")] = False,
) -> None:
    """Train, sample, animate and score blurring diffusion models."""
    if started_by_torchrun() and context.invoked_subcommand not in _DISTRIBUTED:
        raise UsageError(f"{context.invoked_subcommand}: runs in one process; torchrun is for {', '.join(_DISTRIBUTED)}")


_STDOUT_FAILURES = (errno.ENOSPC, errno.EIO, errno.EBADF)  # of files, such errors have a name and another text


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug, quiet = ("--debug" in arguments), ("--quiet" in arguments)
    escape_unprintable()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about large and damaged images, which are refused or read anyway
    threads.choose_threads()
    memory.keep_freed_memory()
    if sys.stdout is None:
        print("standard output is closed: results are not shown", file=sys.stderr)
    terminated: list[int] = []

    def terminate(number: int, frame: object) -> None:
        # As after Ctrl-C, unfinished files are removed.
        terminated.append(128 + number)
        sys.exit(terminated[0])

    signal.signal(signal.SIGTERM, terminate)
    try:
        if quiet or "blurcli.base.console" in sys.modules:
            from blurcli.base import console

            console.be_quiet(quiet)
        given = normalize_arguments([argument for argument in arguments if argument not in ("--debug", "--quiet")])
        code = app(given, prog_name="blurdiff", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except Exception as error:
        if isinstance(error, typer.Abort):
            print("Aborted!", file=sys.stderr)
            sys.exit(1)
        show = getattr(error, "show", None)
        if show is not None:  # wrong usage, found by Typer; its suggestions only compare the spelling
            vars(error).update(possibilities=None, message=str(getattr(error, "message", "")).partition(" Did you mean")[0])
            show()
            if better := correction(given, vars(error)["message"], typer.main.get_command(app).commands):  # type: ignore[attr-defined]
                print(f"\n{better}", file=sys.stderr)
            sys.exit(getattr(error, "exit_code", 2))
        from blurcli.base import console

        if terminated:  # an import interrupted by the signal can fail in any way
            sys.exit(terminated[0])
        if isinstance(error, OSError) and error.filename is None and error.errno in _STDOUT_FAILURES:
            console.error(f"standard output: {error.strerror}")
            sys.exit(1)
        if debug:
            console.traceback()
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            console.error(f"{error.filename}: {error.strerror}; choose a shorter name")
            sys.exit(1)
        if isinstance(error, UserError):
            console.error(error.text)
            sys.exit(error.exit_code)
        if isinstance(error, OSError) and error.filename is not None:
            console.error(f"{error.filename}: {error.strerror}: it may be gone, or its permissions do not fit; try again")
            sys.exit(1)
        if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(error):
            console.error(
                f"out of memory ({error}): in training use --set train.micro_batch=auto or "
                "--set train.checkpoint_activations=true; elsewhere a smaller --batch-size"
            )
            sys.exit(1)
        console.error(f"{type(error).__name__}: {error} (a bug in blurdiff: --debug shows where)")
        sys.exit(1)


def run() -> NoReturn:
    """Run the command line as a process, which exits without unloading PyTorch: that takes up to a second."""
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    atexit._run_exitfuncs()
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except OSError as error:
        os.write(2, f"error: standard output: {error.strerror}\n".encode())
        code = code or 1
    os._exit(code)

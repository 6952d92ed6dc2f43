"""``aef``: parse, load the configuration, call one stage. Everything it knows is how to say things to a person."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from pipelines.config import Config, ConfigError, load_config

DESCRIPTION = """\
From satellite archives to 64-number embeddings of every 10 m pixel.

in the order of use:
  doctor    check this machine, and with --config the root and the catalogs
  sandbox   build a synthetic Earth, or serve one; `run` does both by itself where the configuration asks for it
  run       everything: (sandbox) plan ingest train embed evaluate; or one stage at a time:
    plan      search the catalogs, draw training sites, lay out tiles
    ingest    read scenes, co-register them, write shards and statistics
    train     fit the Space-Time-Precision model
    embed     map embeddings over all tiles
    evaluate  probe the maps with labels, write scores and the report
  submit    the same, run or one stage, as a job of a Ray cluster
  status    what is planned, done and left
  verify    compare shards and tiles with what was committed
  view      where report and maps are
"""

EPILOG = """\
example, a synthetic Earth on this machine:
  aef run --config configs/sandbox.yaml
  aef view --config configs/sandbox.yaml --open

example, a region of your own:
  aef doctor --config configs/my_region.yaml
  aef run --config configs/my_region.yaml --dry-run
  aef run --config configs/my_region.yaml --set train.steps=2000

A command that was killed is given again: what was committed is kept, the rest is done.
`aef COMMAND --help` explains the options of a command.
"""

SUBMIT_EPILOG = """\
example:
  aef submit run --config configs/my_region.yaml --set root=s3://BUCKET/PREFIX \\
      --address http://127.0.0.1:8265 --job-id my-region-2024

The configuration must lie in this repository, which travels to the cluster, and the root must be a place that every
node reaches. The environment variable RAY_AUTH_MODE is token where it is not set: the token of the cluster is then
needed here (~/.ray/auth_token, or RAY_AUTH_TOKEN).
"""

STAGES = {
    "plan": "Search every source's collections over the area and periods, draw training sites, lay out tiles.",
    "ingest": "Read the scenes of every site, co-register them on the 10 m UTM grid, write shards and statistics.",
    "train": "Train the model on the shards; continues from the last checkpoint.",
    "embed": "Embed every tile of the plan with the trained model; committed tiles are skipped.",
    "evaluate": "Probe embeddings, baselines and the untrained model with labelled points; write the report.",
    "run": "All stages in order: (sandbox) plan ingest train embed evaluate; what is done already is not done again.",
    "status": "What is planned, done and left under the root.",
    "verify": "Check every shard against the manifest, and every committed tile against its receipt.",
    "view": "Where the report and the maps are; --open shows the report in a browser.",
}
DRY_RUN = {
    "plan": "print what the plan would hold and stop, writing nothing; searches the catalogs, which must answer",
    "run": "print for every stage what it would fetch, write, compute and cost, and stop, writing nothing; searches "
    "the catalogs, which must answer (a synthetic Earth that is not built yet: only what is known without it)",
    "evaluate": "print tasks, labels and shots and stop, writing nothing; asks no catalog",
}
DRY_RUN_OF_STAGE = (
    "print what the stage would fetch, write, compute and cost, and stop, writing nothing; reads the plan under the "
    "root and asks no catalog"
)


# Those of pipelines/sandbox/faults.py, which needs the web framework; a test keeps the two equal.
FAULTS = ("latency", "throttled", "unavailable", "missing", "truncated", "expired", "signature", "too_large")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aef",
        usage="aef COMMAND [OPTIONS]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Without help of their own the commands are listed once, by the description, in the order of use.
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS, prog="aef"
    )

    def add(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def with_config(command: argparse.ArgumentParser, required: bool = True) -> None:
        command.add_argument("--config", required=required, metavar="FILE", help="YAML configuration; see configs/")
        command.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override one value of the configuration for this call; KEY is dotted, VALUE is YAML, "
            "e.g. --set train.steps=100 --set embed.workers=4 (repeatable)",
        )

    for name, help_text in STAGES.items():
        command = add(name, help_text)
        with_config(command)
        if name in ("plan", "ingest", "train", "embed", "evaluate", "run"):
            command.add_argument("--dry-run", action="store_true", help=DRY_RUN.get(name, DRY_RUN_OF_STAGE))
        if name in ("plan", "run"):
            command.add_argument(
                "--refresh",
                action="store_true",
                help="search the catalogs again although a plan of this area, periods and sources is there, "
                "to find scenes that were published since",
            )
        if name == "view":
            command.add_argument("--open", action="store_true", help="open the report in the browser")
    sandbox = add("sandbox", "Build the synthetic Earth, or serve it or any static STAC catalog.")
    actions = sandbox.add_subparsers(dest="action", required=True, metavar="ACTION")
    build_help = "Render the synthetic Earth into files and a static STAC catalog."
    build = actions.add_parser("build", help=build_help, description=build_help)
    build.add_argument("--path", default="runs/sandbox/sandbox", help="target folder (default: %(default)s)")
    build.add_argument(
        "--size",
        choices=("tiny", "small", "large"),
        default="small",
        help="side of the region: 2.6, 10 or 30 km (default: %(default)s)",
    )
    build.add_argument("--seed", type=int, default=7, help="another number is another Earth (default: %(default)s)")
    build.add_argument("--workers", type=int, default=2, help="processes that render (default: %(default)s)")
    serve_help = "Serve a static catalog as a STAC API with byte-range assets."
    serve = actions.add_parser("serve", help=serve_help, description=serve_help)
    serve.add_argument(
        "--catalog", default="runs/sandbox/sandbox/catalog", help="static catalog folder (default: %(default)s)"
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8591, help="port to listen at; 0: a free one (default: %(default)s)")
    serve.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=P",
        help="strike requests with probability P, e.g. unavailable=0.05, or with P and more, e.g. "
        f"'latency={{probability: 0.5, seconds: 2}}' (repeatable); NAME: {', '.join(FAULTS)}",
    )
    submit = add(
        "submit",
        "Run a stage as a job of a Ray cluster (ray job submit), follow its log, pass on its status.",
        SUBMIT_EPILOG,
    )
    submit.add_argument("stage", choices=("plan", "ingest", "train", "embed", "evaluate", "run"), help="what to run")
    with_config(submit)
    submit.add_argument("--address", help="dashboard address of the cluster (default: RAY_API_SERVER_ADDRESS)")
    submit.add_argument("--job-id", help="fixed submission id: submitting it twice runs it once")
    submit.add_argument("--no-wait", action="store_true", help="return once submitted")
    doctor = add(
        "doctor",
        "Check this machine: packages, GDAL, disk, memory, port, GPU, credentials; with --config root and catalogs.",
    )
    with_config(doctor, required=False)
    return parser


def _stage(name: str) -> Callable[..., int]:
    # Ray reads this when it is imported. Anyone who reaches an unguarded cluster can run code on it.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Ray and torch take seconds to import; help and configuration errors must not wait for them.
    from pipelines.stages import commands

    return getattr(commands, name)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _dispatch(options)
    except (ConfigError, OSError, ValueError) as error:
        if os.environ.get("AEF_TRACEBACK"):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        file = getattr(options, "config", None)
        if isinstance(error, ConfigError | ConnectionError) and file and not text.startswith((f"{file}: ", "--")):
            text = f"{file}: {text}"
        print(f"aef {options.command}: error: {text}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("aef: interrupted; what was committed is kept, run the same command to continue", file=sys.stderr)
        return 130


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "sandbox":
        return _stage("sandbox")(options)
    if options.command == "doctor":
        from pipelines.doctor import check

        if options.overrides and not options.config:
            raise ConfigError("--set overrides values of a configuration: give --config FILE too")
        return check(load_config(options.config, options.overrides) if options.config else None)
    config: Config = load_config(options.config, options.overrides)
    if options.command == "submit":
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        from cluster.submit import submit

        return submit(options, config)
    if options.command in ("status", "verify", "view"):
        return _stage(options.command)(config, options)
    return _stage("run_stages")(config, options)


if __name__ == "__main__":
    sys.exit(main())

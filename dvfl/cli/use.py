"""A trained network put to use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dvfl.cli.common import say, with_config

if TYPE_CHECKING:
    from dvfl.config import Config


@click.command()
@click.argument("clips", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--run", "directory", required=True, type=click.Path(path_type=Path), help="Directory of a trained run.")
@click.option("--top", default=5, show_default=True, help="Classes to print.")
@click.option("--plugin", "plugins", multiple=True, help="Module or .py file that registers the run's model.")
def predict(clips: tuple[Path, ...], directory: Path, top: int, plugins: tuple[str, ...]) -> None:
    """What is happening in this clip? The most probable classes of CLIPS, by a trained run."""
    from dvfl.evaluate.job import predict_clip
    from dvfl.models.plugins import import_plugin

    for plugin in plugins:
        import_plugin(plugin)
    for clip in clips:
        for class_name, probability in predict_clip(clip, directory, top):
            click.echo(
                f"{clip}\t{probability:6.1%}\t{class_name}" if len(clips) > 1 else f"{probability:6.1%}  {class_name}"
            )


@click.command()
@with_config
@click.option("--run", "directory", required=True, type=click.Path(path_type=Path), help="Directory of a trained run.")
@click.option(
    "--format", "format_", type=click.Choice(["onnx"]), default="onnx", show_default=True, help="Of the file."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "int8"]),
    default="float32",
    show_default=True,
    help="What the file computes in.",
)
def export(config: Config, directory: Path, format_: str, precision: Any) -> None:
    """Write a run's network for ONNX Runtime and OpenVINO: RUN/export/PRECISION.onnx, checked on the run's clips."""
    from dvfl.deploy.check import Agreement
    from dvfl.deploy.job import export_run
    from dvfl.plan import parse_run

    report = export_run(config, parse_run(config, directory), precision)
    click.echo(report["file"])
    say(f"{report['bytes'] / 1e6:.1f} MB, checked on {report['compared_on']} clips")
    for runtime, found in report["agreement"].items():
        say(f"  {runtime}: {Agreement(**found)}")
    if validation := report.get("validation"):
        top1 = ", ".join(f"{name} {value:.1%}" for name, value in validation["top1"].items())
        seen = ", which the run trained on" if validation["trained_on"] else ""
        say(f"  top-1 on {validation['clips']} validation clips{seen}: {top1}")

"""The commands: each parses, calls and prints. A module for each stage holds its commands; here is their order.

Imports stand inside the commands, so that `dvfl --help` does not wait for PyTorch.
"""

from __future__ import annotations

import sys

import click

from dvfl.cli import ablate, data, evaluate, measure, pipeline, provenance, report, settings, train, use
from dvfl.cli.common import say

IN_ORDER = [
    [settings.config, settings.protocol, settings.runs, settings.tracking],
    [data.await_, data.fetch, data.fetch_weights, data.index, data.split, data.frames, data.fingerprint, data.audit],
    [train.train, train.targets],
    [evaluate.test, evaluate.score, evaluate.motion_check],
    [ablate.trial, ablate.tune, ablate.choose, ablate.tune_figure],
    [measure.profile, measure.bench, measure.growth, measure.released_loss],
    [report.protocol_effects, report.tables, report.figures, report.summary],
    [provenance.trace, provenance.verify, provenance.pack],
    [report.report, pipeline.ui],
    [use.predict, use.export],
    [pipeline.results],
]


class InPipelineOrder(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InPipelineOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="dvfl")
def cli() -> None:
    """Distil video recognisers, and say how sure the result is.

    The whole pipeline is `snakemake --cores 8 results/tables/all.csv`; each command below does one of its steps by
    hand. RUN is a run's directory, such as results/runs/motions/split1/as_described/student/seed0.
    """


for stage in IN_ORDER:
    for command in stage:
        cli.add_command(command)


def main() -> None:
    """Runs a command; what the user can mend ends in one line, not in a traceback."""
    import gc
    import signal

    from dvfl.errors import UserError, is_users_to_mend
    from dvfl.files import in_words

    gc.set_threshold(20_000)  # imports leave no garbage: looking for it often is a tenth of a start
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the jobs' shell ignores it, so that its commands can decide
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("dvfl: stopped; what is finished is kept, and the same command goes on from there")
        sys.exit(130)
    except Exception as error:
        if not is_users_to_mend(error):
            raise
        for line in in_words(error).splitlines() or [repr(error)]:
            say(f"dvfl: {line}")
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)

"""DVFL-Net from clips to tables. Every rule's work is one `dvfl` command; which runs there are is in dvfl/plan.py."""

from dvfl import paths, plan, steps, stores
from dvfl.launch import any_of, check_partitions, config_for_jobs, resources_of, restrict_to_machine


configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow/report/workflow.rst"


CONFIG = config_for_jobs(config, workflow)
needs = resources_of(workflow, CONFIG)
restrict_to_machine(workflow)
check_partitions(workflow)

# SLURM sends SIGTERM to every process of a job, and a terminal Ctrl-C. The shell and `tee` outlive the one, `tee -i` the
# other, so that the command can say and save.
shell.prefix("set -euo pipefail; trap '' TERM; ")


wildcard_constraints:
    dataset=r"[\w.-]+",
    split=r"[\w.-]+",
    shard=r"\d+",
    shards=r"\d+",
    store=r"\d+px_[a-z]+_q\d+",
    study=r"[\w.-]+",
    model=r"(timm/)?[\w.=-]+",


rule all:
    default_target: True
    input:
        tables="results/tables/all.csv",
        figures=[f"results/figures/{figure}.png" for figure in steps.FIGURES],


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/ablate.smk"
include: "workflow/rules/profile.smk"
include: "workflow/rules/report.smk"

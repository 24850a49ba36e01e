"""DVFL-Net from clips to tables. Every rule's work is one `dvfl` command; what there is to run is in dvfl/plan.py."""

from dvfl import plan, steps
from dvfl.launch import config_for_jobs, restrict_to_machine, usable_cores


configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow/report/workflow.rst"


CONFIG = config_for_jobs(config)
restrict_to_machine(workflow)


wildcard_constraints:
    dataset=r"[\w.-]+",
    split=r"[\w.-]+",
    shard=r"\d+",
    shards=r"\d+",
    store=r"\d+px_q\d+",
    study=r"[\w.-]+",
    model=r"(timm/)?[\w.-]+",


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

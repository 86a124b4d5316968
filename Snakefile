from snakemake.utils import min_version, validate

import rpg.workflow as ask

min_version("9.0")


# Not `configfile:`; rpg.params is the only reader of params.yaml.
config.update(ask.config())
validate(config, "workflow/schemas/params.schema.json")


wildcard_constraints:
    experiment=r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)?",
    ablation=r"[a-z0-9][a-z0-9_-]*",
    shard=r"\d+-\d+",


include: "workflow/rules/base.smk"
include: "workflow/rules/zoo.smk"
include: "workflow/rules/collect.smk"
include: "workflow/rules/tokens.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/tune.smk"
include: "workflow/rules/hypernetwork.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/novelty.smk"
include: "workflow/rules/ablation.smk"
include: "workflow/rules/ablations.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/report.smk"


ask.distrust_tables()


# Large pages for tensors, by glibc: a training step takes 5 to 8 % less. Elsewhere nobody reads it.
shell.prefix("export GLIBC_TUNABLES=glibc.malloc.hugetlb=1; ")


onstart:
    # Snakemake 9's limit of jobs per second starts a timer with every job, each of which has all jobs looked at once a
    # second until the end: a tenth of a core (snakemake/snakemake issue 2967). What runs here needs no limit.
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


rule all:
    default_target: True
    input:
        "results/tables.md",

from snakemake.utils import min_version

import rpg.pipeline.workflow as pipeline

# Releases before 9.1.4 overlook changed params.
min_version("9.1.4")


# Not `configfile:`, because only rpg.config.loading reads params.yaml; it also validates against the schema.
config.update(pipeline.load_config(config))
pipeline.prepare(config)
shell.prefix(pipeline.COMMAND_PREFIX)


wildcard_constraints:
    experiment=r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)?",
    ablation=r"[a-z0-9][a-z0-9_-]*",
    joint=r"[a-z0-9][a-z0-9_-]*",
    shard=r"\d+-\d+",


include: "workflow/rules/stages.smk"
include: "workflow/rules/tables.smk"


onstart:
    pipeline.start(workflow)


rule all:
    default_target: True
    input:
        "results/tables.md",

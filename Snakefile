from snakemake.utils import min_version, validate

import rpg.workflow as ask

min_version("9.0")


# Not `configfile:`; rpg.params is the only reader of params.yaml.
config.update(ask.config(config))
validate(config, "workflow/schemas/params.schema.json")
ask.prepare(config)
shell.prefix(ask.COMMAND_PREFIX)


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


onstart:
    ask.start(workflow)


rule all:
    default_target: True
    input:
        "results/tables.md",

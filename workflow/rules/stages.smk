# One rule per stage of an experiment; rpg/stages.py lists the stage's inputs and outputs. Snakemake evaluates `shell` when
# a job starts, after the loop, so `shell` must not use the loop's variable.
for stage in pipeline.STAGES.values():

    rule:
        name:
            stage.name
        input:
            pipeline.inputs(stage.name),
        output:
            **{
                name: ensure(path, non_empty=True)
                for name, path in pipeline.outputs(stage.name).items()
            },
        log:
            pipeline.job_path(stage.name, "logs", ".log"),
        priority: pipeline.priority(stage.name, config)
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=pipeline.memory(stage.name, config),
            runtime=pipeline.runtime(stage.name, config),
            gpu=0,
        params:
            values=pipeline.values(stage.name),
            verb=stage.name,
            shard=pipeline.shard_option(stage.name),
            usage=pipeline.job_path(stage.name, "logs", ".tsv"),
        shell:
            "env RPG_PROCESSES={resources.gpu} RPG_USAGE={params.usage:q} python -m rpg {params.verb}"
            " --experiment {wildcards.experiment:q}{params.shard} --threads {threads} >{log:q} 2>&1"

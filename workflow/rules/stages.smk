# One rule for each stage of an experiment; rpg/stages.py says what it reads and writes.
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
            pipeline.wildcard_path(stage.name, "logs", ".log"),
        benchmark:
            pipeline.wildcard_path(stage.name, "logs", ".tsv")
        priority: stage.priority
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=pipeline.memory(stage.name, config),
            runtime=pipeline.runtime(stage.name, config),
            gpu=0,
        params:
            values=pipeline.values(stage.name),
        shell:
            pipeline.command(stage.name)

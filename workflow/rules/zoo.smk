rule zoo:
    input:
        ask.extra("zoo"),
        code=ask.code("zoo"),
    output:
        ensure("results/{experiment}/zoo/{shard}/manifest.json", non_empty=True),
    log:
        "logs/{experiment}/zoo-{shard}.log",
    benchmark:
        "logs/{experiment}/zoo-{shard}.tsv"
    priority: 70
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=ask.memory(2000, ask.experiments(config)),
        runtime=ask.runtime(60, ask.experiments(config)),
        gpu=0,
    params:
        choices=ask.recipe,
    shell:
        "python -m rpg zoo --experiment {wildcards.experiment:q} --shard {wildcards.shard:q}"
        " --threads {threads} >{log:q} 2>&1"

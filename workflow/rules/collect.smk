rule collect:
    input:
        ask.manifests,
        ask.extra("collect"),
        code=ask.code("collect"),
    output:
        ensure("results/{experiment}/zoo/checkpoints.json", non_empty=True),
    log:
        "logs/{experiment}/collect.log",
    benchmark:
        "logs/{experiment}/collect.tsv"
    priority: 60
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=ask.memory(1000),
        runtime=ask.runtime(30),
    params:
        choices=ask.choices("collect"),
    shell:
        "python -m rpg collect --experiment {wildcards.experiment:q} >{log:q} 2>&1"

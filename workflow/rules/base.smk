rule base:
    input:
        ask.extra("base"),
        code=ask.code("base"),
    output:
        ensure("results/{experiment}/base/manifest.json", non_empty=True),
    log:
        "logs/{experiment}/base.log",
    benchmark:
        "logs/{experiment}/base.tsv"
    priority: 80
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=ask.memory(2000),
        runtime=ask.runtime(240),
        gpu=0,
    params:
        choices=ask.choices("base"),
    shell:
        "python -m rpg base --experiment {wildcards.experiment:q} --threads {threads} >{log:q} 2>&1"
